"""The nearest of many rows by inner product: matrix products over blocks of rows, shared out among threads.

Faster than FAISS's own search of a flat index, single queries included: numpy's BLAS is the better one, and a
block is read from memory once for all queries. Knows numpy only: no ids, no files, no FAISS.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

import numpy as np

from storage.blas_threads import BlasThreads
from storage.vector_checks import Positions, Vectors

LARGEST_BLOCK_ROWS = 16_384
SMALLEST_BLOCK_ROWS = 1024
SHARED_NUMBERS = 2_000_000  # in all rows (8 MB): fewer are done before another thread has started
_BLOCKS_EACH = 4  # for each thread at least: who is done early takes another
_BLOCK_PRODUCTS = 262_144  # 1 MiB of them stays in the processor's cache until the largest are picked
_SMALL_PRODUCT = 1_000_000  # multiplications: up to here OpenBLAS has kernels that need no copy of what they read
_LEAST_PIECE_ROWS = 8  # with fewer the calls cost more than those kernels save
_GROUPS = 4  # for each wanted candidate: their maxima tell where the first cut can be made
_PENDING = 4  # how many times the wanted candidates are collected before the cut is made anew
_MOST_PRODUCT = 8.0  # more than any product of vectors of about unit length

_T = TypeVar("_T")


@dataclass(frozen=True)
class Blocks:
    """What is cut into blocks, and `products(first, stop, transposed, out)`: of one block's rows with (d, n) queries.

    It writes (stop - first, n) numbers. A product that is NaN belongs to no candidate.
    """

    cuts: Sequence[tuple[int, int]]
    products: Callable[[int, int, Vectors, Vectors], object]


@cache
def blas_threads() -> BlasThreads:
    """BLAS's threads are a setting of the process, so there is one of these."""
    return BlasThreads()


def block_rows(queries: int, rows: int) -> int:
    """How many rows a block should have at most: few enough for the cache, and for every thread to get its share."""
    fair = -(-rows // (_BLOCKS_EACH * blas_threads().share))
    return max(SMALLEST_BLOCK_ROWS, min(LARGEST_BLOCK_ROWS, fair, _BLOCK_PRODUCTS // max(1, queries)))


def nearest_by_product(blocks: Blocks, queries: Vectors, wanted: int) -> tuple[Vectors, Positions]:
    """Return for (n, d) queries the (n, wanted) largest inner products, falling, and their row numbers.

    There must be as many candidates as are wanted.
    """
    transposed = np.ascontiguousarray(queries.T)

    def search(cuts: Iterable[tuple[int, int]]) -> _Best:
        best = _Best(len(queries), wanted)
        largest = max((stop - first for first, stop in blocks.cuts), default=0)
        buffer = np.empty((largest, len(queries)), dtype=np.float32)
        with np.errstate(all="ignore"):
            for first, stop in cuts:
                blocks.products(first, stop, transposed, buffer[: stop - first])
                best.add(first, buffer[: stop - first])
        return best

    with blas_threads().one_each():
        best, *others = shared_out(search, blocks.cuts, queries.shape[1])
    for other in others:
        best.merge(other)
    return best.found()


def shared_out(
    work: Callable[[Iterator[tuple[int, int]]], _T], cuts: Sequence[tuple[int, int]], dimension: int
) -> list[_T]:
    """Do the work on this thread and some others, each with the next cut as soon as it is done with one."""
    left = iter(list(cuts))  # `next` of a list's iterator is one step under the GIL
    numbers = dimension * sum(stop - first for first, stop in cuts)
    others = min(blas_threads().share, len(cuts)) - 1 if numbers >= SHARED_NUMBERS else 0
    if others < 1:
        return [work(left)]
    with ThreadPoolExecutor(others, thread_name_prefix="search") as pool:
        running = [pool.submit(work, left) for _ in range(others)]
        return [work(left), *(one.result() for one in running)]


def multiply(rows: Vectors, transposed: Vectors, out: Vectors) -> None:
    """The (r, n) inner products of (r, d) rows with (d, n) queries, written to `out`.

    Where that is faster, many small products are made instead of one, in a single call of numpy.
    """
    piece = _SMALL_PRODUCT // transposed.size
    whole = len(rows) // piece * piece if blas_threads().fast_small_products and piece >= _LEAST_PIECE_ROWS else 0
    if whole:
        pieces = rows[:whole].reshape(-1, piece, rows.shape[1])
        np.matmul(pieces, transposed, out=out[:whole].reshape(-1, piece, out.shape[1]))
    np.matmul(rows[whole:], transposed, out=out[whole:])


class _Best:
    """The largest products seen so far: candidates in one flat list, cut back to the wanted ones now and then."""

    def __init__(self, queries: int, wanted: int) -> None:
        self._queries, self._wanted = queries, wanted
        self._cut = np.full(queries, -np.inf, dtype=np.float32)  # what is not above it is not among the wanted
        self._owners: list[Positions] = []
        self._rows: list[Positions] = []
        self._products: list[Vectors] = []
        self._pending = 0

    def add(self, first: int, products: Vectors) -> None:
        """Look at (r, n) products of the rows from `first` on."""
        if not self._owners and len(products) > self._wanted:
            self._cut = _first_cut(products, self._wanted)
        rows, owners = np.divmod(np.flatnonzero(products > self._cut), self._queries)  # NaN is above nothing
        if len(rows):
            self._owners.append(owners)
            self._rows.append(rows + first)
            self._products.append(products[rows, owners])
            self._pending += len(rows)
        if self._pending > _PENDING * self._queries * self._wanted + products.size // 8:
            self._cut_back()

    def merge(self, other: _Best) -> None:
        """Take in what another thread has seen."""
        self._owners += other._owners
        self._rows += other._rows
        self._products += other._products

    def found(self) -> tuple[Vectors, Positions]:
        """The largest products, (n, wanted), and their rows."""
        self._cut_back()
        shape = self._queries, self._wanted
        return self._products[0].reshape(shape), self._rows[0].reshape(shape)

    def _cut_back(self) -> None:
        owners, rows = np.concatenate(self._owners), np.concatenate(self._rows)
        products = np.concatenate(self._products)
        order = np.argsort(owners * (2 * _MOST_PRODUCT) - products)  # float64 holds both to the last bit
        starts = np.searchsorted(owners[order], np.arange(self._queries + 1))
        ranks = np.arange(len(order)) - starts[owners[order]]
        order, ranks = order[ranks < self._wanted], ranks[ranks < self._wanted]
        last = order[ranks == self._wanted - 1]
        self._cut[owners[last]] = products[last]
        self._owners, self._rows, self._products = [owners[order]], [rows[order]], [products[order]]
        self._pending = 0


def _first_cut(products: Vectors, wanted: int) -> Vectors:
    """For (r, n) products, (n,): what as many as are wanted are above.

    So many groups of rows have a largest product that is not below the cut: no sorting of all products is needed.
    """
    groups = min(len(products), _GROUPS * wanted)
    whole = products[: len(products) // groups * groups]
    largest = np.fmax.reduce(whole.reshape(-1, groups, products.shape[1]), axis=0)
    largest[np.isnan(largest)] = -np.inf
    cut = np.partition(np.ascontiguousarray(largest.T), groups - wanted, axis=1)[:, groups - wanted]
    below: Vectors = np.nextafter(cut, np.float32(-np.inf))
    return below
