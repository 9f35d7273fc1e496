"""Building blocks of statements that both databases take: many rows at once, and long id lists in portions.

SQLAlchemy's own way for many rows handles each value of each row on its own, which took most of the time of a
commit. Here whole columns are converted, and the driver gets tuples (SQLite) or a COPY (PostgreSQL).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import repeat
from typing import Any

from sqlalchemy import ColumnElement, Connection, Table, Text, any_, bindparam, insert, select
from sqlalchemy import column as sql_column
from sqlalchemy import table as sql_table
from sqlalchemy.dialects import postgresql, sqlite

from storage.catalog.postgres import BINARY_ROWS, copy_rows

# SQLite takes 32,766 parameters a statement, PostgreSQL 65,535; a thousand already hide the round trip.
CHUNK = 1000
COPY_ROWS = 32  # below, the round trips that COPY needs cost more than it saves
READS_VECTORS: Any = {BINARY_ROWS: True}  # execution options of a select that returns vectors

Row = Mapping[str, Any]
_Finish = Callable[[Any], Any]  # adds to an insert what is to happen when the row stands already
_INSERTS: Mapping[str, Callable[[Table], Any]] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}


def chunks(values: Iterable[str]) -> Iterator[list[str]]:
    """The values in lists of at most `CHUNK`, for use in `one_of`."""
    everything = list(values)
    for start in range(0, len(everything), CHUNK):
        yield everything[start : start + CHUNK]


def one_of(connection: Connection, column: ColumnElement[str], values: Collection[str]) -> ColumnElement[bool]:
    """Whether the text column is one of the values; PostgreSQL takes a third of the time for one array."""
    if connection.dialect.name == "sqlite":
        return column.in_(values)
    return column == any_(bindparam(None, list(values), type_=postgresql.ARRAY(Text())))


def insert_or_update(
    connection: Connection,
    table: Table,
    rows: Sequence[Row],
    update: Sequence[str],
    computed: Mapping[str, ColumnElement[Any]] | None = None,
) -> None:
    """Insert the rows; where the primary key stands already, set the `update` and `computed` columns.

    All rows have the columns of the first one. A key may stand twice: the later row then updates the earlier.
    """

    def or_update(upsert: Any) -> Any:
        changes = {name: upsert.excluded[name] for name in update} | dict(computed or {})
        return upsert.on_conflict_do_update(index_elements=list(table.primary_key.columns), set_=changes)

    _write_rows(connection, table, rows, or_update)


def insert_rows(connection: Connection, table: Table, rows: Sequence[Row]) -> None:
    """Insert the rows; all have the columns of the first one."""
    _write_rows(connection, table, rows, lambda statement: statement)


def _write_rows(connection: Connection, table: Table, rows: Sequence[Row], finish: _Finish) -> None:
    for start in range(0, len(rows), CHUNK):
        chunk = rows[start : start + CHUNK]
        if connection.dialect.name == "sqlite":
            _write_tuples(connection, table, chunk, finish)
        elif len(chunk) < COPY_ROWS or _has_twice(table, chunk):
            connection.execute(finish(postgresql.insert(table)), chunk)
        else:
            _write_by_copy(connection, table, chunk, finish)


def _write_tuples(connection: Connection, table: Table, rows: Sequence[Row], finish: _Finish) -> None:
    names = list(rows[0])
    compiled = finish(sqlite.insert(table)).compile(dialect=connection.dialect, column_keys=names)
    constants = {name: value for name, value in compiled.params.items() if name not in rows[0]}  # of computed columns
    columns = [
        repeat(constants[name], len(rows)) if name in constants else _converted(connection, table, name, rows)
        for name in compiled.positiontup
    ]
    connection.exec_driver_sql(str(compiled), list(zip(*columns, strict=True)))


def _write_by_copy(connection: Connection, table: Table, rows: Sequence[Row], finish: _Finish) -> None:
    names = list(rows[0])
    columns = [_converted(connection, table, name, rows) for name in names]
    staging = sql_table(copy_rows(connection, table, names, zip(*columns, strict=True)), *map(sql_column, names))
    connection.execute(finish(postgresql.insert(table).from_select(names, select(staging))))


def _converted(connection: Connection, table: Table, name: str, rows: Sequence[Row]) -> list[Any]:
    """One column of the rows as the driver takes it."""
    values = [row[name] for row in rows]
    convert = table.c[name].type.dialect_impl(connection.dialect).bind_processor(connection.dialect)
    if convert is None:
        return values
    converted: list[Any] = []
    for number, value in enumerate(values):  # the moment of the commit is one object in all rows: converted once
        same = number > 0 and value is values[number - 1]
        converted.append(converted[-1] if same else convert(value))
    return converted


def _has_twice(table: Table, rows: Sequence[Row]) -> bool:
    """Whether a key stands twice: PostgreSQL refuses to touch one row twice in a statement."""
    names = [column.name for column in table.primary_key.columns if column.name in rows[0]]
    return len({tuple(row[name] for name in names) for row in rows}) < len(rows)


def insert_new(connection: Connection, table: Table, row: Row) -> int:
    """Insert one row and return the number it got."""
    key = connection.execute(insert(table).values(row)).inserted_primary_key
    return int(key[0])  # type: ignore[index]  # always there for the insert of one row


def insert_missing(connection: Connection, table: Table, row: Row) -> None:
    """Insert the row, unless one with the same unique columns is there already (also by another process)."""
    connection.execute(_INSERTS[connection.dialect.name](table).values(row).on_conflict_do_nothing())
