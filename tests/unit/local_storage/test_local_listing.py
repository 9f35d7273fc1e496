"""Listings while the tree changes, of deep trees and of names that are no text."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from local_verbs import keys_of, linux_only

from storage.images.local import LocalStorage


def test_files_and_folders_that_vanish_while_listing_are_left_out(storage: LocalStorage, root: Path) -> None:
    for key in ("a.jpg", "b.jpg", "c/d.jpg", "e.jpg"):
        storage.put(key, b"")
    listing = storage.list()
    assert next(listing).key == "a.jpg"
    storage.delete("b.jpg")
    shutil.rmtree(root / "c")
    assert [stored.key for stored in listing] == ["e.jpg"]


def test_a_folder_replaced_by_a_file_while_listing_is_left_out(storage: LocalStorage, root: Path) -> None:
    for key in ("a.jpg", "c/d.jpg"):
        storage.put(key, b"")
    listing = storage.list()
    next(listing)
    shutil.rmtree(root / "c")
    (root / "c").write_bytes(b"")
    assert list(listing) == []


def test_a_tree_deeper_than_the_recursion_limit_is_listed(storage: LocalStorage) -> None:
    key = "d/" * 200 + "tom.jpg"
    storage.put(key, b"")
    limit, depth = sys.getrecursionlimit(), 0
    frame = sys._getframe()
    while frame := frame.f_back:
        depth += 1
    sys.setrecursionlimit(depth + 100)
    try:
        keys = keys_of(storage)
    finally:
        sys.setrecursionlimit(limit)
    assert keys == [key]


@linux_only
def test_names_that_are_no_text_are_listed_read_and_deleted_under_an_escaped_key(
    storage: LocalStorage, root: Path
) -> None:
    for name in (b"latin1-\xe4.jpg", b"line\nbreak.jpg", b"back\\slash.jpg", b"del\x7f.jpg"):
        Path(os.fsdecode(os.fsencode(root) + b"/" + name)).write_bytes(name)
    listed = {stored.key: storage.get(stored.key) for stored in storage.list()}
    assert listed == {
        r"back\x5cslash.jpg": b"back\\slash.jpg",
        r"del\x7f.jpg": b"del\x7f.jpg",
        r"latin1-\udce4.jpg": b"latin1-\xe4.jpg",
        r"line\x0abreak.jpg": b"line\nbreak.jpg",
    }
    for key in listed:
        storage.delete(key)
    assert list(root.iterdir()) == []


@linux_only
def test_a_name_that_only_looks_escaped_is_another_file(storage: LocalStorage, root: Path) -> None:
    (root / "a\nb").write_bytes(b"line break")
    (root / r"a\x0ab").write_bytes(b"backslash")
    assert keys_of(storage) == [r"a\x0ab", r"a\x5cx0ab"]
    assert storage.get(r"a\x0ab") == b"line break"
    assert storage.get(r"a\x5cx0ab") == b"backslash"
