"""Exact k nearest neighbours, chosen and ordered from the approximate candidates of an engine.

The engines' float32 distances differ in the last bits between code paths (one query or a batch, numpy's BLAS or
FAISS), so they only choose candidates; what is answered is computed here. Knows numpy only: no FAISS, no lock.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from storage.block_search import Blocks, block_rows, multiply, nearest_by_product
from storage.vector_checks import Positions, Vectors

Distances = np.ndarray[Any, np.dtype[np.float64]]

MARGIN = 16  # candidates fetched above k, so that a near tie at the cut seldom needs a second search
GROWTH = 4  # how many times more are fetched when the tie at the cut goes on
MAX_FETCHED = 4_000_000  # candidates held at once for a batch (about 50 MB)
MAX_QUERIES = 2048  # at once: 8 MiB of products for each thread
WIDE_FILTER = 0.5  # of all rows: from here on one query asks a bitmap row by row, below it goes through a list
GATHERED_ROWS = 1024  # copied at once for a batch (2 MiB at 512-d): they stay in the processor's cache
BLOCK_ROWS = 256  # 512-d rows worked on at once: 1 MiB of float64 stays in the processor's cache


class Hit(NamedTuple):
    """One image found; the distance is squared L2 (0 = same vector, 4 = opposite)."""

    image_id: str
    distance: float


class Rows(Protocol):
    """The (n, d) rows that are searched; a `RowStore`, seen from here without FAISS."""

    @property
    def deviation(self) -> float: ...

    def __len__(self) -> int: ...

    def take(self, positions: Positions, out: Vectors | None = None) -> Vectors: ...

    def products(self, positions: Positions, query: Vectors) -> Vectors: ...

    def cuts(self, most: int) -> list[tuple[int, int]]: ...

    def view(self, first: int, stop: int) -> Vectors: ...

    def nearest_among(self, allowed: Positions, query: Vectors, wanted: int) -> tuple[Vectors, Positions]: ...


@dataclass(frozen=True)
class SearchSpace:
    """What a search looks at: the rows, the id of each, and which of the rows it may answer.

    `live` gives all rows that hold a vector, `count` of them. `allowed` (None: all live ones) and `dropped` are
    sorted row numbers; the few dropped ones are skipped after the fetch.
    """

    rows: Rows
    id_at: Callable[[int], str]
    live: Callable[[], Positions]
    count: int
    allowed: Positions | None
    dropped: Positions

    @property
    def candidates(self) -> Positions:
        """The row numbers that may be looked at, the dropped ones included."""
        return self.live() if self.allowed is None else self.allowed

    @property
    def size(self) -> int:
        """How many rows an engine can return, the dropped ones included."""
        return self.count if self.allowed is None else len(self.allowed)


def exact_search(space: SearchSpace, queries: Vectors, counts: Positions) -> list[list[Hit]]:
    """Return for each of the (n, d) queries its counts[n] nearest hits, or all, by distance and then image id."""
    return _search(space, queries, counts, counts + (len(space.dropped) + MARGIN))


def _search(space: SearchSpace, queries: Vectors, counts: Positions, wanted: Positions) -> list[list[Hit]]:
    """Answer queries that need (n,) `wanted` candidates; who needs all there are needs no engine."""
    if (wanted >= space.size).all():
        pairs = zip(queries, counts.tolist(), strict=True)
        return [_hits(space, query[np.newaxis], [count], [space.candidates])[0] for query, count in pairs]
    answers: dict[int, list[Hit]] = {}
    for rows in _blocks(space, wanted):
        search = _search if (wanted[rows] >= space.size).any() else _search_block
        found = search(space, queries[rows], counts[rows], wanted[rows])
        answers.update(zip(rows.tolist(), found, strict=True))
    return [answers[row] for row in range(len(queries))]


def _blocks(space: SearchSpace, wanted: Positions) -> Iterator[Positions]:
    """Yield rows of queries to be fetched together, within the bound on memory; those that want all come last."""
    some = np.flatnonzero(wanted < space.size)
    block = min(MAX_QUERIES, max(1, MAX_FETCHED // int(wanted[some].max())))
    for start in range(0, len(some), block):
        yield some[start : start + block]
    everything = np.flatnonzero(wanted >= space.size)
    if len(everything):
        yield everything


def _search_block(space: SearchSpace, queries: Vectors, counts: Positions, wanted: Positions) -> list[list[Hit]]:
    distances, positions = _fetch(space, queries, int(wanted.max()))
    slack = float32_slack(queries.shape[1]) + space.rows.deviation
    found, reach = _cut(distances, positions, wanted, counts + len(space.dropped), slack)
    # what was not fetched is at least this far away; hits nearer than that can miss nothing
    reach = reach - slack
    answers = _hits(space, queries, counts.tolist(), found)
    unsure = [row for row, hits in enumerate(answers) if hits[-1].distance >= reach[row]]
    if unsure:
        again = _search(space, queries[unsure], counts[unsure], wanted[unsure] * GROWTH)
        for row, hits in zip(unsure, again, strict=True):
            answers[row] = hits
    return answers


def _cut(
    distances: Vectors, positions: Positions, wanted: Positions, needed: Positions, slack: float
) -> tuple[list[Positions], Distances]:
    """Keep of each row those of the `wanted` nearest candidates that may be among the `needed` nearest ones.

    Tells too how far the farthest of the wanted ones is. Distances are off by `slack` at most: the needed nearest
    ones are all within one slack of the last of them, so what is farther by two slacks is none of them.
    """
    order = np.argsort(distances, axis=1)
    near: Distances = np.take_along_axis(distances, order, axis=1).astype(np.float64)
    every = np.arange(len(order))
    reach = near[every, wanted - 1]
    within = near <= np.minimum(near[every, needed - 1] + 2 * slack, reach)[:, np.newaxis]
    kept = np.minimum(within.sum(axis=1), wanted).tolist()
    return [row[first[:count]] for row, first, count in zip(positions, order, kept, strict=True)], reach


def _fetch(space: SearchSpace, queries: Vectors, wanted: int) -> tuple[Vectors, Positions]:
    """The (n, wanted) nearest candidates: roughly their distances, and their row numbers."""
    rows, allowed = space.rows, space.allowed
    most = block_rows(len(queries), space.size)
    if allowed is None:
        blocks = Blocks(rows.cuts(most), lambda first, stop, *given: multiply(rows.view(first, stop), *given))
        products, positions = nearest_by_product(blocks, queries, wanted)
        return _distances(queries, products), positions
    if len(queries) > 1:
        blocks = _gathered(rows, allowed, min(most, GATHERED_ROWS))
    elif len(allowed) < WIDE_FILTER * len(rows):
        blocks = _listed(rows, allowed, most)
    else:
        return rows.nearest_among(allowed, queries, wanted)
    products, places = nearest_by_product(blocks, queries, wanted)
    return _distances(queries, products), allowed[places]


def _gathered(rows: Rows, allowed: Positions, most: int) -> Blocks:
    """Copies of the allowed rows, block by block: for a batch faster than testing every row."""
    own = threading.local()  # memory that each thread uses again: new memory costs as much as the copying

    def products(first: int, stop: int, transposed: Vectors, out: Vectors) -> None:
        if not hasattr(own, "copies"):
            own.copies = np.empty((most, len(transposed)), dtype=np.float32)
        multiply(rows.take(allowed[first:stop], own.copies[: stop - first]), transposed, out)

    return Blocks(_cuts(len(allowed), most), products)


def _listed(rows: Rows, allowed: Positions, most: int) -> Blocks:
    """The allowed rows where they are, for one query."""

    def products(first: int, stop: int, transposed: Vectors, out: Vectors) -> None:
        out[:, 0] = rows.products(allowed[first:stop], transposed[:, 0])

    return Blocks(_cuts(len(allowed), most), products)


def _cuts(count: int, most: int) -> list[tuple[int, int]]:
    return [(start, min(start + most, count)) for start in range(0, count, most)]


def _distances(queries: Vectors, products: Vectors) -> Vectors:
    """Squared distances as if every row had length 1: |q|^2 + 1 - 2qr, off by the rows' deviation at most."""
    squares = np.einsum("ij,ij->i", queries, queries)
    distances: Vectors = squares[:, np.newaxis] + 1.0 - 2.0 * products
    return distances


def _hits(space: SearchSpace, queries: Vectors, counts: Sequence[int], found: Sequence[Positions]) -> list[list[Hit]]:
    """The nearest hits of each query among its own candidates."""
    if len(space.dropped):
        found = [positions[~np.isin(positions, space.dropped)] for positions in found]
    lengths = [len(positions) for positions in found]
    owners = np.repeat(np.arange(len(found)), lengths)
    distances = squared_distances(space.rows, np.concatenate(found), queries, owners)
    ends = np.cumsum(lengths).tolist()
    return [
        nearest_hits(positions, distances[end - len(positions) : end], count, space.id_at)
        for positions, end, count in zip(found, ends, counts, strict=True)
    ]


def nearest_hits(positions: Positions, distances: Distances, k: int, id_at: Callable[[int], str]) -> list[Hit]:
    """Return the k nearest of the (m,) candidates, or all, by distance and, where equal, by image id."""
    if len(distances) > k:
        within = distances <= np.partition(distances, k - 1)[k - 1]  # the k-th and all that tie with it
        positions, distances = positions[within], distances[within]
    ids = [id_at(position) for position in positions.tolist()]
    ranked = sorted(zip(distances.tolist(), ids, strict=True))
    return [Hit(image_id, distance) for distance, image_id in ranked[:k]]


def float32_slack(dimension: int) -> float:
    """How far a float32 squared distance between unit vectors can be from the true one, however summed.

    |x|^2 + |y|^2 - 2xy rounds at most 4 x dimension times by 2^-24 of its terms' sum (Higham, Accuracy and
    Stability of Numerical Algorithms, 3.1); 5 covers lengths up to 1 + 1e-3 and the last few additions.
    """
    return 5.0 * (dimension + 8) * 2.0**-24


def squared_distances(rows: Rows, positions: Positions, queries: Vectors, owners: Positions) -> Distances:
    """Squared L2 from queries[owners] to rows[positions], (m,) float64; the same to the bit for equal vectors.

    Adds by halves with element-wise operations only, so that the dimension alone fixes the order of additions
    (numpy's own sums may split a row differently according to where it lies).
    """
    distances = np.empty(len(positions), dtype=np.float64)
    for start in range(0, len(positions), BLOCK_ROWS):
        block = slice(start, start + BLOCK_ROWS)
        squares = np.subtract(rows.take(positions[block]), queries[owners[block]], dtype=np.float64)
        np.multiply(squares, squares, out=squares)
        distances[block] = _sum_by_halves(squares)
    return distances


def _sum_by_halves(values: Distances) -> Distances:
    """Sum each row of the (m, d) values, overwriting them."""
    width = values.shape[1]
    while width > 1:
        half = width // 2
        np.add(values[:, :half], values[:, half : 2 * half], out=values[:, :half])
        if width % 2:
            values[:, 0] += values[:, width - 1]
        width = half
    return values[:, 0]
