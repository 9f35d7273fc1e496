"""Building blocks of statements that both databases take: long id lists, and single rows."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

from sqlalchemy import ColumnElement, Connection, Table, Text, any_, bindparam, func, insert, select
from sqlalchemy.dialects import postgresql, sqlite

from storage.catalog.database.postgres import BINARY_ROWS

# SQLite takes 32,766 parameters a statement, PostgreSQL 65,535; a thousand already hide the round trip.
CHUNK = 1000
READS_VECTORS: Any = {BINARY_ROWS: True}  # execution options of a select that returns vectors

_INSERTS: Mapping[str, Callable[[Table], Any]] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}


def chunks(values: Iterable[str]) -> Iterator[list[str]]:
    """The values in lists of at most `CHUNK`."""
    everything = list(values)
    for start in range(0, len(everything), CHUNK):
        yield everything[start : start + CHUNK]


def one_of(connection: Connection, column: ColumnElement[str], values: Collection[str]) -> ColumnElement[bool]:
    """Whether the text column is one of the values, which go to the database as one: an array, or JSON on SQLite.

    However many there are, the statement stays the same and takes a third of the time of one parameter for each.
    """
    if connection.dialect.name == "postgresql":
        return column == any_(bindparam(None, as_list("postgresql", values), type_=postgresql.ARRAY(Text())))
    listed = func.json_each(bindparam(None, as_list("sqlite", values), type_=Text()))
    return column.in_(select(listed.table_valued("value").c.value))


def any_of_collection(connection: Connection, table: Table, collection_id: int) -> bool:
    """Whether the table has a row of the collection: where it has none, as often, nothing is looked for row by row."""
    statement = select(table.c.collection_id).where(table.c.collection_id == collection_id).limit(1)
    return connection.execute(statement).first() is not None


def as_list(dialect: str, values: Collection[str]) -> Any:
    """The values as the one parameter that they are for this database."""
    storable = [value for value in values if "\0" not in value]  # PostgreSQL refuses a NUL, SQLite reads up to it
    return storable if dialect == "postgresql" else json.dumps(storable, ensure_ascii=False)


def insert_new(connection: Connection, table: Table, row: Mapping[str, Any]) -> int:
    """Insert one row and return the number it got."""
    key = connection.execute(insert(table).values(row)).inserted_primary_key
    return int(key[0])  # type: ignore[index]  # always there for the insert of one row


def insert_missing(connection: Connection, table: Table, row: Mapping[str, Any]) -> None:
    """Insert the row, unless one with the same unique columns is there already (also by another process)."""
    connection.execute(_INSERTS[connection.dialect.name](table).values(row).on_conflict_do_nothing())
