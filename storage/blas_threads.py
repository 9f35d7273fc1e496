"""What numpy's BLAS is: how many threads it works on, and turning them off while rows are shared out among ours.

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
_NAMES = ("scipy_openblas_{}64_", "scipy_openblas_{}", "openblas_{}64_", "openblas_{}")  # numpy's own wheels first
_WITH_SMALL_KERNELS = ("SkylakeX", "Cooperlake", "SapphireRapids")  # the processors' kernels that use AVX-512


class BlasThreads:
    """The threads of numpy's BLAS, a setting of the whole process; where it cannot be set, ours stay one.

    `share` is how many threads a search may use: what OMP_NUM_THREADS (or OPENBLAS_NUM_THREADS) allows, else all
    cores of this process. `fast_small_products`: whether a product of at most a million multiplications is made by
    kernels of its own, which read both matrices where they lie.
    """

    def __init__(self) -> None:
        self._get, self._set = _function("get_num_threads"), _function("set_num_threads")
        self._lock = threading.Lock()
        self._users = 0
        self._before = 1
        self.fast_small_products = _core_name() in _WITH_SMALL_KERNELS
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


def _function(name: str) -> Any:
    """OpenBLAS's own, found through the module of numpy that is linked with it; None where there is none."""
    found = [spec for module in _MODULES if (spec := _spec(module)) is not None and spec.origin]
    if not found:
        return None
    try:
        library = ctypes.CDLL(str(found[0].origin))
    except OSError:
        return None
    return next((getattr(library, full) for form in _NAMES if hasattr(library, full := form.format(name))), None)


def _core_name() -> str:
    """Which processor OpenBLAS computes for, as it says."""
    ask = _function("get_corename")
    if ask is None:
        return ""
    ask.restype = ctypes.c_char_p
    return (ask() or b"").decode()


def _spec(name: str) -> Any:
    try:
        return importlib.util.find_spec(name)
    except ModuleNotFoundError:
        return None
