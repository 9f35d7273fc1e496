"""Snapshots that are published and booted from, in any history."""

from __future__ import annotations

import numpy as np
from catalog_batches import failure, state_of_follower
from snapshot_steps import commit, fresh, holds, publish

from pipeline.replica import IndexReplica
from storage.catalog import Catalog, Generation, IndexBatch
from storage.images.backend import StorageBackend
from storage.snapshots import SnapshotStore


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


def test_only_the_newest_two_are_kept(
    catalog: Catalog, generation: Generation, store: SnapshotStore, backend: StorageBackend
) -> None:
    for names in ("abc", "def", "ghi", "jkl"):
        commit(catalog, generation, names)
        publish(catalog, generation, store)
    assert [record.seq for record in catalog.snapshots.list(generation.id)] == [12, 9]
    assert {one.key.split("/")[1].split("-")[0] for one in backend.list()} == {f"{9:020d}", f"{12:020d}"}


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
