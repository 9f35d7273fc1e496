"""Only regular files are read, and none beyond the cap on bytes."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from local_verbs import call, keys_of, linux_only, posix_only

from storage.errors import (
    ImageTooLarge,
    StorageDenied,
)
from storage.images.local import LocalStorage


@posix_only
@pytest.mark.parametrize("kind", ["fifo", "socket"])
def test_special_files_are_refused_without_waiting(
    storage: LocalStorage, root: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)  # a socket's path is at most 108 bytes long
    if kind == "fifo":
        os.mkfifo("odd.jpg")
    else:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind("odd.jpg")
    for verb in ("get", "stat", "delete"):
        with pytest.raises(StorageDenied, match="only regular files"):
            call(storage, verb, "odd.jpg")
    assert not storage.exists("odd.jpg")
    assert keys_of(storage) == []


@posix_only
def test_a_fifo_that_takes_a_files_place_at_the_last_moment_does_not_block(
    storage: LocalStorage, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.put("odd.jpg", b"tom")
    really_open = os.open

    def swapped(path: Path, flags: int) -> int:
        path.unlink()
        os.mkfifo(path)
        return really_open(path, flags)

    monkeypatch.setattr(os, "open", swapped)
    with pytest.raises(StorageDenied, match="only regular files"):
        storage.get("odd.jpg")


def test_a_file_beyond_the_cap_is_refused_by_its_size(root: Path) -> None:
    LocalStorage(root).put("big.jpg", bytes(101))
    with pytest.raises(ImageTooLarge, match="cap of 100 bytes"):
        LocalStorage(root, max_bytes=100).get("big.jpg")


def test_a_file_that_grows_while_it_is_read_is_stopped_at_the_cap(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = LocalStorage(root, max_bytes=200_000)
    storage.put("log.jpg", bytes(1_000))
    really_read, read_bytes = os.read, []

    def growing(descriptor: int, count: int) -> bytes:
        with (root / "log.jpg").open("ab") as file:
            file.write(bytes(100_000))
        data = really_read(descriptor, count)
        read_bytes.append(len(data))
        return data

    monkeypatch.setattr(os, "read", growing)
    with pytest.raises(ImageTooLarge):
        storage.get("log.jpg")
    assert sum(read_bytes) == 200_001


@linux_only
def test_a_file_that_says_it_is_empty_is_read_to_its_end() -> None:
    """Files in /proc have size 0 and content."""
    assert LocalStorage("/proc/self", create=False).get("status").startswith(b"Name:")
    with pytest.raises(ImageTooLarge):
        LocalStorage("/proc/self", create=False, max_bytes=10).get("status")
