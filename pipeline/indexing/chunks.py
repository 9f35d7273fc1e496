"""Cuts a lazy sequence into lists."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

T = TypeVar("T")


def chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield lists of `size` items (the last may be shorter), pulling no further than asked."""
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk
