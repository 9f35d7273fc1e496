"""Normalized discounted cumulative gain, with binary relevance."""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from math import log2


def ndcg_at_k(relevant: AbstractSet[str], ranked: Sequence[str], k: int) -> float:
    """Return DCG of the first k, divided by the DCG of the best possible order.

    DCG = sum over ranks i <= k with a relevant image of 1 / log2(i + 1); the best order has min(k,
    |relevant|) relevant images first. Source: K. Jarvelin, J. Kekalainen, "Cumulated gain-based evaluation of
    IR techniques", ACM TOIS 20(4), 2002, in the discount that trec_eval's `ndcg_cut_k` uses.
    """
    gain = sum(_discount(rank) for rank, image_id in enumerate(ranked[:k], start=1) if image_id in relevant)
    best = sum(_discount(rank) for rank in range(1, min(k, len(relevant)) + 1))
    return gain / best


def _discount(rank: int) -> float:
    return 1.0 / log2(rank + 1)
