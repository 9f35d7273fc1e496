"""Compiles the exact filters of `storage.filters` to SQL; both give the same answer for every image."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, and_, false, not_, or_, select, true, union_all

from storage.attributes import NUMBER, TEXT, Scalar
from storage.catalog import tables
from storage.catalog.image_rows import LONG_TEXT, columns
from storage.errors import InvalidFilter
from storage.filters import And, Equals, Exists, Filter, In, Not, Or, Range

MAX_CONDITIONS = 256  # SQLite refuses expressions deeper than 1,000; each condition nests up to three
MAX_VALUES = 20_000  # SQLite takes 32,766 parameters in one statement

_IMAGES = tables.images.c
_ATTRIBUTES = tables.image_attributes.c


def filter_condition(filter_: Filter, collection_id: int) -> ColumnElement[bool]:
    """The filter as a condition on rows of `images`. Raises InvalidFilter when it is too large."""
    conditions, values = _size(filter_)
    if conditions > MAX_CONDITIONS or values > MAX_VALUES:
        raise InvalidFilter(
            f"the filter has {conditions} conditions and {values} values; "
            f"the catalog takes {MAX_CONDITIONS} and {MAX_VALUES}: split it"
        )
    return _compile(filter_, collection_id)


def _size(filter_: Filter) -> tuple[int, int]:
    if isinstance(filter_, (And, Or)):
        parts = [_size(part) for part in filter_.filters]
        return 1 + sum(part[0] for part in parts), sum(part[1] for part in parts)
    if isinstance(filter_, Not):
        conditions, values = _size(filter_.filter)
        return 1 + conditions, values
    return 1, len(filter_.values) if isinstance(filter_, In) else 4


def _compile(filter_: Filter, collection_id: int) -> ColumnElement[bool]:
    if isinstance(filter_, And):
        return and_(true(), *(_compile(part, collection_id) for part in filter_.filters))
    if isinstance(filter_, Or):
        return or_(false(), *(_compile(part, collection_id) for part in filter_.filters))
    if isinstance(filter_, Not):
        return not_(_compile(filter_.filter, collection_id))
    having = select(_ATTRIBUTES.image_id).where(
        _ATTRIBUTES.collection_id == collection_id, _ATTRIBUTES.key == filter_.key
    )
    # One select for each kind of value: each finds its index, which a condition with OR would not
    return _IMAGES.image_id.in_(union_all(*(having.where(condition) for condition in _value_conditions(filter_))))


def _value_conditions(filter_: Equals | In | Range | Exists) -> list[ColumnElement[bool]]:
    """Conditions on the value, of which one has to hold; each is about one of the columns `text` and `number`."""
    if isinstance(filter_, Equals):
        return _one_of([filter_.value])
    if isinstance(filter_, In):
        return _one_of(filter_.values)
    if isinstance(filter_, Range):
        return [_in_range(filter_)]
    return [_ATTRIBUTES.text.is_not(None), _ATTRIBUTES.number.is_not(None)]


def _one_of(values: Sequence[Scalar]) -> list[ColumnElement[bool]]:
    by_kind: dict[str, list[Any]] = defaultdict(list)
    for value in values:
        row = columns(value)
        by_kind[row["kind"]].append(row["number"] if row["text"] is None else row["text"])
    return [_of_kind(kind, wanted) for kind, wanted in by_kind.items()] or [false()]


def _of_kind(kind: str, wanted: list[Any]) -> ColumnElement[bool]:
    column = _ATTRIBUTES.text if kind in (TEXT, LONG_TEXT) else _ATTRIBUTES.number
    return and_(_ATTRIBUTES.kind == kind, column.in_(wanted))


def _in_range(range_: Range) -> ColumnElement[bool]:
    number = _ATTRIBUTES.number
    bounds = [
        (range_.gt, number.__gt__),
        (range_.gte, number.__ge__),
        (range_.lt, number.__lt__),
        (range_.lte, number.__le__),
    ]
    return and_(_ATTRIBUTES.kind == NUMBER, *(compare(float(bound)) for bound, compare in bounds if bound is not None))
