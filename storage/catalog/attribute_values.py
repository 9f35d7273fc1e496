"""Which attributes the images of a collection have, and which values: what filters can be offered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import ColumnElement, Connection, FromClause, func, select

from storage.attributes import BOOLEAN, NUMBER
from storage.catalog import tables
from storage.catalog.database.engine import Database
from storage.catalog.image_rows import LONG_TEXT

_IMAGES = tables.images.c
_ATTRIBUTES = tables.image_attributes.c
_LIVE = (_ATTRIBUTES.collection_id == _IMAGES.collection_id) & (_ATTRIBUTES.image_id == _IMAGES.image_id)


@dataclass(frozen=True)
class ValueCount:
    """One value, and how many images have it."""

    value: str | bool
    count: int


@dataclass(frozen=True)
class AttributeSummary:
    """One attribute: numbers by their bounds, text and booleans by their most frequent values."""

    key: str
    kind: Literal["text", "number", "boolean"]
    values: Sequence[ValueCount] = ()
    min: float | None = None
    max: float | None = None


class AttributeValues:
    """Reads what attributes live images have; each call looks at every attribute of the collection once or twice."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def summaries(self, collection_id: int, *, most_keys: int, most_values: int) -> list[AttributeSummary]:
        """The attributes that the most images have, by key; one of several kinds stands there once for each."""
        with self._database.read() as connection:
            kinds = _kinds(connection, collection_id, most_keys)
            return [_summary(connection, collection_id, one, most_values) for one in kinds]


@dataclass(frozen=True)
class _Kind:
    key: str
    kind: str
    low: float | None
    high: float | None


def _of_live(collection_id: int) -> tuple[FromClause, tuple[ColumnElement[bool], ...]]:
    joined = tables.image_attributes.join(tables.images, _LIVE)
    return joined, (_ATTRIBUTES.collection_id == collection_id, _IMAGES.deleted_at.is_(None))


def _kinds(connection: Connection, collection_id: int, most: int) -> list[_Kind]:
    joined, live = _of_live(collection_id)
    count = func.count()
    statement = (
        select(_ATTRIBUTES.key, _ATTRIBUTES.kind, func.min(_ATTRIBUTES.number), func.max(_ATTRIBUTES.number))
        .select_from(joined)
        .where(*live, _ATTRIBUTES.kind != LONG_TEXT)  # of those only a hash is kept
        .group_by(_ATTRIBUTES.key, _ATTRIBUTES.kind)
        .order_by(count.desc(), _ATTRIBUTES.key)
        .limit(most)
    )
    found = [_Kind(*row) for row in connection.execute(statement)]
    return sorted(found, key=lambda one: (one.key, one.kind))


def _summary(connection: Connection, collection_id: int, of: _Kind, most: int) -> AttributeSummary:
    if of.kind == NUMBER:
        return AttributeSummary(of.key, "number", min=of.low, max=of.high)
    is_boolean = of.kind == BOOLEAN
    joined, live = _of_live(collection_id)
    column = _ATTRIBUTES.number if is_boolean else _ATTRIBUTES.text
    count = func.count()
    statement = (
        select(column, count)
        .select_from(joined)
        .where(*live, _ATTRIBUTES.key == of.key, _ATTRIBUTES.kind == of.kind)
        .group_by(column)
        .order_by(count.desc(), column)
        .limit(most)
    )
    rows = connection.execute(statement)
    values = [ValueCount(bool(value) if is_boolean else value, number) for value, number in rows]
    return AttributeSummary(of.key, "boolean" if is_boolean else "text", values)
