"""A query worker that has much in memory of its own goes over to the newest snapshot, between two batches."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from catalog_batches import indexed, state_of_follower
from servers import wait_for

from pipeline import replica as replica_module
from pipeline.replica import IndexReplica
from query_service.served import ServedCollections
from storage.catalog import Catalog, Generation, IndexBatch
from storage.images.local import LocalStorage
from storage.snapshots import SnapshotStore


def test_what_is_searched_goes_over_to_a_new_snapshot_and_stays_the_same(
    catalog: Catalog, generation: Generation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replica_module, "_OWN_ROWS", 4)
    snapshots = SnapshotStore(catalog, LocalStorage(tmp_path / "snapshots"))
    [(collection, _)] = catalog.generations.all_active()

    def commit(names: str) -> None:
        images = [indexed(name, ord(name)) for name in names]
        catalog.commit(generation.id, IndexBatch(upserts=images))

    commit("abcdefgh")
    with ServedCollections(catalog, snapshots, lambda _: None) as served:
        assert served.wait_until_loaded(10, threading.Event())
        assert served.current()[collection.name].replica.index.own_rows == 8
        IndexReplica.boot(catalog, catalog.generations.get(generation.id), snapshots).publish(snapshots)
        wait_for(
            lambda: served.current()[collection.name].replica.index.own_rows == 0, seconds=10, what="the new snapshot"
        )
        commit("xa")
        catalog.images.delete(generation.collection_id, ["c"])
        wait_for(lambda: served.current()[collection.name].replica.seq == 11, what="later changes")
        index = served.current()[collection.name].replica.index
        held = {name: index.reconstruct(name).tobytes() for name in index.ids()}
        assert held == state_of_follower(catalog, generation.id)
