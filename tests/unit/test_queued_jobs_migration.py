"""Migration 0002: a data folder of the first version, with rows in it, goes on working."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import datetime, timezone
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from old_catalogs import address_for, catalog_at_revision
from sqlalchemy import create_engine

from storage.catalog import Catalog, JobRequest, tables
from storage.catalog.database.engine import VERSION_TABLE

STARTED, FINISHED = "2026-01-02 03:04:05.000006+00:00", "2026-01-02 03:05:06.000007+00:00"
# Numbers are given by the database, as ever: those of a new catalog begin with 1.
_COUNTS = '{"listed": 3, "indexed": 2, "failed": 1}'
_JOBS = "INSERT INTO jobs (collection_id, kind, source, options, counts, state, started_at, finished_at) VALUES"
ROWS = (
    f"INSERT INTO collections (name, active_generation_id, created_at) VALUES ('photos', 1, '{STARTED}')",
    (
        "INSERT INTO generations (collection_id, model_name, model_revision, weights_fingerprint,"
        " preprocessing_fingerprint, dimension, state, last_seq, created_at)"
        f" VALUES (1, 'baseline', 'builtin', 'w', 'p', 8, 'active', 0, '{STARTED}')"
    ),
    f"{_JOBS} (1, 'index', 'file:///photos/', '{{}}', '{_COUNTS}', 'finished', '{STARTED}', '{FINISHED}')",
    f"{_JOBS} (1, 'index', 's3://b/', '{{}}', '{{}}', 'running', '{STARTED}', NULL)",
    "INSERT INTO job_batches (job_id, images, state, attempts) VALUES (2, '[]', 'done', 1)",
)


@pytest.fixture(params=["sqlite", "postgresql"])
def old_catalog(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of a catalog with schema 0001: a finished run, one that was killed, and a batch."""
    return catalog_at_revision("0001", ROWS, address_for(request, tmp_path))


def test_old_runs_are_still_there(old_catalog: str) -> None:
    with Catalog.open(old_catalog) as catalog:
        killed, finished = catalog.jobs.list(1)
        assert (finished.state, finished.counts["indexed"], finished.priority) == ("finished", 2, 0)
        assert finished.updated_at == finished.finished_at == datetime(2026, 1, 2, 3, 5, 6, 7, timezone.utc)
        assert killed.updated_at == killed.started_at
        assert (killed.generation_id, killed.request_key, killed.listed_until) == (None, None, "")
        progress = catalog.jobs.get(1)
        assert (progress.indexed, progress.failed, progress.is_over) == (2, 1, True)
        assert catalog.batches.sweep().to_send == []
        generation = catalog.generations.active(1)
        assert generation is not None
        job, created = catalog.jobs.open(JobRequest(1, generation.id, "index", "file:///photos/"))
        assert (job.id, created) == (3, True)


def test_the_tables_are_those_of_a_new_catalog(old_catalog: str) -> None:
    Catalog.open(old_catalog).close()
    engine = create_engine(old_catalog.replace("postgresql://", "postgresql+psycopg://"))
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
        assert compare_metadata(context, tables.metadata) == []
    engine.dispose()


def test_references_are_checked_after_the_migration_too(tmp_path: Path) -> None:
    path = tmp_path / "catalog.db"
    Catalog.open(path).close()
    with closing(sqlite3.connect(path)) as connection:
        for table, columns in {"jobs": {"generation_id"}, "job_batches": {"generation_id", "parent_id"}}.items():
            found = {row[3] for row in connection.execute(f"PRAGMA foreign_key_list({table})")}
            assert columns <= found
