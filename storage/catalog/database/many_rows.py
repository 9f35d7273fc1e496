"""Writes many rows with one statement on either database. Knows no table; rows come as columns.

SQLAlchemy's own way for many rows handles each value of each row on its own, which took most of the time of a
commit. Here whole columns are converted, the text of a statement is made once, and the driver gets tuples
(SQLite) or a COPY (PostgreSQL).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import repeat
from typing import Any

from sqlalchemy import ColumnElement, Connection, Dialect, Table, func, literal_column, select
from sqlalchemy import column as sql_column
from sqlalchemy import table as sql_table
from sqlalchemy.dialects import postgresql, sqlite

from storage.catalog.database.postgres import copy_rows, staging_name
from storage.catalog.tables import NULL_KEEPS

COPY_ROWS = 32  # below, the round trips that COPY needs cost more than it saves

# By name of column: a list holds one value for each row, anything else is the value of every row.
Columns = Mapping[str, Any]

_STATEMENTS = 64  # more than the program has
_INSERTS: Mapping[str, Callable[[Table], Any]] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}


@dataclass(frozen=True)
class _Write:
    """An insert into these columns; where the key stands already, `update` is set and `increase` grows by one."""

    table: Table
    names: tuple[str, ...]
    update: tuple[str, ...] = ()
    increase: tuple[str, ...] = ()

    def finished(self, insert: Any) -> Any:
        """The insert with what is to happen when the row stands already."""
        if not self.update:
            return insert
        grown = {name: self.table.c[name] + literal_column("1") for name in self.increase}
        changes = {name: self._updated(name, insert.excluded[name]) for name in self.update} | grown
        return insert.on_conflict_do_update(index_elements=list(self.table.primary_key.columns), set_=changes)

    def _updated(self, name: str, given: ColumnElement[Any]) -> ColumnElement[Any]:
        column = self.table.c[name]
        return func.coalesce(given, column) if column.info.get(NULL_KEEPS) else given


def insert_or_update(
    connection: Connection, table: Table, columns: Columns, update: Sequence[str], increase: Sequence[str] = ()
) -> None:
    """Insert the rows; where the primary key stands already, set the columns `update`, add 1 to `increase`.

    A key may stand twice: the later row then updates the earlier.
    """
    _write(connection, _Write(table, tuple(columns), tuple(update), tuple(increase)), columns)


def insert_rows(connection: Connection, table: Table, columns: Columns) -> None:
    """Insert the rows."""
    _write(connection, _Write(table, tuple(columns)), columns)


def _write(connection: Connection, write: _Write, columns: Columns) -> None:
    (count,) = {len(values) for values in columns.values() if isinstance(values, list)}  # all as long
    if count == 0:
        return
    if connection.dialect.name == "sqlite":
        statement, names = _sqlite_text(write)
        connection.exec_driver_sql(statement, list(_rows(connection.dialect, write.table, columns, names)))
    elif count < COPY_ROWS or _has_twice(write.table, columns):
        rows = [dict(zip(columns, row, strict=True)) for row in _tuples(columns.values())]
        connection.execute(_insert(write, "postgresql"), rows)
    else:
        staged = _rows(connection.dialect, write.table, columns, write.names)
        copy_rows(connection, write.table, write.names, staged)
        connection.execute(_insert_staged(write))


@lru_cache(_STATEMENTS)
def _sqlite_text(write: _Write) -> tuple[str, Sequence[str]]:
    """The statement for the driver, and the columns in the order of its question marks."""
    compiled = _insert(write, "sqlite").compile(dialect=sqlite.dialect(), column_keys=list(write.names))
    return str(compiled), compiled.positiontup


@lru_cache(_STATEMENTS)
def _insert(write: _Write, dialect: str) -> Any:
    return write.finished(_INSERTS[dialect](write.table))


@lru_cache(_STATEMENTS)
def _insert_staged(write: _Write) -> Any:
    """PostgreSQL's COPY knows no ON CONFLICT: this moves the rows on from where it put them."""
    staged = sql_table(staging_name(write.table), *map(sql_column, write.names))
    return write.finished(postgresql.insert(write.table).from_select(write.names, select(staged)))


def _rows(dialect: Dialect, table: Table, columns: Columns, names: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    """The rows as the driver takes them, one column of a tuple a name."""
    converters = _converters(dialect, table)
    return _tuples([_converted(columns[name], converters[name]) for name in names])


def _tuples(columns: Iterable[Any]) -> Iterator[tuple[Any, ...]]:
    return zip(*(values if isinstance(values, list) else repeat(values) for values in columns), strict=False)


@lru_cache(_STATEMENTS)
def _converters(dialect: Dialect, table: Table) -> Mapping[str, Callable[[Any], Any] | None]:
    """How each column's values become those of the driver; None: they are already."""
    return {column.name: column.type.dialect_impl(dialect).bind_processor(dialect) for column in table.c}


def _converted(values: Any, convert: Callable[[Any], Any] | None) -> Any:
    if convert is None:
        return values
    return list(map(convert, values)) if isinstance(values, list) else convert(values)


def _has_twice(table: Table, columns: Columns) -> bool:
    """Whether a key stands twice: PostgreSQL refuses to touch one row twice in a statement."""
    keys = [columns[column.name] for column in table.primary_key.columns if column.name in columns]
    count = next(len(values) for values in keys if isinstance(values, list))
    return len(set(_tuples(keys))) < count
