"""A folder that this process may not read, also where tests run as root, whom no permission stops."""

from __future__ import annotations

import os
from typing import Any

import pytest


def close_folder(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Let every folder of this name refuse to be listed, until `monkeypatch.undo()`."""
    real = os.scandir

    def scandir(path: str) -> Any:
        if os.path.basename(path) == name:  # noqa: PTH119 - may be text
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr("storage.images.local_listing.os.scandir", scandir)
