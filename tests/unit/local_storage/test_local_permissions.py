"""Folders and files without permission, and what the system's errors become."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from local_verbs import VERBS, call, keys_of, posix_only

from storage.errors import (
    ImageNotFound,
    InvalidKey,
    StorageDenied,
    StorageError,
    StorageUnavailable,
)
from storage.images.local import LocalStorage
from storage.images.local_files import as_storage_error


@contextmanager
def _as_ordinary_user() -> Iterator[None]:
    """Root may read everything, so it becomes nobody for a while."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def open_root() -> Iterator[Path]:
    """A folder that any user may read, which pytest's own are not."""
    path = Path(tempfile.mkdtemp())
    path.chmod(0o755)
    yield path
    for folder, _folders, _files in os.walk(path):
        Path(folder).chmod(0o755)
    shutil.rmtree(path)


@posix_only
def test_a_folder_without_permission_stops_the_listing_and_says_which(open_root: Path) -> None:
    """A listing with a silent hole would look complete."""
    storage = LocalStorage(open_root)
    storage.put("a.jpg", b"")
    storage.put("locked/b.jpg", b"")
    (open_root / "locked").chmod(0)
    with _as_ordinary_user():
        listing = storage.list()
        assert next(listing).key == "a.jpg"
        with pytest.raises(StorageDenied, match=r"locked: Permission denied; give this user permission"):
            next(listing)
        assert keys_of(storage, "a") == ["a.jpg"]
        for verb in VERBS:
            with pytest.raises(StorageDenied):
                call(storage, verb, "locked/b.jpg")
        with pytest.raises(StorageError):
            LocalStorage(open_root / "locked" / "deeper", create=False)
        with pytest.raises(StorageDenied):
            LocalStorage(open_root / "locked" / "deeper")


@posix_only
def test_a_folder_whose_files_may_not_be_seen_stops_the_listing(open_root: Path) -> None:
    storage = LocalStorage(open_root)
    storage.put("names-only/b.jpg", b"")
    (open_root / "names-only").chmod(0o444)
    with _as_ordinary_user(), pytest.raises(StorageDenied, match="names-only"):
        keys_of(storage)


@posix_only
def test_a_file_without_permission_is_listed_and_fails_when_read(open_root: Path) -> None:
    storage = LocalStorage(open_root)
    storage.put("locked.jpg", b"")
    (open_root / "locked.jpg").chmod(0)
    open_root.chmod(0o555)
    with _as_ordinary_user():
        assert keys_of(storage) == ["locked.jpg"]
        assert storage.exists("locked.jpg")
        for verb in ("get", "put", "delete"):
            with pytest.raises(StorageDenied, match="Permission denied"):
                call(storage, verb, "locked.jpg")


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (errno.EIO, StorageUnavailable),
        (errno.ESTALE, StorageUnavailable),
        (errno.EMFILE, StorageUnavailable),
        (errno.EACCES, StorageDenied),
        (errno.ENOENT, ImageNotFound),
        (errno.ENOTDIR, ImageNotFound),
        (errno.EILSEQ, InvalidKey),
        (errno.ELOOP, InvalidKey),
    ],
)
def test_what_the_system_says_is_translated(number: int, expected: type[StorageError]) -> None:
    error = as_storage_error(OSError(number, os.strerror(number)), Path("tom.jpg"))
    assert type(error) is expected
    assert os.strerror(number) in str(error)


def test_a_file_that_another_program_holds_on_windows_can_be_tried_again() -> None:
    error = PermissionError(errno.EACCES, "The process cannot access the file")
    error.winerror = 32  # type: ignore[attr-defined]
    assert as_storage_error(error, Path("tom.jpg")).retryable
