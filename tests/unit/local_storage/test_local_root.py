"""The root of a `LocalStorage`: made, found, gone; what a storage loads."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from local_verbs import call, keys_of, posix_only

from storage.errors import (
    StorageError,
    StorageUnavailable,
)
from storage.images.local import LocalStorage


def test_the_root_is_made_with_its_parents(tmp_path: Path) -> None:
    LocalStorage(tmp_path / "a" / "b").put("tom.jpg", b"tom")
    assert (tmp_path / "a" / "b" / "tom.jpg").read_bytes() == b"tom"


def test_without_create_a_missing_root_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"photos is no folder: create it, or check the path"):
        LocalStorage(tmp_path / "photos", create=False)
    assert not (tmp_path / "photos").exists()


@pytest.mark.parametrize("create", [True, False])
def test_a_file_is_no_root(tmp_path: Path, create: bool) -> None:
    (tmp_path / "file").write_bytes(b"")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(StorageError, match="file"):
            LocalStorage(path, create=create)


def test_a_relative_root_stays_where_it_was_when_the_process_moves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    storage = LocalStorage("photos")
    monkeypatch.chdir("/")
    storage.put("tom.jpg", b"tom")
    assert storage.root == tmp_path / "photos"
    assert (tmp_path / "photos" / "tom.jpg").exists()


def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert LocalStorage("~/photos").root == tmp_path / "photos"


@posix_only
def test_a_tilde_of_nobody_is_a_clear_error() -> None:
    with pytest.raises(StorageError, match="full path"):
        LocalStorage("~no-such-user-here/photos")


def test_a_root_that_is_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "photos").symlink_to("disk")
    storage = LocalStorage(tmp_path / "photos", create=False)
    storage.put("tom.jpg", b"tom")
    assert storage.root == tmp_path / "disk"
    assert keys_of(storage) == ["tom.jpg"]


@pytest.mark.parametrize("verb", ["get", "stat", "exists", "delete"])
def test_a_root_that_went_away_is_not_an_empty_store(storage: LocalStorage, root: Path, verb: str) -> None:
    """Else an unmounted disk would look as if every photo had been deleted."""
    storage.put("tom.jpg", b"tom")
    root.rename(root.with_name("unmounted"))
    with pytest.raises(StorageUnavailable, match="mounted"):
        call(storage, verb, "tom.jpg")
    with pytest.raises(StorageUnavailable, match="mounted"):
        keys_of(storage)


def test_local_storage_and_addresses_load_no_boto3() -> None:
    program = (
        "import sys, storage.images.local, storage.images.locate;"
        "sys.exit(any(name.split('.')[0] in ('boto3', 'botocore') for name in sys.modules))"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=180)
