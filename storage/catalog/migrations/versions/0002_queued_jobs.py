"""Queued jobs: what `jobs` and `job_batches` need for work that many processes share, and named leases.

Columns are added where the tables stand. Copying the tables, as SQLite needs for other changes, would run into
the foreign keys between them, which cannot be switched off within a transaction.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from storage.catalog.database.column_types import PlainText, UtcDateTime

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the columns, fill in when each old run was last heard of, and create `leases`."""
    _extend_jobs()
    _extend_batches()
    op.create_table(
        "leases",
        sa.Column("name", PlainText),
        sa.Column("holder", PlainText, nullable=False),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("expires_at", UtcDateTime, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_leases"),
    )


def _extend_jobs() -> None:
    _add_reference("jobs", "generation_id", "generations")
    op.add_column("jobs", sa.Column("request_key", PlainText))
    op.add_column("jobs", sa.Column("priority", sa.Integer, nullable=False, server_default="0"))
    op.add_column("jobs", sa.Column("listed_until", PlainText, nullable=False, server_default=""))
    op.add_column("jobs", sa.Column("updated_at", UtcDateTime))
    op.execute("UPDATE jobs SET updated_at = COALESCE(finished_at, started_at)")
    op.create_index("ix_jobs_request_key", "jobs", ["request_key"])


def _extend_batches() -> None:
    _add_reference("job_batches", "generation_id", "generations")
    _add_reference("job_batches", "parent_id", "job_batches")
    for name in ("ordinal", "lease_token"):
        op.add_column("job_batches", sa.Column(name, sa.Integer, nullable=False, server_default="0"))
    for name in ("sent_at", "finished_at"):
        op.add_column("job_batches", sa.Column(name, UtcDateTime))
    op.add_column("job_batches", sa.Column("counts", sa.JSON, nullable=False, server_default="{}"))


def _add_reference(table: str, column: str, target: str) -> None:
    """Add a column with its foreign key in one statement: Alembic would make two, and SQLite knows no second."""
    name = f"fk_{table}_{target}"
    op.execute(f"ALTER TABLE {table} ADD COLUMN {column} INTEGER CONSTRAINT {name} REFERENCES {target} (id)")
