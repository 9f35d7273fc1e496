"""Where the time of a batch went: seconds by stage, a stage inside another counted once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter


class StageSeconds:
    """Adds up the time of stages. What a stage does inside another's block counts for the inner one alone."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {"embed": 0.0, "search": 0.0, "metadata": 0.0}
        self._inner = 0.0  # seconds of the blocks that ended inside the one that runs

    @contextmanager
    def of(self, stage: str) -> Iterator[None]:
        """Count the block for this stage, whether it ends well or by an error."""
        started, outer = perf_counter(), self._inner
        self._inner = 0.0
        try:
            yield
        finally:
            elapsed = perf_counter() - started
            self.add(stage, elapsed - self._inner)
            self._inner = outer + elapsed

    def add(self, stage: str, seconds: float) -> None:
        """Count so many seconds for this stage."""
        self._seconds[stage] = self._seconds.get(stage, 0.0) + seconds

    def by_stage(self) -> dict[str, float]:
        """Seconds by stage until now."""
        return dict(self._seconds)
