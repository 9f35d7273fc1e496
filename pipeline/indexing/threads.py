"""The threads of one run: those that read, and those that decode and compute, which are never more than the cores.

Knows no images and no SQL.
"""

from __future__ import annotations

from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType

from typing_extensions import Self

from pipeline.embedders.base import ThreadUse


@dataclass(frozen=True)
class Compute:
    """Where pictures are decoded and where the model is called; one and the same where they take turns."""

    use: ThreadUse
    decoding: Executor
    model: Executor


class RunThreads:
    """Makes a run's threads as they are needed, and ends them with its block; what has not begun then never does."""

    def __init__(self, reading: int) -> None:
        self._pools: list[ThreadPoolExecutor] = []
        self.reading: Executor = self._pool(reading, "read")  # waiting for a disk or a network, not computing

    def compute(self, use: ThreadUse) -> Compute:
        """The threads for decoding and the model. One pool for both is first come, first served: no core is idle."""
        decoding = self._pool(use.decoding, "compute" if use.shared else "decode")
        return Compute(use, decoding, decoding if use.shared else self._pool(use.calls, "model"))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pool in self._pools:
            pool.shutdown(wait=False, cancel_futures=True)
        for pool in self._pools:
            pool.shutdown(wait=True)

    def _pool(self, threads: int, name: str) -> ThreadPoolExecutor:
        pool = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._pools.append(pool)
        return pool
