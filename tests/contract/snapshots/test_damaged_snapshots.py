"""Damaged, foreign and incomplete snapshots are passed over for the one before."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest
from catalog_batches import MODEL, state_of_follower
from snapshot_steps import commit, damage, fresh, holds, publish

from pipeline.replica import IndexReplica
from storage.catalog import Catalog, Generation, PublishedFile
from storage.errors import IndexFileError
from storage.images.backend import StorageBackend
from storage.index_manifest import manifest_bytes, parse_manifest
from storage.mapped_vectors import LiveVectors
from storage.snapshots import SnapshotStore


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
