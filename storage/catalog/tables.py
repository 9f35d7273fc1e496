"""The tables of the catalog as the newest migration leaves them. Knows no engine and runs nothing.

`vectors` is the changes feed. It stays an ordinary table (on SQLite: with rowid), so vectors are appended in
commit order: reading by `seq` walks the file forwards, and only small keys go to the indexes. Measured with
512 dimensions on SQLite, WITHOUT ROWID by image id commits at a third of that speed, by seq at two thirds.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    UniqueConstraint,
    text,
)

from storage.catalog.database.column_types import Bytes, PlainText, Sha256, UtcDateTime

NULL_KEEPS = "null_keeps"  # mark of a column: an update to NULL leaves what stands there

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

collections = Table(
    "collections",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", PlainText, nullable=False, unique=True),
    # No foreign key: with generations.collection_id it would go round in a circle. generations.py writes it.
    Column("active_generation_id", Integer),
    Column("created_at", UtcDateTime, nullable=False),
)

generations = Table(
    "generations",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("collection_id", ForeignKey("collections.id"), nullable=False, index=True),
    Column("model_name", PlainText, nullable=False),
    Column("model_revision", PlainText, nullable=False),
    Column("weights_fingerprint", PlainText, nullable=False),
    Column("preprocessing_fingerprint", PlainText, nullable=False),
    Column("dimension", Integer, nullable=False),
    Column("state", PlainText, nullable=False),
    Column("last_seq", BigInteger, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("replaced_at", UtcDateTime),  # when another became active in its place, the last time; NULL: never
)

images = Table(
    "images",
    metadata,
    Column("collection_id", ForeignKey("collections.id"), nullable=False),
    Column("image_id", PlainText, nullable=False),
    Column("source_uri", PlainText, nullable=False),
    Column("etag", PlainText, nullable=False),
    Column("sha256", Sha256),
    Column("width", Integer, nullable=False),
    Column("height", Integer, nullable=False),
    Column("format", PlainText, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("attributes", JSON, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
    Column("deleted_at", UtcDateTime),
    PrimaryKeyConstraint("collection_id", "image_id"),
)

# Each value is in one of two columns, and in the index of that one only
_IS_TEXT, _IS_NUMBER = text("text IS NOT NULL"), text("number IS NOT NULL")

image_attributes = Table(
    "image_attributes",
    metadata,
    Column("collection_id", Integer, nullable=False),
    Column("image_id", PlainText, nullable=False),
    Column("key", PlainText, nullable=False),
    Column("position", Integer, nullable=False),  # of the element in a list, else 0
    Column("kind", PlainText, nullable=False),
    Column("text", PlainText),
    Column("number", Double),
    PrimaryKeyConstraint("collection_id", "image_id", "key", "position"),
    ForeignKeyConstraint(
        ["collection_id", "image_id"], ["images.collection_id", "images.image_id"], ondelete="CASCADE"
    ),
    Index(None, "collection_id", "key", "kind", "text", sqlite_where=_IS_TEXT, postgresql_where=_IS_TEXT),
    Index(None, "collection_id", "key", "kind", "number", sqlite_where=_IS_NUMBER, postgresql_where=_IS_NUMBER),
    sqlite_with_rowid=False,  # small rows: the table is its own key, and each index holds the image ids
)

vectors = Table(
    "vectors",
    metadata,
    Column("generation_id", ForeignKey("generations.id"), nullable=False),
    Column("image_id", PlainText, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("sha256", Sha256),  # of the content this vector was made from: images.sha256 may be newer
    Column("vector", Bytes),  # little-endian float32; NULL: the image was removed (tombstone)
    PrimaryKeyConstraint("generation_id", "image_id"),
    UniqueConstraint("generation_id", "seq"),
    Index(None, "generation_id", "sha256"),
)

failures = Table(
    "failures",
    metadata,
    Column("collection_id", ForeignKey("collections.id"), nullable=False),
    Column("image_id", PlainText, nullable=False),
    Column("source_uri", PlainText, nullable=False),
    Column("etag", PlainText, nullable=False),
    Column("reason", PlainText, nullable=False),
    Column("message", PlainText, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("first_at", UtcDateTime, nullable=False),
    Column("last_at", UtcDateTime, nullable=False),
    # Those of the sidecar, for the next try; NULL: none were given
    Column("attributes", JSON(none_as_null=True), info={NULL_KEEPS: True}),
    PrimaryKeyConstraint("collection_id", "image_id"),
)

jobs = Table(
    "jobs",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("collection_id", ForeignKey("collections.id"), nullable=False, index=True),
    Column("kind", PlainText, nullable=False),
    Column("source", PlainText, nullable=False),
    Column("options", JSON, nullable=False),
    Column("counts", JSON, nullable=False),
    Column("state", PlainText, nullable=False),
    Column("started_at", UtcDateTime, nullable=False),
    Column("finished_at", UtcDateTime),
    # From here on only queued jobs fill the columns: a run of the embedded mode keeps the defaults.
    Column("generation_id", ForeignKey("generations.id")),
    Column("request_key", PlainText, index=True),
    Column("priority", Integer, nullable=False, server_default="0"),
    Column("listed_until", PlainText, nullable=False, server_default=""),  # the last key whose page is committed
    Column("updated_at", UtcDateTime),
)

job_batches = Table(
    "job_batches",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("job_id", ForeignKey("jobs.id"), nullable=False, index=True),
    Column("images", JSON, nullable=False),  # references, not content
    Column("state", PlainText, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("lease_owner", PlainText),
    Column("lease_expires_at", UtcDateTime),
    Column("ordinal", Integer, nullable=False, server_default="0"),
    Column("generation_id", ForeignKey("generations.id")),
    Column("lease_token", Integer, nullable=False, server_default="0"),  # +1 with each lease: tells an old holder
    Column("sent_at", UtcDateTime),
    Column("counts", JSON, nullable=False, server_default="{}"),
    Column("parent_id", ForeignKey("job_batches.id")),  # the batch that this one is a half of
    Column("finished_at", UtcDateTime),
    Index(None, "state", "lease_expires_at"),
)

leases = Table(
    "leases",
    metadata,
    Column("name", PlainText, primary_key=True),
    Column("holder", PlainText, nullable=False),
    Column("epoch", BigInteger, nullable=False),  # +1 with each holder; the row stays, so that it never goes back
    Column("expires_at", UtcDateTime, nullable=False),
)

snapshots = Table(
    "snapshots",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("generation_id", ForeignKey("generations.id"), nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("count", BigInteger, nullable=False),
    Column("uri", PlainText, nullable=False),
    Column("sha256", Sha256),
    Column("created_at", UtcDateTime, nullable=False),
    Index(None, "generation_id", "seq"),
)
