"""What passes between a vector index and its snapshots. Knows neither FAISS nor where the bytes are kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from storage.id_table import IdTable
from storage.records import ModelIdentity
from storage.vector_checks import Vectors


def nothing_to_check() -> None:
    """For what is in memory: nothing outside can change it."""


def never_changed() -> bool:
    """For the same."""
    return False


@dataclass(frozen=True)
class LiveVectors:
    """Everything an index holds, to be written: `rows(start, stop)` are copies of the vectors of these ids.

    `check` raises SnapshotDamaged when a file that the rows are mapped from is not what it was.
    """

    dimension: int
    model: ModelIdentity | None
    deviation: float
    image_ids: Sequence[str]
    rows: Callable[[int, int], Vectors]
    check: Callable[[], None] = nothing_to_check


@dataclass(frozen=True)
class MappedVectors:
    """What a snapshot holds: (n, d) float32 rows in parts, writable (a mapped part copies the page that is written).

    `deviation` is how far the squared length of a row may be from 1 at most. `check`: as `LiveVectors` has it.
    `changed` says whether a file was written or replaced since it was mapped, by looking at no byte of it.
    """

    dimension: int
    model: ModelIdentity | None
    deviation: float
    ids: IdTable
    parts: Sequence[Vectors]
    check: Callable[[], None] = nothing_to_check
    changed: Callable[[], bool] = never_changed
