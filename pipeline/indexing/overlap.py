"""Runs one step of the pipeline on threads ahead of its consumer, in order and within bounds."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Window:
    """How far a step may run ahead: at most `items` at once, and at most `budget` by their weight."""

    items: int
    budget: int


def overlap(
    executor: Executor,
    step: Callable[[T], R],
    inputs: Iterable[T],
    window: Window,
    weight: Callable[[T], int],
) -> Iterator[R]:
    """Yield step(x) for each x in order, while later ones already run on the executor.

    Inputs are pulled lazily, so a listing of millions costs no memory; one item heavier than the whole budget
    still goes through, alone. An exception of a step reaches the consumer at that item's place.
    """
    running: deque[tuple[Future[R], int]] = deque()
    load = 0
    for item in inputs:
        heaviness = weight(item)
        while running and (len(running) >= window.items or load + heaviness > window.budget):
            done, freed = running.popleft()
            yield done.result()
            load -= freed
        running.append((executor.submit(step, item), heaviness))
        load += heaviness
    while running:
        yield running.popleft()[0].result()
