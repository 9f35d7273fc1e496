"""Writes are whole or not there, whatever is killed, full or named oddly."""

from __future__ import annotations

import errno
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from local_verbs import VERBS, call, keys_of, posix_only

from storage.errors import (
    InvalidKey,
    StorageUnavailable,
)
from storage.images.local import LocalStorage


def test_readers_and_listings_never_see_a_part_of_a_write(storage: LocalStorage) -> None:
    versions = {bytes([value]) * (100_000 + value) for value in range(4)}
    storage.put("tom.jpg", min(versions))

    def write() -> None:
        for _round in range(15):
            for version in versions:
                storage.put("tom.jpg", version)

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write)
        while not writing.done():
            assert storage.get("tom.jpg") in versions
            (listed,) = storage.list()
            assert listed.size_bytes in {len(version) for version in versions}
        writing.result()


def test_a_write_that_fails_leaves_the_old_image_and_nothing_else(
    storage: LocalStorage, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.put("tom.jpg", b"old")

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageUnavailable, match="No space left"):
        storage.put("tom.jpg", b"new")
    assert storage.get("tom.jpg") == b"old"
    assert [path.name for path in root.iterdir()] == ["tom.jpg"]


def test_what_a_killed_write_left_is_no_image(storage: LocalStorage, root: Path) -> None:
    (root / ".visual-search-0123456789abcdef.part").write_bytes(b"half an ima")
    assert keys_of(storage) == []
    for verb in VERBS:
        with pytest.raises(InvalidKey, match="unfinished"):
            call(storage, verb, ".visual-search-0123456789abcdef.part")


def test_ordinary_hidden_files_are_images(storage: LocalStorage) -> None:
    storage.put(".hidden/.tom.jpg", b"tom")
    assert keys_of(storage) == [".hidden/.tom.jpg"]


def test_put_refuses_a_folders_name_and_a_file_as_folder(storage: LocalStorage) -> None:
    storage.put("cats/tom.jpg", b"tom")
    with pytest.raises(InvalidKey, match="is a folder"):
        storage.put("cats", b"")
    with pytest.raises(InvalidKey, match="a file stands there"):
        storage.put("cats/tom.jpg/inside.jpg", b"")
    with pytest.raises(InvalidKey, match="a file stands there"):
        storage.put("cats/tom.jpg/deeper/inside.jpg", b"")


def test_a_name_too_long_for_the_file_system_is_no_valid_key(storage: LocalStorage) -> None:
    for verb in VERBS:
        with pytest.raises(InvalidKey):
            call(storage, verb, "n" * 300)


@posix_only
def test_the_users_umask_decides_who_may_read_a_stored_image(storage: LocalStorage, root: Path) -> None:
    before = os.umask(0o027)
    try:
        storage.put("tom.jpg", b"tom")
    finally:
        os.umask(before)
    assert stat.S_IMODE((root / "tom.jpg").stat().st_mode) == 0o640


@posix_only
def test_versions_of_equal_size_written_within_one_tick_of_the_clock_have_different_etags(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here the clock stands still, for three versions: the third must not look like the first either."""
    really_sync = os.fsync

    def sync_and_stop_the_clock(descriptor: int) -> None:
        really_sync(descriptor)
        os.utime(descriptor, ns=(10**18, 10**18))

    monkeypatch.setattr(os, "fsync", sync_and_stop_the_clock)
    etags = [storage.put("tom.jpg", version).etag for version in (b"one", b"two", b"six")]
    assert len(set(etags)) == 3
    assert storage.stat("tom.jpg").etag == etags[-1]
