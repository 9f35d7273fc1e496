"""What tests of `LocalStorage` share: a store below the test's own folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from storage.images.local import LocalStorage


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "photos"


@pytest.fixture
def storage(root: Path) -> LocalStorage:
    return LocalStorage(root)
