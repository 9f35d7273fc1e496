"""Recall@K."""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet


def recall_at_k(relevant: AbstractSet[str], ranked: Sequence[str], k: int) -> float:
    """Return the part of the relevant images that stands among the first k: |relevant in top k| / |relevant|.

    `relevant` is not empty and `ranked` holds no id twice. With more than k relevant images 1.0 cannot be
    reached. Source: Manning, Raghavan, Schuetze, Introduction to Information Retrieval (2008), 8.3; trec_eval
    `recall_k`.
    """
    found = sum(image_id in relevant for image_id in ranked[:k])
    return found / len(relevant)
