"""How far a job is: its counts, and its rate by the time stamps of the batches that finished last."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from sqlalchemy import Connection, select

from storage.catalog import tables
from storage.catalog.database.clock import now
from storage.catalog.queued.job_records import OUTCOMES, UNFINISHED_BATCH, JobProgress
from storage.catalog.queued.job_rows import count_batches
from storage.catalog.records import JobRecord

_BATCHES = tables.job_batches.c
_RATE_BATCHES = 32  # newest finished batches that the rate is taken from: a few minutes of one worker
_MIN_SECONDS = 1e-3  # two time stamps of one transaction are equal


def progress_of(connection: Connection, job: JobRecord) -> JobProgress:
    """Sum up a job as it stands in the caller's transaction."""
    outcomes = {name: job.counts.get(name, 0) for name in OUTCOMES}
    listed = job.counts.get("listed", 0)
    pending = max(0, listed - sum(outcomes.values()))
    rate = _rate(connection, job)
    return JobProgress(
        job=job,
        listed=listed,
        **outcomes,
        removed=job.counts.get("removed", 0),
        pending=pending,
        batches_left=count_batches(connection, job.id, UNFINISHED_BATCH),
        rate=rate,
        eta_seconds=pending / rate if job.state == "running" and rate > 0 else None,
    )


def _rate(connection: Connection, job: JobRecord) -> float:
    """Images per second; a job that stands still gets slower with each look, as it should."""
    if job.finished_at is not None:
        return _images(job.counts) / _seconds(job.started_at, job.finished_at)
    newest = (
        select(_BATCHES.finished_at, _BATCHES.counts)
        .where(_BATCHES.job_id == job.id, _BATCHES.state == "done", _BATCHES.finished_at.is_not(None))
        .order_by(_BATCHES.finished_at.desc())
        .limit(_RATE_BATCHES + 1)
    )
    done = connection.execute(newest).all()
    if not done:
        return 0.0
    whole = len(done) <= _RATE_BATCHES  # all that there are: then their work began with the job
    since = job.started_at if whole else done[-1].finished_at
    return sum(_images(counts) for _, counts in done[:_RATE_BATCHES]) / _seconds(since, now())


def _images(counts: Mapping[str, int]) -> int:
    return sum(counts.get(name, 0) for name in OUTCOMES)


def _seconds(start: datetime, end: datetime) -> float:
    return max((end - start).total_seconds(), _MIN_SECONDS)
