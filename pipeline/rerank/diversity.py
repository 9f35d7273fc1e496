"""Variety: maximal marginal relevance (MMR).

Source: J. Carbonell and J. Goldstein, "The use of MMR, diversity-based reranking for reordering documents and
producing summaries", SIGIR 1998, doi:10.1145/290941.291025. Their lambda is 1 - diversity here:

    next = argmax over candidates i of
           (1 - diversity) * cos(query, i) - diversity * max over picked j of cos(i, j)

The paper ranks a fixed list. Here the list is as long as the collection, so it is cut into consecutive
windows of fixed size, each reordered by itself: the order then depends neither on the size nor on the offset
of a page.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np

from pipeline.rerank.normalize import similarity
from pipeline.rerank.stream import Stream, VectorLookup

Array = np.ndarray[Any, np.dtype[np.float64]]

_CARRIED_PICKS = 20  # results; about what is seen together with the first picks of the next window
_DECIMALS = 9  # far above the rounding of float64, so that equal candidates tie and the more relevant one is taken


def diversify(stream: Stream, vectors_of: VectorLookup, diversity: float, window: int) -> Stream:
    """Reorder each window of the stream by MMR; nothing is dropped, and scores stay as they are.

    So scores are not monotone any more: rank follows MMR, score says how alike. The penalty counts the picks
    of the same window and the last 20 of the window before, so that a page across the border varies as well.
    Cosines between text and image are low with CLIP (about 0.3; between images 0.4 to 1), so for a text query
    the same diversity weighs more than for an image query.
    """
    earlier: Array | None = None
    while block := list(islice(stream, window)):
        vectors = vectors_of([result.image_id for result in block]).astype(np.float64)
        relevance = np.array([similarity(result.distance) for result in block])
        order: list[int] = []
        for row in mmr_picks(relevance, vectors, diversity, earlier):
            order.append(row)
            yield block[row]
        earlier = vectors[order[-_CARRIED_PICKS:]]


def mmr_order(relevance: Array, vectors: Array, diversity: float, earlier: Array | None = None) -> list[int]:
    """Return all rows in the order in which MMR picks them, see `mmr_picks`."""
    return list(mmr_picks(relevance, vectors, diversity, earlier))


def mmr_picks(relevance: Array, vectors: Array, diversity: float, earlier: Array | None = None) -> Iterator[int]:
    """Yield the rows in the order in which MMR picks them; a page that is full costs no further picks.

    relevance (n,) is the cosine with the query, best first; vectors (n, d) and earlier (m, d) are of unit
    length. Nothing picked and nothing earlier means no penalty. Ties go to the lower row.
    """
    redundancy = None if earlier is None or not len(earlier) else (vectors @ earlier.T).max(axis=1)
    open_rows = np.ones(len(relevance), dtype=bool)
    for _ in range(len(relevance)):
        penalty = 0.0 if redundancy is None else redundancy
        gains = np.round((1.0 - diversity) * relevance - diversity * penalty, _DECIMALS)
        pick = int(np.argmax(np.where(open_rows, gains, -np.inf)))
        yield pick
        open_rows[pick] = False
        cosines = vectors @ vectors[pick]
        redundancy = cosines if redundancy is None else np.maximum(redundancy, cosines)
