"""Exact k nearest neighbours, chosen and ordered from the approximate candidates of an engine (FAISS).

FAISS's float32 distances differ in the last bits between its code paths (BLAS for batches, none for one
query), so they only choose candidates; what is answered is computed here. Knows numpy only: no FAISS, no
lock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from storage.vector_checks import Positions, Vectors

Distances = np.ndarray[Any, np.dtype[np.float64]]

MARGIN = 16  # candidates fetched above k, so that a near tie at the cut seldom needs a second search
GROWTH = 4  # how many times more are fetched when the tie at the cut goes on
MAX_FETCHED = 4_000_000  # candidates held at once for a batch (about 50 MB)
GATHER_BLOCK_ROWS = 65_536  # allowed rows copied at a time (128 MiB at 512-d)
BLOCK_ROWS = 256  # 512-d rows worked on at once: 1 MiB of float64 stays in the processor's cache


class Hit(NamedTuple):
    """One image found; the distance is squared L2 (0 = same vector, 4 = opposite)."""

    image_id: str
    distance: float


@dataclass(frozen=True)
class SearchSpace:
    """What a search looks at: the (n, d) rows with their ids, and which of the rows it may answer.

    `allowed` (None: all) and `dropped` are sorted row numbers; the few dropped ones are skipped after the
    fetch.
    """

    rows: Vectors
    image_ids: Sequence[str]
    allowed: Positions | None
    dropped: Positions

    @property
    def candidates(self) -> Positions:
        """The row numbers that may be looked at, the dropped ones included."""
        return np.arange(len(self.rows)) if self.allowed is None else self.allowed

    @property
    def size(self) -> int:
        """How many rows an engine can return, the dropped ones included."""
        return len(self.rows) if self.allowed is None else len(self.allowed)


Fetch = Callable[[SearchSpace, Vectors, int], tuple[Vectors, Positions]]
"""An engine: for (n, d) queries the (n, m) float32 distances and row numbers of the m nearest rows."""


Knn = Callable[[Vectors, Vectors, int], tuple[Vectors, Positions]]
"""The m nearest of (r, d) rows for (n, d) queries: (n, m) float32 distances and places among the rows."""


def exact_search(space: SearchSpace, queries: Vectors, counts: Positions, fetch: Fetch) -> list[list[Hit]]:
    """Return for each of the (n, d) queries its counts[n] nearest hits, or all, by distance and then image id."""
    return _search(space, queries, counts, fetch, counts + (len(space.dropped) + MARGIN))


def _search(
    space: SearchSpace, queries: Vectors, counts: Positions, fetch: Fetch, wanted: Positions
) -> list[list[Hit]]:
    """Answer queries that need (n,) `wanted` candidates; who needs all there are needs no engine."""
    if (wanted >= space.size).all():
        pairs = zip(queries, counts.tolist(), strict=True)
        return [_hits(space, query[np.newaxis], [count], [space.candidates])[0] for query, count in pairs]
    answers: dict[int, list[Hit]] = {}
    for rows in _blocks(space, wanted):
        search = _search if (wanted[rows] >= space.size).any() else _search_block
        found = search(space, queries[rows], counts[rows], fetch, wanted[rows])
        answers.update(zip(rows.tolist(), found, strict=True))
    return [answers[row] for row in range(len(queries))]


def _blocks(space: SearchSpace, wanted: Positions) -> Iterator[Positions]:
    """Yield rows of queries to be fetched together, within the bound on memory; those that want all come last."""
    some = np.flatnonzero(wanted < space.size)
    block = max(1, MAX_FETCHED // int(wanted[some].max()))
    for start in range(0, len(some), block):
        yield some[start : start + block]
    everything = np.flatnonzero(wanted >= space.size)
    if len(everything):
        yield everything


def _search_block(
    space: SearchSpace, queries: Vectors, counts: Positions, fetch: Fetch, wanted: Positions
) -> list[list[Hit]]:
    distances, positions = fetch(space, queries, int(wanted.max()))
    found, reach = _cut(distances, positions, wanted)
    # what was not fetched is at least this far away; hits nearer than that can miss nothing
    reach = reach - float32_slack(queries.shape[1])
    answers = _hits(space, queries, counts.tolist(), found)
    unsure = [row for row, hits in enumerate(answers) if hits[-1].distance >= reach[row]]
    if unsure:
        again = _search(space, queries[unsure], counts[unsure], fetch, wanted[unsure] * GROWTH)
        for row, hits in zip(unsure, again, strict=True):
            answers[row] = hits
    return answers


def _cut(distances: Vectors, positions: Positions, wanted: Positions) -> tuple[list[Positions], Distances]:
    """Keep of each row the `wanted` nearest candidates, and tell how far the farthest of them is."""
    if (wanted == distances.shape[1]).all():
        return list(positions), distances.max(axis=1).astype(np.float64)
    order = np.argsort(distances, axis=1)
    ends = order[np.arange(len(order)), wanted - 1]
    reach = distances[np.arange(len(order)), ends].astype(np.float64)
    kept = [row[near[:count]] for row, near, count in zip(positions, order, wanted.tolist(), strict=True)]
    return kept, reach


def fetch_gathered(space: SearchSpace, queries: Vectors, wanted: int, knn: Knn) -> tuple[Vectors, Positions]:
    """Fetch from copies of the allowed rows, block by block: for a batch faster than testing every row."""
    distances = np.empty((len(queries), 0), dtype=np.float32)
    positions = np.empty((len(queries), 0), dtype=np.int64)
    candidates = space.candidates
    for start in range(0, len(candidates), GATHER_BLOCK_ROWS):
        block = candidates[start : start + GATHER_BLOCK_ROWS]
        near, places = knn(queries, space.rows[block], min(wanted, len(block)))
        distances = np.concatenate((distances, near), axis=1)
        positions = np.concatenate((positions, block[places]), axis=1)
        if distances.shape[1] > wanted:
            keep = np.argpartition(distances, wanted - 1, axis=1)[:, :wanted]
            distances = np.take_along_axis(distances, keep, axis=1)
            positions = np.take_along_axis(positions, keep, axis=1)
    return distances, positions


def _hits(space: SearchSpace, queries: Vectors, counts: Sequence[int], found: Sequence[Positions]) -> list[list[Hit]]:
    """The nearest hits of each query among its own candidates."""
    if len(space.dropped):
        found = [positions[~np.isin(positions, space.dropped)] for positions in found]
    lengths = [len(positions) for positions in found]
    owners = np.repeat(np.arange(len(found)), lengths)
    distances = squared_distances(space.rows, np.concatenate(found), queries, owners)
    ends = np.cumsum(lengths).tolist()
    return [
        nearest_hits(positions, distances[end - len(positions) : end], count, space.image_ids)
        for positions, end, count in zip(found, ends, counts, strict=True)
    ]


def nearest_hits(positions: Positions, distances: Distances, k: int, image_ids: Sequence[str]) -> list[Hit]:
    """Return the k nearest of the (m,) candidates, or all, by distance and, where equal, by image id."""
    if len(distances) > k:
        within = distances <= np.partition(distances, k - 1)[k - 1]  # the k-th and all that tie with it
        positions, distances = positions[within], distances[within]
    ids = [image_ids[position] for position in positions.tolist()]
    ranked = sorted(zip(distances.tolist(), ids, strict=True))
    return [Hit(image_id, distance) for distance, image_id in ranked[:k]]


def float32_slack(dimension: int) -> float:
    """How far a float32 squared distance between unit vectors can be from the true one, however summed.

    |x|^2 + |y|^2 - 2xy rounds at most 4 x dimension times by 2^-24 of its terms' sum (Higham, Accuracy and
    Stability of Numerical Algorithms, 3.1); 5 covers lengths up to 1 + 1e-3 and the last few additions.
    """
    return 5.0 * (dimension + 8) * 2.0**-24


def squared_distances(rows: Vectors, positions: Positions, queries: Vectors, owners: Positions) -> Distances:
    """Squared L2 from queries[owners] to rows[positions], (m,) float64; the same to the bit for equal vectors.

    Adds by halves with element-wise operations only, so that the dimension alone fixes the order of additions
    (numpy's own sums may split a row differently according to where it lies).
    """
    distances = np.empty(len(positions), dtype=np.float64)
    for start in range(0, len(positions), BLOCK_ROWS):
        block = slice(start, start + BLOCK_ROWS)
        squares = np.subtract(rows[positions[block]], queries[owners[block]], dtype=np.float64)
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
