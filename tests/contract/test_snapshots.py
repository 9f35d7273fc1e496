"""Snapshots of the index: published whole or not at all, and never needed."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from buckets import Bucket
from catalog_batches import MODEL, failure, indexed, state_of_follower
from servers import wait_for

from pipeline import replica as replica_module
from pipeline.replica import IndexReplica
from storage.catalog import Catalog, Generation, IndexBatch, PublishedFile
from storage.errors import IndexFileError, SnapshotDamaged, StorageError, StorageUnavailable
from storage.images.backend import StorageBackend
from storage.images.local import LocalStorage
from storage.images.s3 import S3Storage
from storage.index_manifest import manifest_bytes, parse_manifest
from storage.mapped_vectors import LiveVectors
from storage.snapshot_files import SnapshotFiles
from storage.snapshots import SnapshotStore
from workers.index_keeper import IndexKeeper, SnapshotPolicy

PART_BYTES = 300  # a few vectors, so that every file has several parts


@pytest.fixture(params=["local", "s3"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> StorageBackend:
    if request.param == "local":
        return LocalStorage(tmp_path / "snap shots")
    bucket: Bucket = request.getfixturevalue("s3_bucket")
    return S3Storage(bucket.name, "some/where", endpoint_url=bucket.endpoint_url)


@pytest.fixture
def store(catalog: Catalog, backend: StorageBackend) -> SnapshotStore:
    return SnapshotStore(catalog, backend, part_bytes=PART_BYTES)


def commit(catalog: Catalog, generation: Generation, names: str, seed: int = 0) -> None:
    images = [indexed(name, seed + number) for number, name in enumerate(names)]
    catalog.commit(generation.id, IndexBatch(upserts=images))


def fresh(catalog: Catalog, generation: Generation) -> Generation:
    found = catalog.generations.active(generation.collection_id)
    assert found is not None
    return found


def publish(catalog: Catalog, generation: Generation, store: SnapshotStore) -> int:
    replica = IndexReplica.boot(catalog, fresh(catalog, generation), store)
    replica.publish(store)
    return replica.seq


def holds(replica: IndexReplica) -> dict[str, bytes]:
    return {image_id: replica.index.reconstruct(image_id).tobytes() for image_id in replica.index.ids()}


def damage(backend: StorageBackend, seq: int, name: str) -> None:
    """Flip one bit in a file of the snapshot at this change."""
    key = next(one.key for one in backend.list() if f"/{seq:020d}-" in one.key and name in one.key)
    data = bytearray(backend.get(key))
    data[len(data) // 2] ^= 4
    backend.put(key, bytes(data))


def test_a_replica_boots_from_a_snapshot_and_the_changes_behind_it(
    catalog: Catalog, generation: Generation, store: SnapshotStore
) -> None:
    commit(catalog, generation, "abcdefghijklmnopqrstuvwxyz")
    assert publish(catalog, generation, store) == 26
    catalog.images.delete(generation.collection_id, ["b"])
    commit(catalog, generation, "cz", seed=100)
    current = fresh(catalog, generation)
    [(record, saved)] = store.valid(current)
    assert (record.seq, record.count, len(saved.ids)) == (26, 26, 26)
    replica = IndexReplica.boot(catalog, current, store)
    assert replica.seq == current.last_seq == 29
    assert holds(replica) == state_of_follower(catalog, generation.id)


def test_an_empty_index_has_a_snapshot_too(catalog: Catalog, generation: Generation, store: SnapshotStore) -> None:
    commit(catalog, generation, "a")
    catalog.images.delete(generation.collection_id, ["a"])
    assert publish(catalog, generation, store) == 2
    [(record, saved)] = store.valid(fresh(catalog, generation))
    assert (record.seq, record.count, len(saved.ids), saved.parts) == (2, 0, 0, [])


@pytest.mark.parametrize("name", ["manifest.json", "rows.000000", "ids.000000", "shape.json"])
def test_a_damaged_snapshot_is_passed_over_for_the_one_before_it(
    catalog: Catalog, generation: Generation, store: SnapshotStore, backend: StorageBackend, name: str
) -> None:
    for names in ("abc", "def"):
        commit(catalog, generation, names)
        publish(catalog, generation, store)
    damage(backend, 6, name)
    current = fresh(catalog, generation)
    assert [record.seq for record, _ in store.valid(current)] == [3]
    assert holds(IndexReplica.boot(catalog, current, store)) == state_of_follower(catalog, generation.id)
    damage(backend, 3, name)
    assert not list(store.valid(current))
    assert holds(IndexReplica.boot(catalog, current, store)) == state_of_follower(catalog, generation.id)


def test_a_snapshot_whose_files_are_gone_is_passed_over(
    catalog: Catalog, generation: Generation, store: SnapshotStore, backend: StorageBackend
) -> None:
    commit(catalog, generation, "abc")
    publish(catalog, generation, store)
    for stored in list(backend.list()):
        if "ids.000000" in stored.key:
            backend.delete(stored.key)
    assert not list(store.valid(fresh(catalog, generation)))
    for stored in list(backend.list()):
        backend.delete(stored.key)
    assert not list(store.valid(fresh(catalog, generation)))


def test_a_cut_off_last_part_is_damage(
    catalog: Catalog, generation: Generation, store: SnapshotStore, backend: StorageBackend
) -> None:
    commit(catalog, generation, "abcdefghijklmnopqrst")
    publish(catalog, generation, store)
    backend.delete(max(one.key for one in backend.list() if "rows.0" in one.key))
    assert not list(store.valid(fresh(catalog, generation)))


def test_only_the_newest_two_are_kept(
    catalog: Catalog, generation: Generation, store: SnapshotStore, backend: StorageBackend
) -> None:
    for names in ("abc", "def", "ghi", "jkl"):
        commit(catalog, generation, names)
        publish(catalog, generation, store)
    assert [record.seq for record in catalog.snapshots.list(generation.id)] == [12, 9]
    assert {one.key.split("/")[1].split("-")[0] for one in backend.list()} == {f"{9:020d}", f"{12:020d}"}


def test_a_snapshot_ahead_of_the_catalog_is_passed_over(
    catalog: Catalog, generation: Generation, store: SnapshotStore
) -> None:
    """A catalog restored from an older copy hands the same numbers to other changes."""
    commit(catalog, generation, "abc")
    publish(catalog, generation, store)
    assert not list(store.valid(generation))  # as it was read before the commit


def test_a_snapshot_of_another_model_is_passed_over(
    catalog: Catalog, generation: Generation, store: SnapshotStore
) -> None:
    other = MODEL.model_copy(update={"weights_fingerprint": "w9"})
    commit(catalog, generation, "abc")
    store.publish(generation, 3, replace(abc(), model=other))
    assert not list(store.valid(fresh(catalog, generation)))


def abc() -> LiveVectors:
    """Three vectors as an index hands them over."""
    rows = np.eye(3, 8, dtype=np.float32)
    return LiveVectors(8, MODEL, 0.0, ["a", "b", "c"], lambda start, stop: rows[start:stop])


UNUSABLE = {
    "an id twice": (replace(abc(), image_ids=["a", "b", "a"]), "twice"),
    "an empty id": (replace(abc(), image_ids=["a", "", "b"]), "empty"),
    "more ids than vectors": (replace(abc(), image_ids=["a", "b", "c", "d"]), "3 vectors, 4 ids"),
    "another dimension": (replace(abc(), dimension=5), "whole rows|vectors, 3 ids"),
    "vectors that are too long": (
        replace(abc(), rows=lambda start, stop: 2 * np.eye(3, 8, dtype=np.float32)[start:stop]),
        "unit length",
    ),
    "vectors that are no numbers": (
        replace(abc(), rows=lambda start, stop: np.full((stop - start, 8), np.nan, dtype=np.float32)),
        "unit length",
    ),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_contents_that_no_index_takes_are_passed_over(
    catalog: Catalog, generation: Generation, store: SnapshotStore, backend: StorageBackend, case: str
) -> None:
    """Every checksum fits, and yet the contents cannot be right: another program wrote them."""
    vectors, message = UNUSABLE[case]
    commit(catalog, generation, "abc")
    store.publish(generation, 3, vectors)
    forget_checks(backend)
    with pytest.raises(IndexFileError, match=message):
        store.load(catalog.snapshots.list(generation.id)[0], fresh(catalog, generation))
    replica = IndexReplica.boot(catalog, fresh(catalog, generation), store)
    assert holds(replica) == state_of_follower(catalog, generation.id)


def forget_checks(backend: StorageBackend) -> None:
    """As after a copy to another machine."""
    for stored in list(backend.list()):
        if stored.key.endswith("checked.json"):
            backend.delete(stored.key)


@pytest.mark.parametrize("lost", ["shape.json", "ids.000000"])
def test_a_snapshot_without_its_files_by_name_is_refused(
    catalog: Catalog, generation: Generation, store: SnapshotStore, backend: StorageBackend, lost: str
) -> None:
    commit(catalog, generation, "abc")
    publish(catalog, generation, store)
    [record] = catalog.snapshots.list(generation.id)
    key = next(one.key for one in backend.list() if one.key.endswith("manifest.json"))
    manifest = parse_manifest(backend.get(key), key)
    files = {name: entry for name, entry in manifest.files.items() if name != lost}
    data = manifest_bytes(manifest.model_copy(update={"files": files}))
    backend.put(key, data)
    forged = replace(record, sha256=hashlib.sha256(data).hexdigest())
    with pytest.raises(IndexFileError, match="another program"):
        store.load(forged, fresh(catalog, generation))


def test_a_row_that_points_into_another_store_is_passed_over(
    catalog: Catalog, generation: Generation, store: SnapshotStore
) -> None:
    commit(catalog, generation, "abc")
    catalog.snapshots.record(generation.id, PublishedFile(3, 3, "s3://other/place-manifest.json", "0" * 64))
    assert not list(store.valid(fresh(catalog, generation)))
    for names in ("def", "ghi"):
        commit(catalog, generation, names)
        publish(catalog, generation, store)
    assert [record.seq for record in catalog.snapshots.list(generation.id)] == [9, 6]


# --- a store that fails ---


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
    for key in (old, elsewhere):
        os.utime(disk.root / key, times=(time.time() - 90_000,) * 2)
    commit(catalog, generation, "def")
    publish(catalog, generation, store)
    keys = {one.key for one in disk.list()}
    assert old not in keys
    assert {young, elsewhere} <= keys


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


def test_a_random_history_boots_the_same_from_any_snapshot(
    catalog: Catalog, generation: Generation, store: SnapshotStore
) -> None:
    seed = 5
    print("seed", seed)
    rng = np.random.default_rng(seed)
    for step in range(12):
        names = "".join(sorted(set(rng.choice(list("abcdefghijklmnop"), 5))))
        if rng.random() < 0.3:
            catalog.images.delete(generation.collection_id, list(names))
        else:
            commit(catalog, generation, names, seed=100 * step)
        catalog.commit(generation.id, IndexBatch(failures=[failure("broken")]))
        if rng.random() < 0.5:
            publish(catalog, generation, store)
        replica = IndexReplica.boot(catalog, fresh(catalog, generation), store)
        assert holds(replica) == state_of_follower(catalog, generation.id)


# --- memory ---


def test_a_replica_that_publishes_rests_on_its_snapshot_where_that_can_be_mapped(
    catalog: Catalog, generation: Generation, store: SnapshotStore
) -> None:
    commit(catalog, generation, "abcdefghijkl")
    replica = IndexReplica.boot(catalog, fresh(catalog, generation), store)
    assert replica.index.own_rows == 12
    replica.publish(store)
    assert replica.index.own_rows == (0 if store.maps_files else 12)
    catalog.images.delete(generation.collection_id, ["b"])
    commit(catalog, generation, "cz", seed=100)
    replica.catch_up()
    assert holds(replica) == state_of_follower(catalog, generation.id)
    replica.publish(store)
    assert holds(replica) == state_of_follower(catalog, generation.id)


def test_a_replica_can_rest_anew_once_a_snapshot_holds_most_of_its_own_memory(
    catalog: Catalog, generation: Generation, store: SnapshotStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replica_module, "_OWN_ROWS", 4)
    commit(catalog, generation, "abc")
    replica = IndexReplica.boot(catalog, fresh(catalog, generation), store)
    publish(catalog, generation, store)
    assert not replica.can_rest_anew(store), "three rows are not worth it"
    commit(catalog, generation, "defghijk")
    replica.catch_up()
    assert not replica.can_rest_anew(store), "the snapshot holds too little of it"
    publish(catalog, generation, store)
    assert replica.can_rest_anew(store) == store.maps_files
    anew = IndexReplica.boot(catalog, fresh(catalog, generation), store)
    assert not anew.can_rest_anew(store)
    assert holds(anew) == holds(replica)


def flip_in_place(folder: Path, seq: int, name: str) -> None:
    """Change one bit in a file of the snapshot at this change, as a failing disk does: who maps it sees that."""
    path = next(path for path in folder.rglob(f"{seq:020d}-*{name}*"))
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 4]))


@pytest.mark.parametrize("name", ["rows.000001", "ids.000000"])
def test_a_snapshot_that_changes_under_a_replica_is_not_handed_on_to_the_next(
    catalog: Catalog, generation: Generation, tmp_path: Path, name: str
) -> None:
    folder = tmp_path / "snapshots"
    store = SnapshotStore(catalog, LocalStorage(folder), part_bytes=PART_BYTES)
    commit(catalog, generation, "abcdefghijklmnopqrstuvw")
    seq = publish(catalog, generation, store)
    replica = IndexReplica.boot(catalog, fresh(catalog, generation), store)
    flip_in_place(folder, seq, name)
    commit(catalog, generation, "xyz", 100)
    replica.catch_up()
    with pytest.raises(SnapshotDamaged, match="changed"):
        replica.publish(store)
    assert [record.seq for record in catalog.snapshots.list(generation.id)] == [seq]
    assert not list(folder.rglob(f"{replica.seq:020d}-*"))
    booted = IndexReplica.boot(catalog, fresh(catalog, generation), store)
    from_sql = IndexReplica(catalog, fresh(catalog, generation))
    from_sql.catch_up()
    assert holds(booted) == holds(from_sql)


def test_a_keeper_whose_snapshot_changes_under_it_begins_anew(
    catalog: Catalog, generation: Generation, tmp_path: Path
) -> None:
    folder = tmp_path / "snapshots"
    store = SnapshotStore(catalog, LocalStorage(folder), part_bytes=PART_BYTES)
    commit(catalog, generation, "abcdefghijklmnopqrstuvw")
    seq = publish(catalog, generation, store)
    with closing(IndexKeeper(catalog, store, SnapshotPolicy(1, 3600))) as keeper:
        keeper.follow([generation.id])
        wait_for(lambda: keeper.seqs().get(generation.id) == seq)
        flip_in_place(folder, seq, "rows.000001")
        commit(catalog, generation, "xyz", 100)

        def published() -> bool:
            keeper.follow([generation.id])
            return catalog.snapshots.newest(generation.id).seq > seq  # type: ignore[union-attr]

        wait_for(published, what="a snapshot of the changes")
    booted = IndexReplica.boot(catalog, fresh(catalog, generation), store)
    from_sql = IndexReplica(catalog, fresh(catalog, generation))
    from_sql.catch_up()
    assert booted.snapshot_seq > seq
    assert holds(booted) == holds(from_sql)


def test_a_file_that_changes_before_it_is_remembered_as_whole_is_hashed_again(
    catalog: Catalog, generation: Generation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "snapshots"
    store = SnapshotStore(catalog, LocalStorage(folder), part_bytes=PART_BYTES)
    commit(catalog, generation, "abcdef")
    real = SnapshotFiles.remember_checked

    def late(files: SnapshotFiles, *arguments: Any) -> None:
        flip_in_place(folder, 6, "rows.000000")
        real(files, *arguments)

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(SnapshotFiles, "remember_checked", late)
        replica = IndexReplica(catalog, fresh(catalog, generation))
        replica.catch_up()
        with replica.index.reading() as vectors:
            store.publish(replica.generation, replica.seq, vectors)
    assert list(store.valid(fresh(catalog, generation))) == []
