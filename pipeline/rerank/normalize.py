"""From distances to similarities."""

from __future__ import annotations

from pipeline.rerank.stream import Stream


def similarity(distance: float) -> float:
    """Turn a squared L2 distance of two unit vectors (0 to 4) into their cosine (1 to -1): 1 - d/2.

    |a - b|^2 = |a|^2 + |b|^2 - 2ab, which is 2 - 2ab when both have length 1.
    """
    return 1.0 - distance / 2.0


def normalize_scores(stream: Stream) -> Stream:
    """Make every score a similarity. It keeps the order, because it falls with the distance."""
    for result in stream:
        yield result.model_copy(update={"score": similarity(result.distance)})
