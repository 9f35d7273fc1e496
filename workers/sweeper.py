"""The sweeper: finds batches that nobody finishes and sends them again. Knows no Redis: how to send is given.

It runs inside the aggregator and not by a schedule in Redis, for two reasons. A Redis that was wiped then loses
nothing of it. And it looks only when no finished batch waits to be committed: were the aggregator down for long,
the leases of batches that were finished meanwhile would run out too, and good images would be taken for guilty.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic

from storage.catalog import Catalog, SweepReport, UnsentBatch
from workers.signs.metrics import OLDEST_BATCH, SWEPT

MAX_QUEUED = 1000  # batches in the queue from which nothing is sent again: what waits there is not lost

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SweepPolicy:
    """How often to look, how long a sent batch may wait for a worker, and how many workers it may cost."""

    seconds: float
    resend_seconds: float
    max_attempts: int


class Sweeper:
    """Sweeps one catalog. `send` puts a batch on the queue, `queued` says how many stand there."""

    def __init__(
        self, catalog: Catalog, policy: SweepPolicy, *, send: Callable[[UnsentBatch], None], queued: Callable[[], int]
    ) -> None:
        self._catalog = catalog
        self._policy = policy
        self._send = send
        self._queued = queued
        self._due = 0.0

    def sweep_when_due(self) -> None:
        """Sweep unless that was done a short while ago."""
        if monotonic() >= self._due:
            self.sweep()
            self._due = monotonic() + self._policy.seconds

    def sweep(self) -> SweepReport:
        """Free batches whose lease ran out, split those that had their attempts, send what no queue holds.

        Raises what `send` raises; what was sent until then is noted.
        """
        report = self._catalog.batches.sweep(
            resend_seconds=self._policy.resend_seconds,
            max_attempts=self._policy.max_attempts,
            limit=max(0, MAX_QUEUED - self._queued()),
        )
        sent: list[int] = []
        try:
            for batch in report.to_send:
                self._send(batch)
                sent.append(batch.batch_id)
        finally:
            if sent:
                self._catalog.batches.mark_sent(sent)
        OLDEST_BATCH.set(report.waiting_since.timestamp() if report.waiting_since else 0)
        for what, number in _swept(report, len(sent)):
            SWEPT.labels(what).inc(number)
        if report.expired or sent:
            counts = (report.expired, report.split, report.given_up, len(sent))
            _log.info("sweep: %d leases ran out, %d batches split, %d images given up, %d batches sent", *counts)
        return report


def _swept(report: SweepReport, sent: int) -> Sequence[tuple[str, int]]:
    return (("expired", report.expired), ("split", report.split), ("given_up", report.given_up), ("sent", sent))
