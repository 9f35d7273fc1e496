"""What an image's attributes may hold, and when two values are the same. Knows neither SQL nor filters.

The rules, used alike by the filters in Python and by the filters in SQL:

- None and an empty list mean "absent": both are dropped before storing.
- A list stands for each of its elements.
- Numbers compare as numbers (2020 is 2020.0); a boolean is never a number; text compares exactly, with case.
"""

from __future__ import annotations

import math
import re

from storage.errors import InvalidAttribute
from storage.records import Attributes, AttributeValue

Scalar = str | int | float | bool
Comparable = tuple[str, Scalar]  # (kind, value): equal pairs are equal values

TEXT = "text"
NUMBER = "number"
BOOLEAN = "boolean"

_UNSTORABLE = re.compile("[\0\ud800-\udfff]")

MAX_KEY_CHARACTERS = 128  # with a text of 500 characters it still fits one PostgreSQL index entry (2,700 bytes)
MAX_EXACT_INTEGER = 2**53  # beyond it a double, and so a JSON number elsewhere, no longer tells neighbours apart


def element_values(value: AttributeValue) -> tuple[Scalar, ...]:
    """The single values an attribute stands for: none when absent, each element of a list, else itself."""
    if value is None:
        return ()
    return tuple(value) if isinstance(value, list) else (value,)


def comparable(value: Scalar) -> Comparable:
    """The value with its kind: `True`, `1` and `"1"` are three different values, `1` and `1.0` are one."""
    if isinstance(value, bool):
        return (BOOLEAN, value)
    if isinstance(value, (int, float)):
        return (NUMBER, value)
    return (TEXT, value)


def exact_number(number: float) -> bool:
    """Whether the number means the same in Python, JSON and SQL: finite, and no integer beyond 2**53."""
    if isinstance(number, int):
        return abs(number) <= MAX_EXACT_INTEGER
    return math.isfinite(number)


def storable_text(text: str) -> bool:
    """Whether every database takes the text: no NUL character and no half of a surrogate pair."""
    return _UNSTORABLE.search(text) is None


def normal_attributes(attributes: Attributes) -> Attributes:
    """The attributes as they are stored: absent ones dropped, all others checked. Raises InvalidAttribute."""
    kept: Attributes = {}
    for key, value in attributes.items():
        _check_key(key)
        values = element_values(value)
        for element in values:
            _check_value(key, element)
        if values:
            kept[key] = value
    return kept


def same_attributes(old: Attributes, new: Attributes) -> bool:
    """Whether nothing changes; `==` alone would take True for 1."""
    return old == new and all(type(old[key]) is type(new[key]) for key in new)


def _check_key(key: str) -> None:
    if not key or len(key) > MAX_KEY_CHARACTERS or not storable_text(key):
        raise InvalidAttribute(
            f"{key[:40]!r} cannot name an attribute: a name has 1 to {MAX_KEY_CHARACTERS} characters, none of them NUL"
        )


def _check_value(key: str, value: Scalar) -> None:
    kind, _ = comparable(value)
    if kind == NUMBER and not exact_number(float(value) if isinstance(value, float) else int(value)):
        raise InvalidAttribute(
            f"attribute {key!r} is {value!r}: numbers are finite, integers lie within 2**53; store it as text"
        )
    if kind == TEXT and not storable_text(str(value)):
        raise InvalidAttribute(f"attribute {key!r} holds a NUL character or is no valid Unicode")
