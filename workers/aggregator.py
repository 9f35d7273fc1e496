"""The aggregator: the one process that writes what embed workers made. `python -m workers.aggregator` runs it.

It reads finished batches from the stream, commits all that have arrived in one SQL transaction, and only then
acknowledges them: killed at any point, it loses nothing and commits nothing twice. A lease in SQL decides which
aggregator writes, so a second one only stands by. Sweeping belongs here too (see `workers.sweeper`).
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, closing
from threading import Event
from time import monotonic

from storage.catalog import BatchResult, Catalog, Lease, catalog_of
from storage.errors import CatalogError, LeaseLost, VisualSearchError
from storage.settings import Settings
from storage.snapshots import snapshots_of
from workers.celery_app import make_app, queued_batches, send_batch
from workers.change_hints import announce_change
from workers.errors import WireError
from workers.index_keeper import IndexKeeper, SnapshotPolicy
from workers.machine.role_process import run_role
from workers.result_stream import Message, ResultStream
from workers.servers import connect_redis
from workers.signs.heartbeat import Heartbeat
from workers.signs.local_signs import LocalSigns
from workers.signs.metrics import COMMITTED, DEAD_LETTERS, GROUP_BATCHES, LEADS, OLDEST_BATCH, STAGE_SECONDS
from workers.signs.queue_lengths import watch_queues
from workers.sweeper import Sweeper, SweepPolicy
from workers.wire import Fields, unpack

ROLE = "aggregator"
LEASE_NAME = "aggregator"
LEASE_SECONDS = 15.0  # how long the work stands still after an aggregator was killed
MAX_DELIVERIES = 5  # of a message that fails by its own fault, then it goes to the dead letters
GROUP_MESSAGES = 32  # per transaction: 4,096 vectors, a tenth of a second of SQL
_READ_MS = 1000  # how long an idle aggregator takes to notice SIGTERM at most
_RETRY_SECONDS = 2.0  # before a message that failed is tried again
_STANDBY_SECONDS = 1.0
_MAX_PAUSE_SECONDS = 10.0
_DEAD_CONSUMER_MS = 3600 * 1000  # names of aggregators that died
_PENDING_MESSAGES = 1000  # more than the stream's bound ever lets stand

_log = logging.getLogger(__name__)

_Readable = tuple[str, BatchResult]  # the entry's id and what it says
Announce = Callable[[int, int], None]  # (generation id, newest change): tells query workers; may be lost


class Aggregator:
    """Commits finished batches while it holds the lease; `run` until told to stop. Everything it needs is given."""

    def __init__(  # noqa: PLR0913 - its parts, by name
        self,
        catalog: Catalog,
        stream: ResultStream,
        *,
        indexes: IndexKeeper,
        sweeper: Sweeper,
        announce: Announce,
        progress: Callable[[int], None],
    ) -> None:
        self._catalog = catalog
        self._stream = stream
        self._indexes = indexes
        self._sweeper = sweeper
        self._announce = announce
        self._progress = progress
        self.name = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"

    def run(self, stop: Event) -> None:
        """Hold the lease and write, or stand by until it is free; wait out a database or a Redis that is down.

        Raises what a retry cannot mend (a schema that does not fit, a password that is refused).
        """
        _log.info("ready: %s", self.name)
        failures = 0
        while not stop.is_set():
            started = monotonic()
            try:
                lease = self._catalog.leases.acquire(LEASE_NAME, self.name, LEASE_SECONDS)
                if lease is None:
                    stop.wait(_STANDBY_SECONDS)
                else:
                    self._lead(lease, stop)
            except LeaseLost as error:
                _log.warning("another aggregator writes now, standing by: %s", error)
            except VisualSearchError as error:
                if not error.retryable:
                    raise
                failures = failures + 1 if monotonic() - started < _MAX_PAUSE_SECONDS else 1
                pause = min(_MAX_PAUSE_SECONDS, 0.25 * 2**failures)
                _log.warning("pausing for %.1f s: %s", pause, error)
                stop.wait(pause)

    def _lead(self, lease: Lease, stop: Event) -> None:
        _log.info("writing as %s, epoch %d", self.name, lease.epoch)
        LEADS.set(1)
        try:
            self._stream.remove_idle_consumers(_DEAD_CONSUMER_MS)
            # Whatever an aggregator before this one read and did not acknowledge comes first, without a wait
            self._indexes.follow(self._commit(lease, self._stream.reclaim(self.name, 0, _PENDING_MESSAGES)))
            self._write_until(lease, stop)
        finally:
            LEADS.set(0)
            OLDEST_BATCH.set(0)  # whoever leads now says it
            self._release(lease)

    def _write_until(self, lease: Lease, stop: Event) -> None:
        renewed = reclaimed = monotonic()
        while not stop.is_set():
            messages = self._stream.read(self.name, GROUP_MESSAGES, _READ_MS)
            if monotonic() - reclaimed >= _RETRY_SECONDS:
                messages += self._stream.reclaim(self.name, int(1000 * _RETRY_SECONDS), _PENDING_MESSAGES)
                reclaimed = monotonic()
            self._indexes.follow(self._commit(lease, messages))
            if monotonic() - renewed >= LEASE_SECONDS / 3:
                if not self._catalog.leases.renew(lease):
                    raise LeaseLost(f"the lease of {self.name} (epoch {lease.epoch}) went to another aggregator")
                renewed = monotonic()
            if len(messages) < GROUP_MESSAGES:  # nothing waits to be committed: what is late now is really lost
                self._sweeper.sweep_when_due()

    def _release(self, lease: Lease) -> None:
        try:
            self._catalog.leases.release(lease)
        except CatalogError as error:  # it runs out by itself
            _log.warning("the lease could not be given back: %s", error)

    def _commit(self, lease: Lease, messages: Sequence[Message]) -> set[int]:
        """Commit, then acknowledge, then tell; return which generations changed."""
        readable = [(message[0], result) for message in messages if (result := self._read(message)) is not None]
        committed = []
        if readable:
            GROUP_BATCHES.observe(len(readable))
            with STAGE_SECONDS.labels("commit").time():
                committed = self._write(lease, readable, dict(messages))
        self._stream.acknowledge([entry for entry, _ in committed])
        if committed:
            self._progress(sum(sum(result.counts.values()) for _, result in committed))
            _count(result for _, result in committed)
        touched = {result.generation_id for _, result in committed}
        for generation_id in touched:
            self._announce(generation_id, self._catalog.generations.get(generation_id).last_seq)
        return touched

    def _write(self, lease: Lease, readable: list[_Readable], fields: dict[str, Fields]) -> list[_Readable]:
        """Write all in one transaction or, when that is refused, each alone; return those that are settled."""
        try:
            self._catalog.commit_results(lease, [result for _, result in readable])
        except Exception as error:  # whatever is wrong with one message must not stop all others for ever
            if _is_nobodys_fault(error):
                raise
            _log.warning("%d results cannot be committed together, each is tried alone: %r", len(readable), error)
        else:
            return readable
        settled = []
        for entry, result in readable:
            try:
                self._catalog.commit_results(lease, [result])
                settled.append((entry, result))
            except Exception as error:
                if _is_nobodys_fault(error):
                    raise
                self._refuse((entry, fields[entry]), error)
        return settled

    def _read(self, message: Message) -> BatchResult | None:
        try:
            return unpack(message[1])
        except WireError as error:
            self._refuse(message, error)
            return None

    def _refuse(self, message: Message, error: Exception) -> None:
        """Leave the message for another try, or put it aside; its batch is sent again once its lease has run out."""
        entry, fields = message
        deliveries = self._stream.deliveries([entry]).get(entry, 0)
        if deliveries < MAX_DELIVERIES:
            _log.warning("message %s failed, delivery %d of %d: %r", entry, deliveries, MAX_DELIVERIES, error)
            return
        _log.error("message %s goes to the dead letters", entry, exc_info=error)
        self._stream.dead_letter(entry, fields, f"{type(error).__name__}: {error}")
        DEAD_LETTERS.inc()


def _count(results: Iterable[BatchResult]) -> None:
    for result in results:
        for name, number in result.counts.items():
            COMMITTED.labels(name).inc(number)


def _is_nobodys_fault(error: Exception) -> bool:
    """Whether no message is to blame: the database is away, or another aggregator writes by now."""
    return isinstance(error, LeaseLost) or (isinstance(error, VisualSearchError) and error.retryable)


def run_aggregator(settings: Settings, stop: Event) -> None:
    """Build the aggregator from the settings and run it until told to stop.

    Raises RedisUnavailable, RedisUnusable, BundledServerError, CatalogError and StorageError when it cannot start.
    """
    with ExitStack() as parts:
        client = parts.enter_context(connect_redis(settings))
        catalog = parts.enter_context(catalog_of(settings))
        app = parts.enter_context(closing(make_app(settings)))
        policy = SnapshotPolicy(settings.snapshot_changes, settings.snapshot_seconds)
        indexes = parts.enter_context(closing(IndexKeeper(catalog, snapshots_of(settings, catalog), policy)))
        sweeper = Sweeper(
            catalog,
            SweepPolicy(settings.sweep_seconds, settings.resend_seconds, settings.max_attempts),
            send=lambda batch: send_batch(app, batch.batch_id, batch.priority),
            queued=lambda: queued_batches(app),
        )
        heartbeat = parts.enter_context(Heartbeat(client, ROLE, signs=LocalSigns(settings)))
        watch_queues(client)
        Aggregator(
            catalog,
            ResultStream(client, settings.stream_messages),
            indexes=indexes,
            sweeper=sweeper,
            announce=lambda generation_id, seq: announce_change(client, generation_id, seq),
            progress=heartbeat.progress,
        ).run(stop)


def main() -> int:
    """Start with the settings of the environment and the TOML file; SIGTERM ends it after the current commit."""
    return run_role(ROLE, run_aggregator)


if __name__ == "__main__":
    sys.exit(main())
