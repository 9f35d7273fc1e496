"""How many threads numpy's BLAS works on, and turning its own threads off while rows are shared out among ours.

OpenBLAS lets its threads wait for each other at every product, spinning: on a machine that does something else
too, small products then take ten times as long. Knows neither rows nor queries.
"""

from __future__ import annotations

import ctypes
import importlib.util
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from storage.cores import usable_cores

_MODULES = ("numpy._core._multiarray_umath", "numpy.core._multiarray_umath")  # since numpy 2, and before
_NAMES = (
    "scipy_openblas_{}_num_threads64_",  # numpy's own wheels
    "scipy_openblas_{}_num_threads",
    "openblas_{}_num_threads64_",
    "openblas_{}_num_threads",
)


class BlasThreads:
    """The threads of numpy's BLAS, a setting of the whole process; where it cannot be set, ours stay one.

    `share` is how many threads a search may use: what OMP_NUM_THREADS (or OPENBLAS_NUM_THREADS) allows, else all
    cores of this process.
    """

    def __init__(self) -> None:
        self._get, self._set = _functions()
        self._lock = threading.Lock()
        self._users = 0
        self._before = 1
        self.share: int = 1 if self._get is None else min(int(self._get()), usable_cores())

    @contextmanager
    def one_each(self) -> Iterator[None]:
        """Let BLAS use only the thread that calls it, until the last of those who asked for it is done."""
        if self._get is None or self._set is None:
            yield
            return
        with self._lock:
            if not self._users:
                self._before = int(self._get())
                self._set(1)
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if not self._users:
                    self._set(self._before)


def _functions() -> tuple[Any, Any]:
    """OpenBLAS's own, found through the module of numpy that is linked with it; None where there is none."""
    found = [spec for name in _MODULES if (spec := _spec(name)) is not None and spec.origin]
    if found:
        try:
            library = ctypes.CDLL(str(found[0].origin))
        except OSError:
            return None, None
        for name in _NAMES:
            if hasattr(library, name.format("get")) and hasattr(library, name.format("set")):
                return getattr(library, name.format("get")), getattr(library, name.format("set"))
    return None, None


def _spec(name: str) -> Any:
    try:
        return importlib.util.find_spec(name)
    except ModuleNotFoundError:
        return None
