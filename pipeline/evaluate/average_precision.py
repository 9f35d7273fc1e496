"""Average precision; its mean over the queries is mAP."""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet


def average_precision(relevant: AbstractSet[str], ranked: Sequence[str]) -> float:
    """Return the mean, over all relevant images, of the precision at the rank of each.

    AP = (1 / |relevant|) * sum over ranks i with a relevant image of (relevant in top i) / i. A relevant
    image that was not ranked adds 0. Not interpolated. Source: Manning, Raghavan, Schuetze, Introduction to
    Information Retrieval (2008), 8.4; trec_eval `map`.
    """
    found = 0
    total = 0.0
    for rank, image_id in enumerate(ranked, start=1):
        if image_id in relevant:
            found += 1
            total += found / rank
    return total / len(relevant)
