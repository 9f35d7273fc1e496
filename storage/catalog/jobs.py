"""Jobs: what was asked of the indexing side, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import select, update

from storage.catalog import tables
from storage.catalog.clock import now
from storage.catalog.engine import Database
from storage.catalog.records import JobRecord, JobState
from storage.catalog.statements import insert_new
from storage.errors import CatalogError

_JOBS = tables.jobs.c


class Jobs:
    """Records runs; the runs themselves know nothing of each other."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def start(self, collection_id: int, kind: str, source: str, options: Mapping[str, Any]) -> int:
        """Record that a run begins; return its number. The options are JSON."""
        values = {
            "collection_id": collection_id,
            "kind": kind,
            "source": source,
            "options": dict(options),
            "counts": {},
            "state": "running",
            "started_at": now(),
        }
        with self._database.write() as connection:
            return insert_new(connection, tables.jobs, values)

    def finish(self, job_id: int, state: JobState, counts: Mapping[str, int]) -> None:
        """Record how a run ended and what it counted. Raises CatalogError when there is no such run."""
        statement = (
            update(tables.jobs).where(_JOBS.id == job_id).values(state=state, counts=dict(counts), finished_at=now())
        )
        with self._database.write() as connection:
            if connection.execute(statement).rowcount == 0:
                raise CatalogError(f"there is no job {job_id}")

    def list(self, collection_id: int, limit: int = 20) -> list[JobRecord]:
        """The runs of the collection, newest first."""
        statement = (
            select(tables.jobs).where(_JOBS.collection_id == collection_id).order_by(_JOBS.id.desc()).limit(limit)
        )
        with self._database.read() as connection:
            return [JobRecord(**row) for row in connection.execute(statement).mappings()]
