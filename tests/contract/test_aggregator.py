"""The aggregator commits each finished batch once, whatever dies or is delivered twice, on both databases."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from catalog_batches import failure, indexed
from servers import ValkeyServer, wait_for

from pipeline.replica import IndexReplica
from storage.catalog import (
    BatchItem,
    BatchResult,
    Catalog,
    Generation,
    IndexBatch,
    JobProgress,
    JobRequest,
    UnsentBatch,
)
from storage.errors import CatalogUnavailable, VisualSearchError
from storage.images.local import LocalStorage
from storage.snapshots import SnapshotStore
from workers.aggregator import LEASE_NAME, MAX_DELIVERIES, Aggregator
from workers.errors import RedisUnavailable, RedisUnusable
from workers.index_keeper import IndexKeeper, SnapshotPolicy
from workers.result_stream import STREAM, ResultStream
from workers.servers import connect_url
from workers.sweeper import Sweeper, SweepPolicy

NEVER = 3600.0


@pytest.fixture
def stream(redis_url: str) -> Iterator[ResultStream]:
    client = connect_url(redis_url)
    yield ResultStream(client, bound=64)
    client.close()


@dataclass
class Bench:
    """One aggregator as this process runs it, with notes of what it announced and sent."""

    catalog: Catalog
    stream: ResultStream
    folder: Path
    sweeps: SweepPolicy = field(default_factory=lambda: SweepPolicy(0.1, NEVER, 3))
    snapshots: SnapshotPolicy = field(default_factory=lambda: SnapshotPolicy(10**9, NEVER))
    announced: list[tuple[int, int]] = field(default_factory=list)
    sent: list[UnsentBatch] = field(default_factory=list)
    images: list[int] = field(default_factory=list)
    problems: list[Exception] = field(default_factory=list)
    queued: int = 0

    def __post_init__(self) -> None:
        self.store = SnapshotStore(self.catalog, LocalStorage(self.folder / "snapshots"))
        self.indexes = IndexKeeper(self.catalog, self.store, self.snapshots)
        self.sweeper = Sweeper(self.catalog, self.sweeps, send=self.sent.append, queued=lambda: self.queued)
        self.aggregator = Aggregator(
            self.catalog,
            self.stream,
            indexes=self.indexes,
            sweeper=self.sweeper,
            announce=lambda generation_id, seq: self.announced.append((generation_id, seq)),
            progress=self.images.append,
        )

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run it on a thread; what it raises is raised at the end."""
        stop = threading.Event()

        def run() -> None:
            try:
                self.aggregator.run(stop)
            except VisualSearchError as error:
                self.problems.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(timeout=20)
            self.indexes.close()
            assert not thread.is_alive()
        if self.problems:
            raise self.problems[0]


@pytest.fixture
def bench(catalog: Catalog, stream: ResultStream, tmp_path: Path) -> Callable[..., Bench]:
    return lambda **options: Bench(catalog, stream, tmp_path, **options)


def item(image_id: str) -> BatchItem:
    return BatchItem(image_id, image_id, f"file:///photos/{image_id}", "etag-1", 12345)


def make_job(catalog: Catalog, generation: Generation, batches: Sequence[str]) -> tuple[int, list[int]]:
    """A job of one batch for each text, whose letters are its images."""
    job, _ = catalog.jobs.open(JobRequest(generation.collection_id, generation.id, "index", "file:///photos/"))
    groups = [[item(name) for name in names] for names in batches]
    counts = {"listed": sum(map(len, batches))}
    ids = catalog.jobs.add_batches(job.id, groups, listed_until="z", counts=counts)
    catalog.batches.mark_sent(ids)
    catalog.jobs.listing_done(job.id)
    return job.id, ids


def result(catalog: Catalog, generation: Generation, batch_id: int, names: str) -> BatchResult:
    leased = catalog.batches.lease(batch_id, "worker", 60)
    assert leased is not None
    images = [indexed(name, seed=ord(name)) for name in names]
    return BatchResult(batch_id, generation.id, IndexBatch(upserts=images), {"indexed": len(names)})


def progress_when_over(catalog: Catalog, job_id: int) -> JobProgress:
    wait_for(lambda: catalog.jobs.get(job_id).is_over, what="the job to be over")
    return catalog.jobs.get(job_id)


def test_what_has_arrived_is_committed_acknowledged_and_announced(
    catalog: Catalog, generation: Generation, stream: ResultStream, bench: Callable[..., Bench]
) -> None:
    job_id, (first, second) = make_job(catalog, generation, ["abc", "de"])
    here = bench()
    stream.publish(result(catalog, generation, first, "abc"))
    with here.running():
        wait_for(lambda: here.announced == [(generation.id, 3)])
        stream.publish(
            BatchResult(
                second, generation.id, IndexBatch([indexed("d")], failures=[failure("e")]), {"indexed": 1, "failed": 1}
            )
        )
        progress = progress_when_over(catalog, job_id)
        wait_for(lambda: stream.length() == 0)
        wait_for(lambda: here.announced[-1] == (generation.id, 4))
        wait_for(lambda: here.indexes.seqs() == {generation.id: 4})
    assert (progress.job.state, progress.indexed, progress.failed, progress.pending) == ("finished", 4, 1, 0)
    assert [image.image_id for image in catalog.images.list(generation.collection_id)] == list("abcd")


def test_a_batch_delivered_twice_commits_once(
    catalog: Catalog, generation: Generation, stream: ResultStream, bench: Callable[..., Bench]
) -> None:
    job_id, (batch_id, other) = make_job(catalog, generation, ["abc", "d"])
    done = result(catalog, generation, batch_id, "abc")
    for _ in range(3):
        stream.publish(done)
    here = bench()
    with here.running():
        wait_for(lambda: stream.length() == 0)
        stream.publish(done)
        stream.publish(result(catalog, generation, other, "d"))
        progress = progress_when_over(catalog, job_id)
    assert (progress.indexed, catalog.generations.get(generation.id).last_seq) == (4, 4)


def test_what_was_committed_but_not_acknowledged_is_settled_by_the_next_aggregator(
    catalog: Catalog, generation: Generation, stream: ResultStream, bench: Callable[..., Bench]
) -> None:
    job_id, (committed, read) = make_job(catalog, generation, ["abc", "de"])
    results = [result(catalog, generation, committed, "abc"), result(catalog, generation, read, "de")]
    for one in results:
        stream.publish(one)
    wait_for(lambda: len(stream.read("an aggregator that was killed", 10, 0)) == 2)  # the first read makes the group
    catalog.commit_results(None, results[:1])
    with bench().running():
        assert progress_when_over(catalog, job_id).indexed == 5
        wait_for(lambda: stream.length() == 0)
    assert catalog.generations.get(generation.id).last_seq == 5


def test_of_two_aggregators_one_writes_and_the_other_takes_over(
    catalog: Catalog, generation: Generation, stream: ResultStream, bench: Callable[..., Bench]
) -> None:
    job_id, batch_ids = make_job(catalog, generation, list("abcdef"))
    first, second = bench(), bench()
    with second.running():
        with first.running():
            for batch_id, name in zip(batch_ids[:3], "abc", strict=True):
                stream.publish(result(catalog, generation, batch_id, name))
            wait_for(lambda: stream.length() == 0)
        for batch_id, name in zip(batch_ids[3:], "def", strict=True):
            stream.publish(result(catalog, generation, batch_id, name))
        progress = progress_when_over(catalog, job_id)
    assert (progress.indexed, catalog.generations.get(generation.id).last_seq) == (6, 6)
    assert second.announced[-1] == (generation.id, 6)


def test_one_whose_lease_went_to_another_writes_nothing_more(
    catalog: Catalog, generation: Generation, stream: ResultStream, bench: Callable[..., Bench]
) -> None:
    """As after a long pause: the lease ran out unnoticed, and another aggregator has the next epoch."""
    _, (batch_id,) = make_job(catalog, generation, ["abc"])
    here = bench()
    with here.running():
        mine = wait_for(lambda: catalog.leases.acquire(LEASE_NAME, here.aggregator.name, 0.0))
        taken = catalog.leases.acquire(LEASE_NAME, "another", NEVER)
        assert taken is not None
        assert taken.epoch > mine.epoch
        stream.publish(result(catalog, generation, batch_id, "abc"))
        time.sleep(2.5)
        assert catalog.generations.get(generation.id).last_seq == 0
        assert stream.length() == 1
        catalog.leases.release(taken)
        wait_for(lambda: stream.length() == 0)
    assert catalog.generations.get(generation.id).last_seq == 3


def test_a_message_that_cannot_be_read_is_put_aside_and_stops_nothing(  # noqa: PLR0917
    catalog: Catalog,
    generation: Generation,
    stream: ResultStream,
    bench: Callable[..., Bench],
    redis_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("workers.aggregator._RETRY_SECONDS", 0.05)
    job_id, (batch_id,) = make_job(catalog, generation, ["abc"])
    with connect_url(redis_url) as client:
        client.xadd(STREAM, {b"v": b"9", b"header": b"?", b"vectors": b""})
    stream.publish(result(catalog, generation, batch_id, "abc"))
    with bench().running():
        assert progress_when_over(catalog, job_id).indexed == 3
        wait_for(stream.dead_letters)
    [(_, fields)] = stream.dead_letters()
    assert fields[b"v"] == b"9"
    assert b"WireError" in fields[b"reason"]
    assert stream.length() == 0


def test_a_batch_that_cannot_be_committed_fails_alone(
    catalog: Catalog,
    generation: Generation,
    stream: ResultStream,
    bench: Callable[..., Bench],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An image id twice in one batch: the others of the same transaction are committed all the same."""
    monkeypatch.setattr("workers.aggregator._RETRY_SECONDS", 0.05)
    _, ids = make_job(catalog, generation, ["a", "bb", "c"])
    for batch_id, names in zip(ids, ["a", "bb", "c"], strict=True):
        stream.publish(result(catalog, generation, batch_id, names))
    with bench().running():
        wait_for(stream.dead_letters)
    assert b"DuplicateImageId" in stream.dead_letters()[0][1][b"reason"]
    assert [image.image_id for image in catalog.images.list(generation.collection_id)] == ["a", "c"]
    assert MAX_DELIVERIES == 5


class DatabaseThatComesBack(Catalog):
    """A catalog whose commits fail for a while, as while the database restarts."""

    left = 3

    def commit_results(self, lease, results):
        if self.left:
            self.left -= 1
            raise CatalogUnavailable("the database is restarting")
        return super().commit_results(lease, results)


def test_a_database_that_is_down_is_waited_for_and_nothing_is_put_aside(
    catalog_address: str, generation: Generation, stream: ResultStream, tmp_path: Path
) -> None:
    with DatabaseThatComesBack.open(catalog_address) as catalog:
        assert isinstance(catalog, DatabaseThatComesBack)
        job_id, (batch_id,) = make_job(catalog, generation, ["abc"])
        stream.publish(result(catalog, generation, batch_id, "abc"))
        with Bench(catalog, stream, tmp_path).running():
            assert progress_when_over(catalog, job_id).indexed == 3
    assert not stream.dead_letters()


def test_a_redis_that_restarts_is_waited_for(
    catalog: Catalog, generation: Generation, tmp_path: Path, own_valkey: Callable[..., ValkeyServer]
) -> None:
    server = own_valkey()
    client = connect_url(server.url)
    stream = ResultStream(client, 64)
    job_id, (before, after) = make_job(catalog, generation, ["abc", "de"])
    here = Bench(catalog, stream, tmp_path)
    with here.running():
        stream.publish(result(catalog, generation, before, "abc"))
        wait_for(lambda: here.announced)
        server.kill()
        time.sleep(1.0)
        server.start()
        stream.publish(result(catalog, generation, after, "de"))
        assert progress_when_over(catalog, job_id).indexed == 5
    client.close()


def test_what_a_retry_cannot_mend_ends_the_aggregator(
    catalog: Catalog, generation: Generation, bench: Callable[..., Bench]
) -> None:
    here = bench()

    def refuse(*_: object) -> int:
        raise RedisUnusable("wrong password")

    here.stream.remove_idle_consumers = refuse  # type: ignore[method-assign]
    with pytest.raises(RedisUnusable, match="password"), here.running():
        wait_for(lambda: here.problems)
    assert catalog.leases.acquire(LEASE_NAME, "another", 1.0), "the lease was not given back"


# --- snapshots ---


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


def test_a_snapshot_becomes_due_by_time_when_anything_changed(
    catalog: Catalog, generation: Generation, stream: ResultStream, bench: Callable[..., Bench]
) -> None:
    _, (batch_id,) = make_job(catalog, generation, ["abc"])
    here = bench(snapshots=SnapshotPolicy(10**9, 1.5))
    with here.running():
        stream.publish(result(catalog, generation, batch_id, "abc"))
        wait_for(lambda: here.indexes.seqs().get(generation.id) == 3)
        assert catalog.snapshots.newest(generation.id) is None
        wait_for(lambda: catalog.snapshots.newest(generation.id))
        time.sleep(2.0)
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
        folder.mkdir()
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


# --- the sweeper ---


def test_batches_whose_lease_ran_out_are_sent_again_once_nothing_waits(
    catalog: Catalog, generation: Generation, bench: Callable[..., Bench]
) -> None:
    _, (lost, waiting) = make_job(catalog, generation, ["abc", "d"])
    assert catalog.batches.lease(lost, "a worker that was killed", 0.0)
    here = bench()
    with here.running():
        wait_for(lambda: here.sent)
    assert [batch.batch_id for batch in here.sent] == [lost]
    assert not here.sweeper.sweep().to_send  # it was noted as sent
    assert waiting != lost


def test_a_result_that_waited_longer_than_its_lease_is_committed_and_not_sent_again(
    catalog: Catalog, generation: Generation, stream: ResultStream, bench: Callable[..., Bench]
) -> None:
    """The aggregator was down for long: the last allowed attempt of a good image must not look like a crash."""
    job_id, (batch_id,) = make_job(catalog, generation, ["a"])
    for _ in range(3):
        leased = catalog.batches.lease(batch_id, "worker", 0.0)
    assert leased is not None
    stream.publish(BatchResult(batch_id, generation.id, IndexBatch([indexed("a")]), {"indexed": 1}))
    here = bench()
    with here.running():
        progress = progress_when_over(catalog, job_id)
    assert (progress.indexed, progress.failed, here.sent) == (1, 0, [])


def test_nothing_is_sent_again_while_the_queue_is_long(
    catalog: Catalog, generation: Generation, bench: Callable[..., Bench]
) -> None:
    make_job(catalog, generation, ["a", "b"])
    here = bench(sweeps=SweepPolicy(NEVER, 0.0, 3), queued=1000)
    here.sweeper.sweep()
    assert here.sent == []
    here.queued = 999
    here.sweeper.sweep()
    assert len(here.sent) == 1


def test_what_was_sent_before_the_broker_failed_is_noted(
    catalog: Catalog, generation: Generation, bench: Callable[..., Bench]
) -> None:
    _, ids = make_job(catalog, generation, ["a", "b", "c"])
    here = bench(sweeps=SweepPolicy(NEVER, 0.0, 3))

    def send(batch: UnsentBatch) -> None:
        if batch.batch_id == ids[1]:
            raise RedisUnavailable("gone")
        here.sent.append(batch)

    here.sweeper._send = send
    with pytest.raises(RedisUnavailable):
        here.sweeper.sweep()
    assert [batch.batch_id for batch in here.sent] == ids[:1]
    assert not catalog.batches.sweep(resend_seconds=NEVER).to_send
