"""Precision@K."""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet


def precision_at_k(relevant: AbstractSet[str], ranked: Sequence[str], k: int) -> float:
    """Return the relevant part of the first k places: |relevant in top k| / k.

    The divisor is k even when fewer than k images were ranked: an empty place is not a relevant one.
    Source: Manning, Raghavan, Schuetze, Introduction to Information Retrieval (2008), 8.4; trec_eval `P_k`.
    """
    found = sum(image_id in relevant for image_id in ranked[:k])
    return found / k
