"""A query worker loads anew, between two batches: to save memory, and when a file that it has mapped was changed."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from catalog_batches import indexed, state_of_follower
from servers import wait_for

from pipeline import replica as replica_module
from pipeline.replica import IndexReplica
from query_service.serving.served import ServedCollections
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
        assert served.wait_until_loaded(60, threading.Event())
        assert served.current()[collection.name].replica.index.own_rows == 8
        IndexReplica.boot(catalog, catalog.generations.get(generation.id), snapshots).publish(snapshots)
        wait_for(lambda: served.current()[collection.name].replica.index.own_rows == 0, what="the new snapshot")
        commit("xa")
        catalog.images.delete(generation.collection_id, ["c"])
        wait_for(lambda: served.current()[collection.name].replica.seq == 11, what="later changes")
        index = served.current()[collection.name].replica.index
        held = {name: index.reconstruct(name).tobytes() for name in index.ids()}
        assert held == state_of_follower(catalog, generation.id)


@pytest.mark.parametrize("how", ["written", "replaced"])
def test_a_snapshot_that_changes_while_it_is_searched_is_loaded_anew(
    catalog: Catalog, generation: Generation, tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    """One number in a vector. The search that follows is answered from what SQL says, as before the damage."""
    snapshots = SnapshotStore(catalog, LocalStorage(tmp_path / "snapshots"))
    [(collection, _)] = catalog.generations.all_active()
    catalog.commit(generation.id, IndexBatch(upserts=[indexed(name, ord(name)) for name in "abcdefgh"]))
    IndexReplica.boot(catalog, catalog.generations.get(generation.id), snapshots).publish(snapshots)
    with ServedCollections(catalog, snapshots, lambda _: None) as served:
        assert served.wait_until_loaded(60, threading.Event())
        first = served.current()[collection.name].replica
        [rows] = (tmp_path / "snapshots").rglob("*rows.000000*")
        damaged = bytearray(rows.read_bytes())
        damaged[5] ^= 0xFF
        if how == "written":
            rows.write_bytes(damaged)
        else:
            (rows.parent / "new").write_bytes(damaged)
            (rows.parent / "new").replace(rows)
        wait_for(lambda: served.current()[collection.name].replica is not first, what="another replica")
        index = served.current()[collection.name].replica.index
        assert index.own_rows == 8, "the damaged snapshot was passed over, and all was read from SQL"
        held = {name: index.reconstruct(name).tobytes() for name in index.ids()}
        assert held == state_of_follower(catalog, generation.id)
    assert caplog.text.count("was changed while it is in use") == 1


@pytest.mark.parametrize("how", ["removed", "touched"])
def test_a_snapshot_whose_bytes_are_the_same_is_searched_on(
    catalog: Catalog, generation: Generation, tmp_path: Path, how: str
) -> None:
    """A removed file stays for whoever has mapped it; one that was only touched is hashed, and mapped again."""
    snapshots = SnapshotStore(catalog, LocalStorage(tmp_path / "snapshots"))
    catalog.commit(generation.id, IndexBatch(upserts=[indexed(name, ord(name)) for name in "abcdefgh"]))
    IndexReplica.boot(catalog, catalog.generations.get(generation.id), snapshots).publish(snapshots)
    replica = IndexReplica.boot(catalog, catalog.generations.get(generation.id), snapshots)
    assert not replica.is_of_changed_files()
    [rows] = (tmp_path / "snapshots").rglob("*rows.000000*")
    if how == "removed":
        rows.unlink()
        assert not replica.is_of_changed_files()
        return
    os.utime(rows, ns=(1, 1))
    assert replica.is_of_changed_files()
    again = IndexReplica.boot(catalog, catalog.generations.get(generation.id), snapshots)
    assert not again.is_of_changed_files()
    assert (again.snapshot_seq, again.index.own_rows) == (8, 0)
