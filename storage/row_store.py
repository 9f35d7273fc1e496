"""The rows of a vector index: mapped parts of a snapshot, and a FAISS IndexFlatL2 behind them (imported only here).

A part is mapped copy-on-write: what is overwritten is this process's own, page by page, all else is shared with
every process that maps the same file. Knows no ids; whoever calls holds a lock.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import faiss
import numpy as np

from storage.block_search import shared_out
from storage.vector_checks import Positions, Vectors

_SELECT_ROWS = 32_768  # searched at a time by FAISS: small enough to be shared out among threads


class RowStore:
    """(n, d) float32 rows, those of the parts first. A row whose first number is NaN is found by no search.

    `deviation` is how far the squared length of a row may be from 1 at most.
    """

    def __init__(self, dimension: int, parts: Sequence[Vectors] = (), deviation: float = 0.0) -> None:
        self._tail = faiss.IndexFlatL2(dimension)
        self.dimension: int = self._tail.d
        self._parts = [part for part in parts if len(part)]
        self._starts = np.cumsum([0, *(len(part) for part in self._parts)])
        self.base = int(self._starts[-1])
        self.deviation = deviation
        self._overwritten = 0

    def __len__(self) -> int:
        return self.base + int(self._tail.ntotal)

    @property
    def own(self) -> int:
        """How many rows are not as they are mapped: added, overwritten or emptied, counted each time."""
        return int(self._tail.ntotal) + self._overwritten

    def append(self, rows: Vectors) -> None:
        """Add (n, d) rows behind all others; only this can run out of memory, and then nothing was added."""
        if len(rows):
            self._measure(rows)
            self._tail.add(rows)

    def put(self, positions: Positions, rows: Vectors) -> None:
        """Overwrite rows."""
        self._measure(rows)
        self._overwritten += int((positions < self.base).sum())
        for segment, chosen, places in self._located(positions):
            segment[places] = rows[chosen]

    def empty(self, positions: Positions) -> None:
        """Make rows of the parts impossible to find."""
        self._overwritten += len(positions)
        for segment, _, places in self._located(positions):
            segment[places, 0] = np.nan

    def move(self, source: int, target: int) -> None:
        """Copy one row behind the parts over another one there."""
        rows = self._tail_rows()
        rows[target - self.base] = rows[source - self.base]

    def cut(self, count: int) -> None:
        """Keep only so many rows, all of the parts among them."""
        if count == len(self):
            return
        kept = count - self.base
        self._tail.codes.resize(kept * self._tail.code_size)  # FAISS's remove_ids would shift all rows behind
        self._tail.ntotal = kept

    def take(self, positions: Positions, out: Vectors | None = None) -> Vectors:
        """Copies of rows, (n, d) in the order asked; in `out`, where that is given."""
        taken = np.empty((len(positions), self.dimension), dtype=np.float32) if out is None else out
        for segment, chosen, places in self._located(positions):
            first, last = int(chosen[0]), int(chosen[-1])
            if last - first == len(chosen) - 1:  # as always where the positions rise
                np.take(segment, places, axis=0, out=taken[first : last + 1], mode="clip")  # other modes copy twice
            else:
                taken[chosen] = np.take(segment, places, axis=0)
        return taken

    def products(self, positions: Positions, query: Vectors) -> Vectors:
        """The (n,) inner products of rows with one (d,) query; FAISS reads them where they are, without the GIL."""
        multiply: Any = faiss.fvec_inner_products_by_idx  # type: ignore[attr-defined] # FAISS's stubs leave it out
        found = np.empty(len(positions), dtype=np.float32)
        with _one_openmp_thread():
            for segment, chosen, places in self._located(positions):
                given = (faiss.swig_ptr(query), faiss.swig_ptr(segment), faiss.swig_ptr(places))
                some = np.empty(len(places), dtype=np.float32)
                multiply(faiss.swig_ptr(some), *given, self.dimension, 1, len(places))
                found[chosen] = some
        return found

    def cuts(self, most: int) -> list[tuple[int, int]]:
        """All rows in order, cut into pieces of so many at most of which each can be viewed."""
        ends = [*self._starts.tolist(), len(self)]
        return [(first, min(first + most, end)) for start, end in pairwise(ends) for first in range(start, end, most)]

    def view(self, first: int, stop: int) -> Vectors:
        """The rows of one cut, not copied; valid until rows are added."""
        owner = int(np.searchsorted(self._starts, first, side="right")) - 1
        segment = self._parts[owner] if owner < len(self._parts) else self._tail_rows()
        start = int(self._starts[owner])
        return segment[first - start : stop - start]

    def nearest_among(self, allowed: Positions, query: Vectors, wanted: int) -> tuple[Vectors, Positions]:
        """The (1, wanted) nearest of the allowed rows to one (1, d) query: squared distances and row numbers.

        FAISS looks at the allowed rows where they are, on one OpenMP thread for each of ours: more make one query
        slower. (It lets go of the GIL.)
        """
        chosen = np.zeros(len(self), dtype=bool)
        chosen[allowed] = True

        def search(cuts: Iterable[tuple[int, int]]) -> list[tuple[Vectors, Positions]]:
            with _one_openmp_thread():
                return [_selected(first, self.view(first, stop), chosen, query, wanted) for first, stop in cuts]

        parts = shared_out(search, self.cuts(_SELECT_ROWS), self.dimension)
        found = [column for part in parts for column in part]
        distances, positions = (np.concatenate(column) for column in zip(*found, strict=True))
        nearest = np.argpartition(distances, wanted - 1)[:wanted]
        return distances[np.newaxis, nearest], positions[np.newaxis, nearest]

    def _measure(self, rows: Vectors) -> None:
        if len(rows):
            squares = np.einsum("ij,ij->i", rows, rows)
            self.deviation = max(self.deviation, float(np.abs(squares - 1.0).max()))

    def _tail_rows(self) -> Vectors:
        # FAISS's own memory, writable; valid only until rows are added
        count = int(self._tail.ntotal)
        if not count:
            return np.empty((0, self.dimension), dtype=np.float32)
        rows: Vectors = faiss.rev_swig_ptr(self._tail.get_xb(), count * self.dimension).reshape(count, -1)
        return rows

    def _located(self, positions: Positions) -> Iterator[tuple[Vectors, Positions, Positions]]:
        """For each segment that is concerned: itself, which of the positions, and their places in it."""
        if not len(positions):
            return
        if not self.base:
            yield self._tail_rows(), np.arange(len(positions)), positions
            return
        owners = np.searchsorted(self._starts, positions, side="right") - 1
        for owner in np.unique(owners).tolist():
            segment = self._parts[owner] if owner < len(self._parts) else self._tail_rows()
            chosen = np.flatnonzero(owners == owner)
            yield segment, chosen, positions[chosen] - self._starts[owner]


def _selected(
    first: int, rows: Vectors, chosen: np.ndarray[tuple[int], np.dtype[np.bool_]], query: Vectors, wanted: int
) -> tuple[Vectors, Positions]:
    """The nearest of the chosen ones among the rows, or all of them: (m,) distances and row numbers."""
    bitmap = np.packbits(chosen[first : first + len(rows)], bitorder="little")
    wanted = min(wanted, int(chosen[first : first + len(rows)].sum()))
    distances, places = np.empty(wanted, dtype=np.float32), np.empty(wanted, dtype=np.int64)
    if wanted:
        selector = faiss.IDSelectorBitmap(len(bitmap), faiss.swig_ptr(bitmap))
        search: Any = faiss.knn_L2sqr  # SWIG's overloads
        given = (faiss.swig_ptr(query), faiss.swig_ptr(rows), rows.shape[1], 1, len(rows), wanted)
        search(*given, faiss.swig_ptr(distances), faiss.swig_ptr(places), None, selector)
    return distances, places + first


@contextmanager
def _one_openmp_thread() -> Iterator[None]:
    """For the calling thread only; OpenMP keeps the number for each thread."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)
