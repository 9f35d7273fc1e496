"""Building blocks of statements that both databases take: insert-or-update, and long id lists in portions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Table, insert
from sqlalchemy.dialects import postgresql, sqlite

# SQLite takes 32,766 parameters a statement, PostgreSQL 65,535; a thousand already hide the round trip.
CHUNK = 1000

Row = Mapping[str, Any]
_INSERTS: Mapping[str, Callable[[Table], Any]] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}


def chunks(values: Iterable[str]) -> Iterator[list[str]]:
    """The values in lists of at most `CHUNK`, for use in `IN (...)`."""
    everything = list(values)
    for start in range(0, len(everything), CHUNK):
        yield everything[start : start + CHUNK]


def insert_or_update(
    connection: Connection,
    table: Table,
    rows: Sequence[Row],
    update: Sequence[str],
    computed: Mapping[str, ColumnElement[Any]] | None = None,
) -> None:
    """Insert the rows; where the primary key stands already, set the `update` and `computed` columns."""
    upsert = _INSERTS[connection.dialect.name](table)
    changes = {name: upsert.excluded[name] for name in update} | dict(computed or {})
    statement = upsert.on_conflict_do_update(index_elements=list(table.primary_key.columns), set_=changes)
    for start in range(0, len(rows), CHUNK):
        connection.execute(statement, rows[start : start + CHUNK])


def insert_new(connection: Connection, table: Table, row: Row) -> int:
    """Insert one row and return the number it got."""
    key = connection.execute(insert(table).values(row)).inserted_primary_key
    return int(key[0])  # type: ignore[index]  # always there for the insert of one row


def insert_missing(connection: Connection, table: Table, row: Row) -> None:
    """Insert the row, unless one with the same unique columns is there already (also by another process)."""
    connection.execute(_INSERTS[connection.dialect.name](table).values(row).on_conflict_do_nothing())
