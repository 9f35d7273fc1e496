"""Batches of queued jobs: who works on which, for how long, and what happens to those that nobody finishes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, select, update

from storage.catalog import tables
from storage.catalog.database.clock import now, shared_now
from storage.catalog.database.engine import Database
from storage.catalog.database.statements import CHUNK
from storage.catalog.generations import active_generation, find_generation
from storage.catalog.queued.job_records import REINDEX, BatchItem, LeasedBatch, SweepReport
from storage.catalog.queued.job_rows import find_job, lock_batches, lock_job
from storage.catalog.queued.sweep import (
    DEFAULT_MAX_ATTEMPTS,
    expired_batches,
    settle_expired,
    unsent_batches,
    waiting_since,
)
from storage.catalog.records import Generation, JobRecord

_BATCHES = tables.job_batches.c
_IDS_PAGE = 64  # batches whose references are read at once

DEFAULT_RESEND_SECONDS = 60.0


class Batches:
    """Leases batches to workers and sweeps up after those that died. Committing is `Catalog.commit_results`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def lease(
        self, batch_id: int, owner: str, seconds: float, *, max_attempts: int = DEFAULT_MAX_ATTEMPTS
    ) -> LeasedBatch | None:
        """Take a batch to work on; every lease counts as an attempt and gets a new token.

        None when there is nothing to do: it is done, cancelled, with another worker, or has had its attempts
        (then the sweeper splits it). New images go to the generation that searches use by now, whichever it was
        when they were listed. Raises GenerationClosed for a batch that is of no generation.
        """
        with self._database.write() as connection:
            batch = lock_batches(connection, [batch_id]).get(batch_id)
            moment = shared_now(connection)
            if batch is None or not _is_free(batch, moment, max_attempts):
                return None
            values = {
                "state": "leased",
                "attempts": batch.attempts + 1,
                "lease_token": batch.lease_token + 1,
                "lease_owner": owner,
                "lease_expires_at": moment + timedelta(seconds=seconds),
            }
            job = find_job(connection, batch.job_id)
            generation = _generation_for(connection, job, batch.generation_id)
            values["generation_id"] = generation.id
            connection.execute(update(tables.job_batches).where(_BATCHES.id == batch_id).values(values))
        return LeasedBatch(
            id=batch_id,
            job_id=job.id,
            collection_id=job.collection_id,
            generation=generation,
            source=job.source,
            items=[BatchItem.from_json(fields) for fields in batch.images],
            token=batch.lease_token + 1,
            restore_deleted=bool(job.options.get("restore_deleted", False)),
            attempts=batch.attempts + 1,
            kind=job.kind,
        )

    def renew(self, batch_id: int, token: int, seconds: float) -> bool:
        """Keep working on a batch for so much longer; false when it is not this holder's any more."""
        with self._database.write() as connection:
            expires_at = shared_now(connection) + timedelta(seconds=seconds)
            statement = update(tables.job_batches).where(*_held(batch_id, token)).values(lease_expires_at=expires_at)
            return connection.execute(statement).rowcount == 1

    def give_back(self, batch_id: int, token: int) -> bool:
        """Let a batch go unfinished: the attempt does not count, the sweeper sends it again after a pause.

        False when it is not this holder's any more.
        """
        with self._database.write() as connection:
            job_id = connection.scalar(select(_BATCHES.job_id).where(*_held(batch_id, token)))
            if job_id is None:
                return False
            cancelled = lock_job(connection, job_id).state == "cancelled"
            values = {
                "state": "cancelled" if cancelled else "pending",
                "finished_at": now() if cancelled else None,
                "attempts": _BATCHES.attempts - 1,
                "lease_owner": None,
                "lease_expires_at": None,
                "sent_at": shared_now(connection),
            }
            statement = update(tables.job_batches).where(*_held(batch_id, token)).values(values)
            return connection.execute(statement).rowcount == 1

    def mark_sent(self, batch_ids: Sequence[int]) -> None:
        """Note that these batches were sent just now; call it after sending, so that none is sent too seldom."""
        with self._database.write() as connection:
            moment = shared_now(connection)
            for start in range(0, len(batch_ids), CHUNK):
                these = _BATCHES.id.in_(batch_ids[start : start + CHUNK])
                connection.execute(update(tables.job_batches).where(these).values(sent_at=moment))

    def sweep(
        self,
        moment: datetime | None = None,
        *,
        resend_seconds: float = DEFAULT_RESEND_SECONDS,
        max_attempts: int = DEFAULT_MAX_ATTEMPTS,
        limit: int = CHUNK,
    ) -> SweepReport:
        """Take up what nobody finishes: batches with an expired lease, and those that no queue seems to hold.

        A batch that has had its attempts is split into halves; an image alone gets a row in `failures`. At most
        `limit` batches are named to be sent: those never sent, and those sent `resend_seconds` ago or earlier.
        Name a smaller limit while the queue is long: what waits in it is not lost.
        """
        with self._database.read() as connection:
            moment = moment or shared_now(connection)
            expired = expired_batches(connection, moment)
        done = []
        for job_id, batch_ids in expired.items():
            with self._database.write() as connection:
                done.append(settle_expired(connection, job_id, batch_ids, moment, max_attempts))
        with self._database.read() as connection:
            to_send = unsent_batches(connection, moment - timedelta(seconds=resend_seconds), limit)
            since = waiting_since(connection)
        return SweepReport(
            expired=sum(report.expired for report in done),
            split=sum(report.split for report in done),
            given_up=sum(report.given_up for report in done),
            to_send=to_send,
            waiting_since=since,
        )

    def image_ids(self, job_id: int) -> Iterator[str]:
        """Every image id that stands in a batch of the job, or failed when it was listed; halves name theirs again."""
        statement = select(_BATCHES.id, _BATCHES.images).where(_BATCHES.job_id == job_id).order_by(_BATCHES.id)
        after = 0
        while True:
            with self._database.read() as connection:
                page = connection.execute(statement.where(_BATCHES.id > after).limit(_IDS_PAGE)).all()
            if not page:
                return
            after = page[-1].id
            for row in page:
                yield from (fields["image_id"] for fields in row.images)


def _generation_for(connection: Connection, job: JobRecord, generation_id: int) -> Generation:
    """The batch's own generation; when a reindex has replaced that one, the active one, except for a reindex."""
    generation = find_generation(connection, generation_id)
    if job.kind == REINDEX or generation.state not in ("standby", "retired"):
        return generation
    return active_generation(connection, job.collection_id) or generation


def _is_free(batch: Row[Any], moment: datetime, max_attempts: int) -> bool:
    if batch.state == "leased":
        return bool(batch.lease_expires_at <= moment) and batch.attempts < max_attempts
    return bool(batch.state == "pending")


def _held(batch_id: int, token: int) -> tuple[ColumnElement[bool], ...]:
    return (_BATCHES.id == batch_id, _BATCHES.state == "leased", _BATCHES.lease_token == token)
