"""Exact filters on attributes: their data model, what they mean, and the short text the command line takes.

Knows no SQL: `storage.catalog.filters_sql` compiles the same filters, a test holds both to the same answers.
A missing attribute (None, or an empty list) makes Equals, In, Range and Exists false, and so their Not true.
"""

from __future__ import annotations

import csv
import re
from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    ValidationError,
    field_validator,
    model_validator,
)

from storage.attributes import (
    MAX_KEY_CHARACTERS,
    NUMBER,
    Scalar,
    comparable,
    element_values,
    exact_number,
    storable_text,
)
from storage.errors import InvalidFilter
from storage.records import Attributes

FilterValue = StrictBool | StrictInt | StrictFloat | StrictStr
Number = StrictInt | StrictFloat


def _checked_value(value: Scalar) -> Scalar:
    if isinstance(value, str) and not storable_text(value):
        message = "no attribute holds a NUL character or invalid Unicode"
        raise ValueError(message)
    if not isinstance(value, str) and not exact_number(value):
        message = "numbers are finite and integers lie within 2**53"
        raise ValueError(message)
    return value


class _Condition(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _KeyCondition(_Condition):
    key: str = Field(min_length=1, max_length=MAX_KEY_CHARACTERS)


class Equals(_KeyCondition):
    """The attribute, or one element of a list, is this value; text compares exactly, numbers as numbers."""

    op: Literal["equals"] = "equals"
    value: FilterValue

    _check = field_validator("value")(_checked_value)

    def matches(self, attributes: Attributes) -> bool:
        """Whether an image with these attributes is let through."""
        wanted = comparable(self.value)
        return any(comparable(value) == wanted for value in element_values(attributes.get(self.key)))


class In(_KeyCondition):
    """The attribute, or one element of a list, is one of these values; with no values nothing matches."""

    op: Literal["in"] = "in"
    values: tuple[FilterValue, ...]

    @field_validator("values")
    @classmethod
    def _check(cls, values: tuple[Scalar, ...]) -> tuple[Scalar, ...]:
        return tuple(_checked_value(value) for value in values)

    def matches(self, attributes: Attributes) -> bool:
        """Whether an image with these attributes is let through."""
        wanted = {comparable(value) for value in self.values}
        return any(comparable(value) in wanted for value in element_values(attributes.get(self.key)))


class Range(_KeyCondition):
    """The attribute is a number within the bounds; text and booleans are never in a range."""

    op: Literal["range"] = "range"
    gt: Number | None = None
    gte: Number | None = None
    lt: Number | None = None
    lte: Number | None = None

    @model_validator(mode="after")
    def _check(self) -> Range:
        bounds = [bound for bound in (self.gt, self.gte, self.lt, self.lte) if bound is not None]
        if not bounds:
            message = "a range needs at least one bound"
            raise ValueError(message)
        for bound in bounds:
            _checked_value(bound)
        return self

    def contains(self, number: float) -> bool:
        """Whether the number lies within every given bound."""
        return (
            (self.gt is None or number > self.gt)
            and (self.gte is None or number >= self.gte)
            and (self.lt is None or number < self.lt)
            and (self.lte is None or number <= self.lte)
        )

    def matches(self, attributes: Attributes) -> bool:
        """Whether an image with these attributes is let through."""
        pairs = (comparable(value) for value in element_values(attributes.get(self.key)))
        return any(kind == NUMBER and self.contains(float(value)) for kind, value in pairs)


class Exists(_KeyCondition):
    """The image has the attribute, whatever its value."""

    op: Literal["exists"] = "exists"

    def matches(self, attributes: Attributes) -> bool:
        """Whether an image with these attributes is let through."""
        return bool(element_values(attributes.get(self.key)))


class And(_Condition):
    """Every filter matches; with no filters everything does."""

    op: Literal["and"] = "and"
    filters: tuple[Filter, ...]

    def matches(self, attributes: Attributes) -> bool:
        """Whether an image with these attributes is let through."""
        return all(part.matches(attributes) for part in self.filters)


class Or(_Condition):
    """At least one filter matches; with no filters nothing does."""

    op: Literal["or"] = "or"
    filters: tuple[Filter, ...]

    def matches(self, attributes: Attributes) -> bool:
        """Whether an image with these attributes is let through."""
        return any(part.matches(attributes) for part in self.filters)


class Not(_Condition):
    """The filter does not match; this includes images that lack the attribute."""

    op: Literal["not"] = "not"
    filter: Filter

    def matches(self, attributes: Attributes) -> bool:
        """Whether an image with these attributes is let through."""
        return not self.filter.matches(attributes)


Filter = Annotated[Equals | In | Range | Exists | And | Or | Not, Field(discriminator="op")]

And.model_rebuild()
Or.model_rebuild()
Not.model_rebuild()


def depth_of(wanted: Filter) -> int:
    """How deep a filter is nested; one condition is 1."""
    deepest = 0
    left: list[tuple[Filter, int]] = [(wanted, 1)]
    while left:  # not recursive: what is measured may be deeper than Python's stack
        one, depth = left.pop()
        deepest = max(deepest, depth)
        inner = one.filters if isinstance(one, And | Or) else (one.filter,) if isinstance(one, Not) else ()
        left += [(part, depth + 1) for part in inner]
    return deepest


_EXPRESSION = re.compile(r"(?P<key>[^=!<>]+)(?P<operator>!=|>=|<=|=|>|<)(?P<value>.*)", re.DOTALL)
_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")
_BOUNDS = {">": "gt", ">=": "gte", "<": "lt", "<=": "lte"}
_GRAMMAR = "write key=value, key=a,b, key!=value, key>=number, key<number, key (has it) or !key (has it not)"


def parse_filter(text: str) -> Filter:
    """Read one filter as typed on the command line. Raises InvalidFilter, saying what can be written.

    A value matches the text itself and, where it reads as one, the number or boolean: `year=2020` finds 2020
    and "2020". Commas separate alternatives; double quotes keep a comma: `place="Paris, France"`.
    """
    expression = _EXPRESSION.fullmatch(text.strip())
    try:
        if expression is None:
            return _parse_presence(text.strip())
        key, operator = expression["key"].strip(), expression["operator"]
        if operator in _BOUNDS:
            return Range.model_validate({"key": key, _BOUNDS[operator]: _parse_bound(expression["value"])})
        wanted = _parse_values(key, expression["value"])
    except ValidationError as error:
        raise InvalidFilter(f"{text!r} is no filter: {error.errors()[0]['msg']}; {_GRAMMAR}") from error
    except (ValueError, csv.Error) as error:
        raise InvalidFilter(f"{text!r} is no filter: {error}; {_GRAMMAR}") from error
    return Not(filter=wanted) if operator == "!=" else wanted


def _parse_presence(text: str) -> Filter:
    key = text.removeprefix("!").strip()
    if not key or re.search(r"[=!<>]", key):
        message = "no attribute name in front"
        raise ValueError(message)
    return Not(filter=Exists(key=key)) if text.startswith("!") else Exists(key=key)


def _parse_bound(text: str) -> int | float:
    numbers = [value for value in _readings(text.strip()) if not isinstance(value, (str, bool))]
    if not numbers:
        message = f"{text.strip()!r} is no number"
        raise ValueError(message)
    return numbers[0]


def _parse_values(key: str, text: str) -> Filter:
    words = next(csv.reader([text.strip()], skipinitialspace=True, strict=True), [])
    if not words or not all(word.strip() for word in words):
        message = "a value is missing"
        raise ValueError(message)
    values = tuple(value for word in words for value in _readings(word.strip()))
    return Equals(key=key, value=values[0]) if len(values) == 1 else In(key=key, values=values)


def _readings(text: str) -> list[Scalar]:
    if text.lower() in ("true", "false"):
        return [text, text.lower() == "true"]
    if not _NUMBER.fullmatch(text):
        return [text]
    number = float(text) if re.search(r"[.eE]", text) else int(text)
    return [text, number] if exact_number(number) else [text]
