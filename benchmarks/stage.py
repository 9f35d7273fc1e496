"""The shape of a stage of `make bench`: `measure(given)` returns tables of rows, ours beside a peer or a limit.

Knows no stage; imports nothing heavy, for the runner has it in the process that starts all others.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

LEAST_REPEATS = 3


@dataclass(frozen=True)
class Given:
    """What the runner gives to a stage: a folder for everything that it makes, and how long it may take."""

    scratch: Path
    repeats: int = LEAST_REPEATS
    quick: bool = False
    data: Path | None = None  # the user's own photos; None: the demo's


@dataclass(frozen=True)
class Row:
    """One measured thing; all numbers are one for each repeat, in the order of the repeats.

    With a peer or a limit the aim is a ratio (ours so many times better), without one it is a bound on ours.
    """

    what: str
    unit: str
    ours: Sequence[float]
    against: str = ""
    theirs: Sequence[float] = ()
    aim: float | None = None
    more_is_better: bool = False
    limit: bool = False  # `theirs` is what the machine can do at most: the ratio is the share of it that is reached

    @property
    def ratios(self) -> list[float]:
        """Ours against theirs in each repeat; above 1 is better."""
        pairs = zip(self.ours, self.theirs, strict=True) if self.theirs else ()
        return [mine / other if self.more_is_better else other / mine for mine, other in pairs]

    @property
    def met(self) -> bool | None:
        """Whether the median reaches the aim; None without one."""
        if self.aim is None:
            return None
        if self.theirs:
            return statistics.median(self.ratios) >= self.aim
        middle = statistics.median(self.ours)
        return middle >= self.aim if self.more_is_better else middle <= self.aim


@dataclass(frozen=True)
class Table:
    """Rows under one heading, and what has to be said of them."""

    title: str
    rows: Sequence[Row]
    notes: Sequence[str] = field(default_factory=tuple)


def in_turns(
    ways: Mapping[str, Callable[[], object]], repeats: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds of each way, called once to warm up and then one after the other, so many times.

    With `time.process_time` as the clock seconds of one core are counted: what else the machine does matters less.
    """
    for way in ways.values():
        way()
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            started = clock()
            way()
            seconds[name].append(clock() - started)
    return seconds
