"""Only the results whose attributes match."""

from __future__ import annotations

from pipeline.rerank.stream import Stream
from storage.filters import Filter


def keep_matching(stream: Stream, condition: Filter) -> Stream:
    """Keep the results whose own attributes match exactly; a result that carries none has none."""
    for result in stream:
        if condition.matches(result.attributes):
            yield result
