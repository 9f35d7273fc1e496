"""Stores that are full, keep other bytes, cannot be listed, or were left with files by a crash."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from snapshot_steps import PART_BYTES, commit, fresh, publish

from pipeline.replica import IndexReplica
from storage.catalog import Catalog, Generation
from storage.errors import IndexFileError, StorageError, StorageUnavailable
from storage.images.local import LocalStorage
from storage.snapshots import SnapshotStore


class FailingDisk(LocalStorage):
    """A folder whose disk fails at the n-th write or read: full, or keeping other bytes than it was given."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.before_put: Callable[[bytes], bytes] = lambda data: data
        self.listing = True

    def put(self, key: str, data: bytes):
        return super().put(key, self.before_put(data))

    def list(self, prefix: str = ""):
        if not self.listing:
            raise StorageUnavailable("the disk went away")
        return super().list(prefix)


def test_a_disk_that_fills_up_leaves_the_snapshot_before_it_and_no_files(
    catalog: Catalog, generation: Generation, tmp_path: Path
) -> None:
    disk = FailingDisk(tmp_path / "disk")
    store = SnapshotStore(catalog, disk, part_bytes=PART_BYTES)
    commit(catalog, generation, "abc")
    publish(catalog, generation, store)
    before = [one.key for one in disk.list()]
    commit(catalog, generation, "defghijklmnop")
    for free in range(6):  # of the shape, the two parts of the vectors, those of the ids and the manifest
        left = iter(range(free))

        def full(data: bytes, left=left) -> bytes:
            if next(left, None) is None:
                raise StorageUnavailable("No space left on device")
            return data

        disk.before_put = full
        with pytest.raises(StorageError, match="No space"):
            publish(catalog, generation, store)
        assert [one.key for one in disk.list()] == before
    disk.before_put = lambda data: data
    assert [record.seq for record, _ in store.valid(fresh(catalog, generation))] == [3]
    assert publish(catalog, generation, store) == 16


def test_a_disk_that_keeps_other_bytes_is_found_out_before_the_row_is_written(
    catalog: Catalog, generation: Generation, tmp_path: Path
) -> None:
    disk = FailingDisk(tmp_path / "disk")
    disk.before_put = lambda data: data[:-1] + b"?"
    commit(catalog, generation, "abc")
    with pytest.raises(IndexFileError, match="other bytes"):
        publish(catalog, generation, SnapshotStore(catalog, disk))
    assert catalog.snapshots.newest(generation.id) is None
    assert not list(disk.list())


def test_a_store_that_cannot_be_listed_keeps_old_files_until_later(
    catalog: Catalog, generation: Generation, tmp_path: Path
) -> None:
    disk = FailingDisk(tmp_path / "disk")
    store = SnapshotStore(catalog, disk)
    replica = IndexReplica(catalog, generation)
    disk.listing = False
    for names in ("a", "b", "c"):
        commit(catalog, generation, names)
        replica.catch_up()
        replica.publish(store)
    assert len(catalog.snapshots.list(generation.id)) == 2
    disk.before_put = lambda _: b""
    with pytest.raises(IndexFileError):
        replica.publish(store)


def test_files_left_by_a_crash_are_removed_after_a_day(
    catalog: Catalog, generation: Generation, tmp_path: Path
) -> None:
    disk = LocalStorage(tmp_path / "disk")
    store = SnapshotStore(catalog, disk)
    commit(catalog, generation, "abc")
    publish(catalog, generation, store)
    folder = next(disk.list()).key.split("/")[0]
    old, young = (disk.put(f"{folder}/{1:020d}-{name}-vectors", b"x").key for name in ("old", "young"))
    elsewhere = disk.put("generation-of-another-catalog/file", b"x").key
    half, half_young = (disk.root / folder / f".visual-search-{name}.part" for name in ("old", "young"))
    for path in (half, half_young):
        path.write_bytes(b"x")
    for path in (disk.root / old, disk.root / elsewhere, half):
        os.utime(path, times=(time.time() - 90_000,) * 2)
    commit(catalog, generation, "def")
    publish(catalog, generation, store)
    keys = {one.key for one in disk.list()}
    assert old not in keys
    assert {young, elsewhere} <= keys
    assert (half.exists(), half_young.exists()) == (False, True)


def test_a_file_removed_by_another_process_meanwhile_does_no_harm(
    catalog: Catalog, generation: Generation, tmp_path: Path
) -> None:
    class TwiceListed(LocalStorage):
        def list(self, prefix: str = ""):
            found = [*super().list(prefix)]
            return iter([*found, *found])

    store = SnapshotStore(catalog, TwiceListed(tmp_path / "disk"))
    replica = IndexReplica(catalog, generation)
    for names in ("a", "b", "c"):
        commit(catalog, generation, names)
        replica.catch_up()
        replica.publish(store)
    assert [record.seq for record in catalog.snapshots.list(generation.id)] == [3, 2]
