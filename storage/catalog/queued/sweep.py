"""What a sweep does within its transactions: expired leases, splits down to the guilty image, what to send again."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, exists, or_, select

from storage.catalog import tables
from storage.catalog.commit import write_batch
from storage.catalog.database.statements import one_of
from storage.catalog.generations import lock_generations
from storage.catalog.queued.job_records import REINDEX, UNFINISHED_JOB, BatchItem, SweepReport, UnsentBatch
from storage.catalog.queued.job_rows import (
    count_outcomes,
    find_job,
    finish_batch,
    insert_batches,
    lock_batches,
    lock_job,
    release_batch,
)
from storage.catalog.records import ImageFailure, IndexBatch, JobRecord
from storage.catalog.vectors.added_vectors import fitting

DEFAULT_MAX_ATTEMPTS = 3
WORKER_CRASHED = "worker_crashed"  # reason code of an image that ends the process that works on it

_JOBS = tables.jobs.c
_BATCHES = tables.job_batches.c


def expired_batches(connection: Connection, moment: datetime) -> dict[int, list[int]]:
    """The ids of leased batches whose time is over, by job."""
    statement = select(_BATCHES.job_id, _BATCHES.id).where(*_expired(moment)).order_by(_BATCHES.id)
    by_job: dict[int, list[int]] = defaultdict(list)
    for job_id, batch_id in connection.execute(statement):
        by_job[job_id].append(batch_id)
    return by_job


def settle_expired(
    connection: Connection, job_id: int, batch_ids: Sequence[int], moment: datetime, max_attempts: int
) -> SweepReport:
    """Settle one job's expired batches, unless they were renewed or finished meanwhile; return what was done."""
    expired = split = given_up = 0
    job = lock_job(connection, job_id)
    for batch in lock_batches(connection, batch_ids).values():
        if batch.state != "leased" or batch.lease_expires_at > moment:
            continue
        expired += 1
        if job.state == "cancelled":
            finish_batch(connection, batch.id, "cancelled", {})
        elif batch.attempts < max_attempts:
            release_batch(connection, batch.id)
        elif len(batch.images) > 1:
            _split(connection, job, batch, max_attempts)
            split += 1
        elif _give_up(connection, job, batch, moment):
            given_up += 1
    return SweepReport(expired, split, given_up)


def unsent_batches(connection: Connection, sent_before: datetime, limit: int) -> list[UnsentBatch]:
    """Pending batches that were never sent, or not since then: the most urgent first, then the oldest."""
    statement = (
        select(_BATCHES.id, _JOBS.priority)
        .join(tables.jobs, _JOBS.id == _BATCHES.job_id)
        .where(_BATCHES.state == "pending", or_(_BATCHES.sent_at.is_(None), _BATCHES.sent_at <= sent_before))
        .order_by(_JOBS.priority.desc(), _BATCHES.id)
        .limit(limit)
    )
    return [UnsentBatch(batch_id, priority) for batch_id, priority in connection.execute(statement)]


def waiting_since(connection: Connection) -> datetime | None:
    """When the oldest job began of those that have a batch without a worker; None when there is none."""
    waits = exists().where(_BATCHES.job_id == _JOBS.id, _BATCHES.state == "pending")
    since: datetime | None = connection.scalar(
        select(_JOBS.started_at).where(_JOBS.state.in_(UNFINISHED_JOB), waits).order_by(_JOBS.started_at).limit(1)
    )
    return since


def _expired(moment: datetime) -> tuple[Any, ...]:
    return (_BATCHES.state == "leased", _BATCHES.lease_expires_at <= moment)


def _split(connection: Connection, job: JobRecord, batch: Row[Any], max_attempts: int) -> None:
    """Put two halves in place of a batch; the counts of the job do not change by it.

    A half of several images gets one attempt only, for it holds the guilty image as likely as not: all
    attempts at every level would cost a day of crashes. An image alone gets all of its attempts again.
    """
    items = [BatchItem.from_json(fields) for fields in batch.images]
    middle = len(items) // 2
    for half in (items[:middle], items[middle:]):
        attempts = max_attempts - 1 if len(half) > 1 else 0
        insert_batches(connection, job, [half], parent_id=batch.id, attempts=attempts)
    finish_batch(connection, batch.id, "done", {})


def _give_up(connection: Connection, job: JobRecord, batch: Row[Any], moment: datetime) -> bool:
    """Record the one image of a batch as failed; false when its generation was pruned while it was worked on.

    Then the image is tried again for the generation that searches use, and a reindex of the pruned one is over.
    """
    generation = lock_generations(connection, [batch.generation_id])[batch.generation_id]
    if generation.state == "retired" and job.kind != REINDEX:
        release_batch(connection, batch.id)
        return False
    if generation.state == "retired":
        finish_batch(connection, batch.id, "cancelled", {})
        count_outcomes(connection, find_job(connection, job.id), {}, moment)
        return False
    item = BatchItem.from_json(batch.images[0])
    message = f"{batch.attempts} workers died, froze or met an unknown error at this image alone: see their logs"
    failure = ImageFailure(item.image_id, item.uri, WORKER_CRASHED, message, item.etag, item.attributes)
    failed, counts = IndexBatch(failures=[failure]), {"failed": 1}
    if job.kind == REINDEX:
        failed = fitting(connection, generation.collection_id, failed).batch
    elif _was_deleted(connection, job, item.image_id):
        failed, counts = IndexBatch(), {"deleted": 1}
    write_batch(connection, generation.id, failed)
    finish_batch(connection, batch.id, "done", counts)
    count_outcomes(connection, find_job(connection, job.id), counts, moment)
    return True


def _was_deleted(connection: Connection, job: JobRecord, image_id: str) -> bool:
    """Whether its user deleted the image after the job began."""
    images = tables.images.c
    here = (images.collection_id == job.collection_id, one_of(connection, images.image_id, [image_id]))
    return connection.scalar(select(images.image_id).where(*here, images.deleted_at > job.started_at)) is not None
