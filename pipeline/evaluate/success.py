"""Success@K, also called hit rate."""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet


def success_at_k(relevant: AbstractSet[str], ranked: Sequence[str], k: int) -> float:
    """Return 1.0 when at least one relevant image stands among the first k, else 0.0.

    Source: trec_eval `success_k`. Papers on image retrieval with one right answer call the same number
    Recall@K.
    """
    return float(any(image_id in relevant for image_id in ranked[:k]))
