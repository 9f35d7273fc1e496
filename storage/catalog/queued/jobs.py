"""Jobs: what was asked of the indexing side, and what came of it; queued ones with their batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Select, select, update

from storage.catalog import tables
from storage.catalog.database.clock import now, shared_now
from storage.catalog.database.engine import Database
from storage.catalog.database.statements import insert_new
from storage.catalog.queued.job_progress import progress_of
from storage.catalog.queued.job_records import UNFINISHED_JOB, BatchItem, JobProgress, JobRequest
from storage.catalog.queued.job_rows import count_outcomes, find_job, insert_batches, lock_job
from storage.catalog.queued.mirror import remove_unlisted
from storage.catalog.records import JobRecord, JobState
from storage.errors import JobClosed, UnknownCollection, UnknownJob

_JOBS = tables.jobs.c
_BATCHES = tables.job_batches.c


class Jobs:
    """Records runs of the embedded mode (`start`, `finish`), and jobs that many processes share (the rest)."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def start(self, collection_id: int, kind: str, source: str, options: Mapping[str, Any]) -> int:
        """Record that a run begins; return its number. The options are JSON."""
        moment = now()
        values = {
            "collection_id": collection_id,
            "kind": kind,
            "source": source,
            "options": dict(options),
            "counts": {},
            "state": "running",
            "started_at": moment,
            "updated_at": moment,
        }
        with self._database.write() as connection:
            return insert_new(connection, tables.jobs, values)

    def finish(self, job_id: int, state: JobState, counts: Mapping[str, int]) -> None:
        """Record how a run ended and what it counted. Raises UnknownJob."""
        moment = now()
        values = {"state": state, "counts": dict(counts), "updated_at": moment, "finished_at": moment}
        with self._database.write() as connection:
            if connection.execute(update(tables.jobs).where(_JOBS.id == job_id).values(values)).rowcount == 0:
                raise UnknownJob(f"there is no job {job_id}")

    def unfinished(self, request: JobRequest) -> JobRecord | None:
        """The unfinished job that does what is asked, if there is one."""
        with self._database.read() as connection:
            job_id = connection.scalar(_unfinished(request))
            return None if job_id is None else find_job(connection, job_id)

    def open(self, request: JobRequest) -> tuple[JobRecord, bool]:
        """Return the job that does what is asked, and whether it was made now.

        An unfinished job with the same request is taken instead of a second one, also by two processes at once; it
        takes over a larger priority, and its waiting batches are sent again with that. Raises UnknownCollection.
        """
        with self._database.write() as connection:
            _lock_collection(connection, request.collection_id)
            job_id = connection.scalar(_unfinished(request))
            if job_id is not None:
                _hasten(connection, lock_job(connection, job_id), request.priority)
                return find_job(connection, job_id), False
            return find_job(
                connection, insert_new(connection, tables.jobs, _job_row(request, shared_now(connection)))
            ), True

    def add_batches(  # noqa: PLR0913 - what a page of a listing is made of, by name
        self,
        job_id: int,
        batches: Sequence[Sequence[BatchItem]],
        *,
        listed_until: str,
        counts: Mapping[str, int],
        after: str | None = None,
        settled: Sequence[BatchItem] = (),
    ) -> list[int]:
        """Commit one page of the listing: its batches, what it counted and where it ends; return the batches' ids.

        `settled` are images of the page that failed by the listing itself: no worker gets them, but they are the
        job's, see `Batches.image_ids`.

        `after` is where this lister stands. Raises JobClosed when the job is not being listed any more, or
        stands elsewhere: then another process goes on with the listing.
        """
        with self._database.write() as connection:
            job = _lock_listing(connection, job_id)
            if after is not None and job.listed_until != after:
                raise JobClosed(f"job {job_id} is listed by another process, which stands at {job.listed_until!r}")
            ids = insert_batches(connection, job, batches)
            insert_batches(connection, job, [settled] if settled else [], state="done")
            count_outcomes(connection, job, counts, now())
            statement = update(tables.jobs).where(_JOBS.id == job_id).values(listed_until=listed_until)
            connection.execute(statement)
        return ids

    def remove_gone(self, job_id: int, seen: Mapping[str, datetime]) -> int:
        """Remove images whose files the job's source lists no more; return, and count to the job, how many lived.

        `seen`: image ids with the `updated_at` that they had before the source was listed; one that changed since
        then stays. Raises JobClosed as `add_batches` does: a cancelled job removes nothing more.
        """
        with self._database.write() as connection:
            return remove_unlisted(connection, _lock_listing(connection, job_id), seen)

    def listing_done(self, job_id: int, counts: Mapping[str, int] | None = None) -> None:
        """Record that the source was listed to its end; a job without unfinished batches is finished by that.

        `counts` are added, for what only the end of a listing can tell. Raises JobClosed as `add_batches` does.
        """
        with self._database.write() as connection:
            _lock_listing(connection, job_id)
            connection.execute(update(tables.jobs).where(_JOBS.id == job_id).values(state="running"))
            count_outcomes(connection, find_job(connection, job_id), counts or {}, now())

    def abandon(self, job_id: int) -> bool:
        """End a job whose listing failed before its first page: there is nothing to go on with; whether it was ended.

        One of which another process listed a page meanwhile, or that was cancelled, stays as it is. Raises UnknownJob.
        """
        moment = now()
        with self._database.write() as connection:
            job = lock_job(connection, job_id)
            if job.state != "listing" or job.listed_until:
                return False
            values = {"state": "failed", "updated_at": moment, "finished_at": moment}
            connection.execute(update(tables.jobs).where(_JOBS.id == job_id).values(values))
        return True

    def get(self, job_id: int) -> JobProgress:
        """How far a job is. Raises UnknownJob."""
        with self._database.read() as connection:
            return progress_of(connection, find_job(connection, job_id))

    def list(self, collection_id: int | None = None, limit: int = 20) -> list[JobRecord]:
        """The runs and jobs (of the collection), newest first."""
        statement = select(tables.jobs).order_by(_JOBS.id.desc()).limit(limit)
        if collection_id is not None:
            statement = statement.where(_JOBS.collection_id == collection_id)
        with self._database.read() as connection:
            return [JobRecord(**row) for row in connection.execute(statement).mappings()]

    def cancel(self, job_id: int) -> bool:
        """Cancel a job: batches that nobody works on are dropped, the others still commit; false if it was over.

        Raises UnknownJob.
        """
        moment = now()
        with self._database.write() as connection:
            if lock_job(connection, job_id).state not in UNFINISHED_JOB:
                return False
            values = {"state": "cancelled", "updated_at": moment, "finished_at": moment}
            connection.execute(update(tables.jobs).where(_JOBS.id == job_id).values(values))
            pending = (_BATCHES.job_id == job_id, _BATCHES.state == "pending")
            dropped = update(tables.job_batches).where(*pending).values(state="cancelled", finished_at=moment)
            connection.execute(dropped)
        return True


def _unfinished(request: JobRequest) -> Select[int]:
    unfinished = (_JOBS.request_key == request.key, _JOBS.state.in_(UNFINISHED_JOB))
    return select(_JOBS.id).where(*unfinished).limit(1)


def _hasten(connection: Connection, job: JobRecord, priority: int) -> None:
    if priority <= job.priority:
        return
    connection.execute(update(tables.jobs).where(_JOBS.id == job.id).values(priority=priority))
    waiting = (_BATCHES.job_id == job.id, _BATCHES.state == "pending")
    connection.execute(update(tables.job_batches).where(*waiting).values(sent_at=None))  # the sweeper sends them


def _lock_collection(connection: Connection, collection_id: int) -> None:
    """Requests of one collection come one after the other, so that none is entered twice."""
    columns = tables.collections.c
    if connection.scalar(select(columns.id).where(columns.id == collection_id).with_for_update(key_share=True)) is None:
        raise UnknownCollection(f"there is no collection number {collection_id}")


def _lock_listing(connection: Connection, job_id: int) -> JobRecord:
    job = lock_job(connection, job_id)
    if job.state != "listing":
        raise JobClosed(f"job {job_id} is {job.state}: it takes no more images")
    return job


def _job_row(request: JobRequest, moment: datetime) -> dict[str, Any]:
    return {
        "collection_id": request.collection_id,
        "generation_id": request.generation_id,
        "kind": request.kind,
        "source": request.source,
        "options": request.options.as_json(),
        "request_key": request.key,
        "priority": request.priority,
        "counts": {},
        "state": "listing",
        "started_at": moment,
        "updated_at": moment,
    }
