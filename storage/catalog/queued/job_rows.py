"""Job and batch rows within a caller's transaction: locks, counts, and when a job is finished.

Whoever locks several rows does it in this order: the aggregator's lease, jobs by id, batches by id, generations by
id, images by id. So no two transactions wait for each other in a circle. On PostgreSQL the locks are FOR NO KEY
UPDATE: with FOR UPDATE, every new row that refers to a locked one would wait for it too, outside of this order.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, bindparam, func, insert, select, update

from storage.catalog import tables
from storage.catalog.database.clock import now
from storage.catalog.database.statements import CHUNK
from storage.catalog.queued.job_records import UNFINISHED_BATCH, BatchItem, BatchState, add_counts
from storage.catalog.records import JobRecord
from storage.errors import UnknownJob

_JOBS = tables.jobs.c
_BATCHES = tables.job_batches.c


def find_job(connection: Connection, job_id: int) -> JobRecord:
    """Read one job. Raises UnknownJob."""
    return _existing(connection.execute(select(tables.jobs).where(_JOBS.id == job_id)).one_or_none(), job_id)


def lock_job(connection: Connection, job_id: int) -> JobRecord:
    """Lock the row of a job and read it. Raises UnknownJob."""
    statement = select(tables.jobs).where(_JOBS.id == job_id).with_for_update(key_share=True)
    return _existing(connection.execute(statement).one_or_none(), job_id)


def lock_jobs(connection: Connection, job_ids: Collection[int]) -> dict[int, JobRecord]:
    """Lock these jobs in their one order."""
    statement = select(tables.jobs).where(_JOBS.id.in_(job_ids)).order_by(_JOBS.id).with_for_update(key_share=True)
    return {row.id: _record(row) for row in connection.execute(statement)}


def lock_batches(connection: Connection, batch_ids: Collection[int]) -> dict[int, Row[Any]]:
    """Lock these batches in their one order; their jobs are locked already."""
    statement = (
        select(tables.job_batches)
        .where(_BATCHES.id.in_(batch_ids))
        .order_by(_BATCHES.id)
        .with_for_update(key_share=True)
    )
    return {row.id: row for row in connection.execute(statement)}


def insert_batches(
    connection: Connection, job: JobRecord, batches: Sequence[Sequence[BatchItem]], **columns: Any
) -> list[int]:
    """Add pending batches behind those that the job has; return their ids, in order."""
    first = count_batches(connection, job.id)
    rows = [
        {
            "job_id": job.id,
            "generation_id": job.generation_id,
            "images": [item.as_json() for item in items],
            "state": "pending",
            "attempts": 0,
            "lease_token": 0,
            "ordinal": first + place,
            "counts": {},
        }
        | columns
        for place, items in enumerate(batches)
    ]
    ids: list[int] = []
    for start in range(0, len(rows), CHUNK):
        statement = insert(tables.job_batches).returning(_BATCHES.id, sort_by_parameter_order=True)
        ids += connection.scalars(statement, rows[start : start + CHUNK])
    return ids


def count_batches(connection: Connection, job_id: int, states: Sequence[BatchState] = ()) -> int:
    """How many batches of the job there are (in these states)."""
    statement = select(func.count()).select_from(tables.job_batches).where(_BATCHES.job_id == job_id)
    if states:
        statement = statement.where(_BATCHES.state.in_(states))
    return connection.execute(statement).scalar_one()


class FinishedBatch(NamedTuple):
    """A locked batch that nobody works on from here on, and how many of its images had which outcome."""

    id: int
    state: BatchState
    counts: Mapping[str, int]


def finish_batch(connection: Connection, batch_id: int, state: BatchState, counts: Mapping[str, int]) -> None:
    """Close a locked batch: nobody works on it from here on."""
    finish_batches(connection, [FinishedBatch(batch_id, state, counts)])


def finish_batches(connection: Connection, batches: Sequence[FinishedBatch]) -> None:
    """Close these locked batches."""
    if not batches:
        return
    connection.execute(
        update(tables.job_batches)
        .where(_BATCHES.id == bindparam("finished_id"))
        .values(
            state=bindparam("new_state"),
            counts=bindparam("new_counts"),
            finished_at=now(),
            lease_expires_at=None,
        ),
        [{"finished_id": batch.id, "new_state": batch.state, "new_counts": dict(batch.counts)} for batch in batches],
    )


def release_batch(connection: Connection, batch_id: int) -> None:
    """Let a locked batch wait again; the next sweep sends it."""
    values = {"state": "pending", "lease_owner": None, "lease_expires_at": None, "sent_at": None}
    connection.execute(update(tables.job_batches).where(_BATCHES.id == batch_id).values(values))


def count_outcomes(connection: Connection, job: JobRecord, counts: Mapping[str, int], moment: datetime) -> None:
    """Add to a locked job's counts, and finish it when its listing is done and no batch is unfinished."""
    values: dict[str, Any] = {"counts": add_counts(job.counts, counts), "updated_at": moment}
    if job.state == "running" and not _has_unfinished(connection, job.id):
        values |= {"state": "finished", "finished_at": moment}
    connection.execute(update(tables.jobs).where(_JOBS.id == job.id).values(values))


def _has_unfinished(connection: Connection, job_id: int) -> bool:
    """Whether a batch is left; each commit asks, so the first one found is enough: a job may have thousands."""
    here = (_BATCHES.job_id == job_id, _BATCHES.state.in_(UNFINISHED_BATCH))
    return connection.execute(select(_BATCHES.id).where(*here).limit(1)).first() is not None


def _existing(row: Row[Any] | None, job_id: int) -> JobRecord:
    if row is None:
        raise UnknownJob(f"there is no job {job_id}")
    return _record(row)


def _record(row: Row[Any]) -> JobRecord:
    return JobRecord(**row._mapping)  # noqa: SLF001 - SQLAlchemy's documented name
