"""When the aggregator publishes snapshots, and what a failing one costs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from aggregator_bench import NEVER, Bench, make_job, progress_when_over, result
from catalog_batches import indexed
from servers import wait_for

from pipeline.replica import IndexReplica
from storage.catalog import (
    Catalog,
    Generation,
    IndexBatch,
)
from storage.errors import CatalogUnavailable
from storage.images.local import LocalStorage
from storage.snapshots import SnapshotStore
from workers.index_keeper import IndexKeeper, SnapshotPolicy
from workers.result_stream import ResultStream


def test_snapshots_are_published_after_so_many_changes_and_only_then(
    catalog: Catalog, generation: Generation, stream: ResultStream, bench: Callable[..., Bench]
) -> None:
    _, ids = make_job(catalog, generation, ["abc", "def", "g"])
    here = bench(snapshots=SnapshotPolicy(4, NEVER))
    with here.running():
        for batch_id, names, seq in zip(ids, ["abc", "def", "g"], [3, 6, 7], strict=True):
            stream.publish(result(catalog, generation, batch_id, names))
            wait_for(lambda seq=seq: here.indexes.seqs().get(generation.id) == seq)
    assert [record.seq for record in catalog.snapshots.list(generation.id)] == [6]
    booted = IndexReplica.boot(catalog, catalog.generations.get(generation.id), here.store)
    assert (booted.snapshot_seq, booted.seq, sorted(booted.index.ids())) == (6, 7, list("abcdefg"))


def test_what_others_than_workers_change_is_followed_too(
    catalog: Catalog, generation: Generation, stream: ResultStream, bench: Callable[..., Bench]
) -> None:
    _, (batch_id,) = make_job(catalog, generation, ["abcd"])
    here = bench(snapshots=SnapshotPolicy(6, NEVER))
    with here.running():
        stream.publish(result(catalog, generation, batch_id, "abcd"))
        wait_for(lambda: here.indexes.seqs().get(generation.id) == 4)
        catalog.images.delete(generation.collection_id, ["a", "b"])  # else they count as lag until the next batch
        wait_for(lambda: here.indexes.seqs().get(generation.id) == 6)
    assert [(record.seq, record.count) for record in catalog.snapshots.list(generation.id)] == [(6, 2)]


def test_a_snapshot_becomes_due_by_time_when_anything_changed(
    catalog: Catalog,
    generation: Generation,
    stream: ResultStream,
    bench: Callable[..., Bench],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, (batch_id,) = make_job(catalog, generation, ["abc"])
    clock = [0.0]
    monkeypatch.setattr("workers.index_keeper.monotonic", lambda: clock[0])
    here = bench(snapshots=SnapshotPolicy(10**9, 300.0))
    with here.running():
        stream.publish(result(catalog, generation, batch_id, "abc"))
        wait_for(lambda: here.indexes.seqs().get(generation.id) == 3)
        clock[0] = 299.0
        time.sleep(1.5)  # it looks every second
        assert catalog.snapshots.newest(generation.id) is None
        clock[0] = 301.0
        wait_for(lambda: catalog.snapshots.newest(generation.id))
        clock[0] = 900.0
        time.sleep(1.5)
    assert len(catalog.snapshots.list(generation.id)) == 1


def test_a_snapshot_that_fails_harms_nothing_and_is_tried_again(  # noqa: PLR0917
    catalog: Catalog,
    generation: Generation,
    stream: ResultStream,
    bench: Callable[..., Bench],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """A file stands where the folder of the snapshots should be."""
    monkeypatch.setattr("workers.index_keeper._RETRY_SECONDS", 0.2)
    job_id, ids = make_job(catalog, generation, ["abc", "def"])
    here = bench(snapshots=SnapshotPolicy(1, NEVER))
    folder = tmp_path / "snapshots"
    folder.rmdir()
    folder.write_text("in the way")
    with here.running():
        for batch_id, names in zip(ids, ["abc", "def"], strict=True):
            stream.publish(result(catalog, generation, batch_id, names))
        assert progress_when_over(catalog, job_id).indexed == 6
        wait_for(lambda: here.indexes.seqs().get(generation.id) == 6)
        assert catalog.snapshots.newest(generation.id) is None
        folder.unlink()
        folder.mkdir(exist_ok=True)  # the next try may have come between the two
        wait_for(lambda: catalog.snapshots.newest(generation.id))


def test_the_index_follows_again_after_the_database_was_away(
    catalog: Catalog, generation: Generation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper = IndexKeeper(catalog, SnapshotStore(catalog, LocalStorage(tmp_path / "s")), SnapshotPolicy(9, NEVER))
    catalog.commit(generation.id, IndexBatch([indexed("a")]))
    keeper.follow([generation.id, 12345])  # one of them does not exist
    wait_for(lambda: keeper.seqs() == {generation.id: 1})
    catalog.commit(generation.id, IndexBatch([indexed("b")]))
    with monkeypatch.context() as patch:
        patch.setattr(catalog.feed, "changes", _away)
        keeper.follow([generation.id])
        wait_for(lambda: not keeper.seqs())
    wait_for(lambda: keeper._step is None or keeper._step.done())
    keeper.follow([generation.id])
    wait_for(lambda: keeper.seqs() == {generation.id: 2})
    keeper.close()


def test_an_index_that_nobody_writes_to_leaves_memory_once_its_snapshot_is_out(
    catalog: Catalog, generation: Generation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.index_keeper._FORGET_SECONDS", 0.0)
    catalog.commit(generation.id, IndexBatch([indexed("a")]))
    for changes, stays in ((9, True), (1, False)):
        store = SnapshotStore(catalog, LocalStorage(tmp_path / "s"))
        keeper = IndexKeeper(catalog, store, SnapshotPolicy(changes, NEVER))
        keeper.follow([generation.id])
        keeper.close()
        assert bool(keeper.seqs()) == stays


def _away(*_: object) -> Iterator[object]:
    raise CatalogUnavailable("the database is away")
