"""One page out of a stream."""

from __future__ import annotations

from itertools import islice

from pipeline.rerank.stream import Stream
from pipeline.results import SearchResult


def cut_page(stream: Stream, offset: int, top_k: int) -> list[SearchResult]:
    """Return results offset+1 to offset+top_k with these ranks; fewer only when the stream ends."""
    page = enumerate(islice(stream, offset, offset + top_k), start=offset + 1)
    return [result if result.rank == rank else result.model_copy(update={"rank": rank}) for rank, result in page]
