"""Cuts a lazy sequence into lists."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

T = TypeVar("T")


def chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield lists of `size` items (the last may be shorter), pulling no further than asked."""
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk


def tapering_chunks(items: Iterable[T], size: int, workers: int) -> Iterator[list[T]]:
    """Yield lists of `size` for several workers, and ever shorter ones in the end, so that they end at about one time.

    Otherwise one of them would work on the last full list while the others wait: for half of its time on average. Holds
    up to `size` items for each worker back, because only so can the end be seen coming; in order, the last ones no
    shorter than a quarter. For one worker all lists are full.
    """
    if workers == 1:
        yield from chunks(items, size)
        return
    waiting: deque[T] = deque()
    for item in items:
        waiting.append(item)
        if len(waiting) == size * (workers + 1):
            yield _taken(waiting, size)
    while waiting:
        share = -(-len(waiting) // (2 * workers))
        yield _taken(waiting, min(size, max(share, size // 4, 1)))


def _taken(waiting: deque[T], count: int) -> list[T]:
    return [waiting.popleft() for _ in range(min(count, len(waiting)))]
