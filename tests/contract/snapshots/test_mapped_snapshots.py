"""Replicas that rest on a mapped snapshot, and files that change under them."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from catalog_batches import state_of_follower
from servers import wait_for
from snapshot_steps import PART_BYTES, commit, fresh, holds, publish

from pipeline import replica as replica_module
from pipeline.replica import IndexReplica
from storage.catalog import Catalog, Generation
from storage.errors import SnapshotDamaged
from storage.images.local import LocalStorage
from storage.snapshot_files import SnapshotFiles
from storage.snapshots import SnapshotStore
from workers.index_keeper import IndexKeeper, SnapshotPolicy


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
