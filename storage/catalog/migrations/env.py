"""Runs the migrations on the connection that `storage.catalog.schema` hands over, inside its transaction.

All or nothing: killed at any moment, a migration leaves the old schema. To write one, add a file to
`versions` and its name to `schema.REVISIONS`; a test compares the result with `tables.py`.
"""

from __future__ import annotations

from alembic import context

from storage.catalog.database.engine import VERSION_TABLE
from storage.catalog.database.postgres import store_vectors_plainly
from storage.catalog.tables import metadata

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=metadata,
    version_table=VERSION_TABLE,
    render_as_batch=True,  # SQLite cannot alter columns: Alembic copies the table
)
context.run_migrations()
if connection.dialect.name == "postgresql":  # repeating it changes nothing
    store_vectors_plainly(connection)
