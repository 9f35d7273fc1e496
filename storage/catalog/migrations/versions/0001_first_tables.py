"""The first tables: collections, generations, images, vectors (the feed), failures, jobs, snapshots."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from storage.catalog.database.column_types import PlainText, Sha256, UtcDateTime

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create all tables."""
    _create_collections_and_generations()
    _create_images()
    _create_vectors()
    _create_failures()
    _create_jobs()
    _create_snapshots()


def _create_collections_and_generations() -> None:
    op.create_table(
        "collections",
        sa.Column("id", sa.Integer),
        sa.Column("name", PlainText, nullable=False),
        sa.Column("active_generation_id", sa.Integer),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_collections"),
        sa.UniqueConstraint("name", name="uq_collections_name"),
    )
    op.create_table(
        "generations",
        sa.Column("id", sa.Integer),
        sa.Column("collection_id", sa.Integer, nullable=False),
        sa.Column("model_name", PlainText, nullable=False),
        sa.Column("model_revision", PlainText, nullable=False),
        sa.Column("weights_fingerprint", PlainText, nullable=False),
        sa.Column("preprocessing_fingerprint", PlainText, nullable=False),
        sa.Column("dimension", sa.Integer, nullable=False),
        sa.Column("state", PlainText, nullable=False),
        sa.Column("last_seq", sa.BigInteger, nullable=False),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_generations"),
        sa.ForeignKeyConstraint(["collection_id"], ["collections.id"], name="fk_generations_collections"),
    )
    op.create_index("ix_generations_collection_id", "generations", ["collection_id"])


def _create_images() -> None:
    op.create_table(
        "images",
        sa.Column("collection_id", sa.Integer, nullable=False),
        sa.Column("image_id", PlainText, nullable=False),
        sa.Column("source_uri", PlainText, nullable=False),
        sa.Column("etag", PlainText, nullable=False),
        sa.Column("sha256", Sha256),
        sa.Column("width", sa.Integer, nullable=False),
        sa.Column("height", sa.Integer, nullable=False),
        sa.Column("format", PlainText, nullable=False),
        sa.Column("bytes", sa.BigInteger, nullable=False),
        sa.Column("attributes", sa.JSON, nullable=False),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.Column("updated_at", UtcDateTime, nullable=False),
        sa.Column("deleted_at", UtcDateTime),
        sa.PrimaryKeyConstraint("collection_id", "image_id", name="pk_images"),
        sa.ForeignKeyConstraint(["collection_id"], ["collections.id"], name="fk_images_collections"),
    )
    op.create_table(
        "image_attributes",
        sa.Column("collection_id", sa.Integer, nullable=False),
        sa.Column("image_id", PlainText, nullable=False),
        sa.Column("key", PlainText, nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("kind", PlainText, nullable=False),
        sa.Column("text", PlainText),
        sa.Column("number", sa.Double),
        sa.PrimaryKeyConstraint("collection_id", "image_id", "key", "position", name="pk_image_attributes"),
        sa.ForeignKeyConstraint(
            ["collection_id", "image_id"],
            ["images.collection_id", "images.image_id"],
            name="fk_image_attributes_images",
            ondelete="CASCADE",
        ),
    )
    for value in ("text", "number"):
        columns = ["collection_id", "key", "kind", value]
        op.create_index(f"ix_image_attributes_{'_'.join(columns)}", "image_attributes", columns)


def _create_vectors() -> None:
    op.create_table(
        "vectors",
        sa.Column("generation_id", sa.Integer, nullable=False),
        sa.Column("image_id", PlainText, nullable=False),
        sa.Column("seq", sa.BigInteger, nullable=False),
        sa.Column("sha256", Sha256),
        sa.Column("vector", sa.LargeBinary),
        sa.PrimaryKeyConstraint("generation_id", "image_id", name="pk_vectors"),
        sa.UniqueConstraint("generation_id", "seq", name="uq_vectors_generation_id_seq"),
        sa.ForeignKeyConstraint(["generation_id"], ["generations.id"], name="fk_vectors_generations"),
    )
    op.create_index("ix_vectors_generation_id_sha256", "vectors", ["generation_id", "sha256"])


def _create_failures() -> None:
    op.create_table(
        "failures",
        sa.Column("collection_id", sa.Integer, nullable=False),
        sa.Column("image_id", PlainText, nullable=False),
        sa.Column("source_uri", PlainText, nullable=False),
        sa.Column("etag", PlainText, nullable=False),
        sa.Column("reason", PlainText, nullable=False),
        sa.Column("message", PlainText, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("first_at", UtcDateTime, nullable=False),
        sa.Column("last_at", UtcDateTime, nullable=False),
        sa.PrimaryKeyConstraint("collection_id", "image_id", name="pk_failures"),
        sa.ForeignKeyConstraint(["collection_id"], ["collections.id"], name="fk_failures_collections"),
    )


def _create_jobs() -> None:
    op.create_table(
        "jobs",
        sa.Column("id", sa.Integer),
        sa.Column("collection_id", sa.Integer, nullable=False),
        sa.Column("kind", PlainText, nullable=False),
        sa.Column("source", PlainText, nullable=False),
        sa.Column("options", sa.JSON, nullable=False),
        sa.Column("counts", sa.JSON, nullable=False),
        sa.Column("state", PlainText, nullable=False),
        sa.Column("started_at", UtcDateTime, nullable=False),
        sa.Column("finished_at", UtcDateTime),
        sa.PrimaryKeyConstraint("id", name="pk_jobs"),
        sa.ForeignKeyConstraint(["collection_id"], ["collections.id"], name="fk_jobs_collections"),
    )
    op.create_index("ix_jobs_collection_id", "jobs", ["collection_id"])
    op.create_table(
        "job_batches",
        sa.Column("id", sa.Integer),
        sa.Column("job_id", sa.Integer, nullable=False),
        sa.Column("images", sa.JSON, nullable=False),
        sa.Column("state", PlainText, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("lease_owner", PlainText),
        sa.Column("lease_expires_at", UtcDateTime),
        sa.PrimaryKeyConstraint("id", name="pk_job_batches"),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_job_batches_jobs"),
    )
    op.create_index("ix_job_batches_job_id", "job_batches", ["job_id"])
    op.create_index("ix_job_batches_state_lease_expires_at", "job_batches", ["state", "lease_expires_at"])


def _create_snapshots() -> None:
    op.create_table(
        "snapshots",
        sa.Column("id", sa.Integer),
        sa.Column("generation_id", sa.Integer, nullable=False),
        sa.Column("seq", sa.BigInteger, nullable=False),
        sa.Column("count", sa.BigInteger, nullable=False),
        sa.Column("uri", PlainText, nullable=False),
        sa.Column("sha256", Sha256),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_snapshots"),
        sa.ForeignKeyConstraint(["generation_id"], ["generations.id"], name="fk_snapshots_generations"),
    )
    op.create_index("ix_snapshots_generation_id_seq", "snapshots", ["generation_id", "seq"])
