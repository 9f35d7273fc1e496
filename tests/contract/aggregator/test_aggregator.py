"""The aggregator commits each result once, one writer at a time, whatever fails beside it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from aggregator_bench import NEVER, Bench, make_job, progress_when_over, result
from catalog_batches import failure, indexed
from servers import ValkeyServer, wait_for

from storage.catalog import (
    BatchResult,
    Catalog,
    Generation,
    IndexBatch,
    Lease,
)
from storage.errors import CatalogUnavailable
from workers.aggregator import LEASE_NAME, MAX_DELIVERIES
from workers.errors import RedisUnusable
from workers.result_stream import STREAM, ResultStream
from workers.servers import connect_url


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

        def by_another() -> tuple[Lease, Lease] | None:
            """Unless its owner renews it just between the two."""
            mine = catalog.leases.acquire(LEASE_NAME, here.aggregator.name, 0.0)
            taken = catalog.leases.acquire(LEASE_NAME, "another", NEVER)
            return (mine, taken) if mine and taken else None

        mine, taken = wait_for(by_another, what="another one to have the lease")
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


def test_a_batch_that_cannot_be_committed_fails_alone(  # noqa: PLR0917
    catalog: Catalog,
    generation: Generation,
    stream: ResultStream,
    bench: Callable[..., Bench],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """An image id twice in one batch: the others of the same transaction are committed all the same."""
    monkeypatch.setattr("workers.aggregator._RETRY_SECONDS", 0.05)
    _, ids = make_job(catalog, generation, ["a", "bb", "c"])
    for batch_id, names in zip(ids, ["a", "bb", "c"], strict=True):
        stream.publish(result(catalog, generation, batch_id, names))
    with bench().running():
        wait_for(stream.dead_letters)
    assert b"DuplicateImageId" in stream.dead_letters()[0][1][b"reason"]
    assert "each is tried alone: DuplicateImageId" in caplog.text
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
