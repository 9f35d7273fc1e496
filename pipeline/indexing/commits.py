"""Commits on a thread of its own, so that the model never waits for the disk. Knows neither images nor SQL."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from time import perf_counter
from typing import Generic, TypeVar

T = TypeVar("T")


class BackgroundCommits(Generic[T]):
    """Commits one thing after the other, in the order in which they come; while one is under way, none waits.

    Every method is called from one thread. `committed` is called there too, with what was committed and the seconds
    that it took. What failed is kept and tried again by the next `wait` or `hand_over`, whose error it then is.
    """

    def __init__(self, commit: Callable[[T], None], committed: Callable[[T, float], None]) -> None:
        self._commit = commit
        self._committed = committed
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="commit")
        self._under_way: T | None = None
        self._future: Future[float] | None = None

    def hand_over(self, one: T) -> None:
        """Begin to commit this, once what was handed over before is in. When this raises, it was not taken."""
        self.wait()
        self._under_way = one
        self._begin(one)

    def look(self) -> None:
        """Note a commit that has ended meanwhile; raises its error."""
        if self._future is not None and self._future.done():
            self.wait()

    def wait(self) -> None:
        """Return when all is committed; raises the error of what could not be. An interrupt leaves a commit going."""
        if self._under_way is None:
            return
        future = self._future or self._begin(self._under_way)
        error = future.exception()
        self._future = None
        if error is not None:
            raise error
        done, self._under_way = self._under_way, None
        self._committed(done, future.result())

    def close(self) -> None:
        """End the thread, after the commit that is under way."""
        self._pool.shutdown(wait=True)

    def _begin(self, one: T) -> Future[float]:
        self._future = self._pool.submit(self._timed, one)
        return self._future

    def _timed(self, one: T) -> float:
        started = perf_counter()
        self._commit(one)
        return perf_counter() - started
