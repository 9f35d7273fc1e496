"""One result instead of many pictures that are nearly the same."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np

from pipeline.rerank.stream import Stream, VectorLookup

Matrix = np.ndarray[Any, np.dtype[np.float32]]

_BLOCK = 32  # results compared at once: one matrix product each, and few results read that no page needs
_ROUNDING = 1e-6  # float32 cosines of equal vectors may be 1 - 1e-7; a threshold of 1.0 must still catch copies


def drop_near_duplicates(stream: Stream, vectors_of: VectorLookup, threshold: float) -> Stream:
    """Drop a result whose cosine with a kept, more relevant one is `threshold` or more.

    Greedy: a result is compared with the kept ones only, so the most relevant of each bunch stays, and
    whether a result stays does not depend on the page. Results are compared with each other, never with the
    query: copies of the query image are good answers to it.
    """
    kept: Matrix | None = None
    limit = threshold - _ROUNDING
    while block := list(islice(stream, _BLOCK)):
        vectors = vectors_of([result.image_id for result in block])
        kept = vectors[:0] if kept is None else kept
        fresh = list(_unlike(vectors, kept, limit))
        kept = np.concatenate([kept, vectors[fresh]])
        yield from (block[row] for row in fresh)


def _unlike(vectors: Matrix, kept: Matrix, limit: float) -> Iterator[int]:
    """Yield the rows that are near neither to the kept vectors nor to an earlier row yielded."""
    near_kept = (vectors @ kept.T >= limit).any(axis=1)
    near_each_other = vectors @ vectors.T >= limit
    blocked = near_kept.copy()
    for row in range(len(vectors)):
        if not blocked[row]:
            yield row
            blocked |= near_each_other[row]
