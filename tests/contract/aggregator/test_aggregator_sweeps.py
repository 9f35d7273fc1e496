"""What the sweeper inside the aggregator sends again, and when it does not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from aggregator_bench import NEVER, Bench, make_job, progress_when_over
from catalog_batches import indexed
from servers import wait_for

from storage.catalog import (
    BatchResult,
    Catalog,
    Generation,
    IndexBatch,
    UnsentBatch,
)
from workers.errors import RedisUnavailable
from workers.result_stream import ResultStream
from workers.sweeper import SweepPolicy


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
