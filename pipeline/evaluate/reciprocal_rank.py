"""Reciprocal rank; its mean over the queries is MRR."""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet


def reciprocal_rank(relevant: AbstractSet[str], ranked: Sequence[str]) -> float:
    """Return 1 / (rank of the first relevant image), or 0.0 when none was ranked.

    Source: E. Voorhees, "The TREC-8 question answering track report" (1999); trec_eval `recip_rank`.
    """
    for rank, image_id in enumerate(ranked, start=1):
        if image_id in relevant:
            return 1.0 / rank
    return 0.0
