"""Only the results that score well enough."""

from __future__ import annotations

from itertools import takewhile

from pipeline.rerank.stream import Stream


def keep_scoring(stream: Stream, min_score: float, *, falling: bool) -> Stream:
    """Keep the results with a score of min_score or more.

    With falling scores the first one below ends the stream, so that nothing more is asked of the index.
    Results that were reordered before (by diversity) do not fall, and are looked at one by one.
    """
    if falling:
        return takewhile(lambda result: result.score >= min_score, stream)
    return (result for result in stream if result.score >= min_score)
