"""Other addresses for images whose files were moved as a whole, as by restoring a backup into another folder."""

from __future__ import annotations

from sqlalchemy import Table, func, literal, update

from storage.catalog import tables
from storage.catalog.database.engine import Database


def move_sources(database: Database, before: str, after: str) -> int:
    """Let every address that begins with `before` begin with `after`; return how many images that are."""
    if before == after:
        return 0
    with database.write() as connection:
        images, _failures = (
            connection.execute(
                update(table)
                .where(func.substr(table.c.source_uri, 1, len(before)) == before)
                .values(source_uri=literal(after) + func.substr(table.c.source_uri, len(before) + 1))
            ).rowcount
            for table in _WITH_SOURCES
        )
    return int(images)


_WITH_SOURCES: tuple[Table, Table] = (tables.images, tables.failures)
