"""The order of the steps, the same for a fixed list of results and for the lazy stream of a search."""

from __future__ import annotations

from pipeline.errors import InvalidQuery
from pipeline.rerank.diversity import diversify
from pipeline.rerank.filter import keep_matching
from pipeline.rerank.group_by import limit_groups
from pipeline.rerank.min_score import keep_scoring
from pipeline.rerank.near_duplicates import drop_near_duplicates
from pipeline.rerank.normalize import normalize_scores
from pipeline.rerank.options import RerankOptions
from pipeline.rerank.page import cut_page
from pipeline.rerank.stream import Stream, VectorLookup
from pipeline.results import SearchResult


def rerank_page(
    stream: Stream, options: RerankOptions, vectors_of: VectorLookup | None, *, falling: bool
) -> list[SearchResult]:
    """Run the steps over a stream of raw or normalized results and return one page.

    All that drops results comes before diversity, which therefore reorders what is left and costs no result.
    Pages of the same stream and the same other options fit together: none repeats or skips a result.
    `falling` says that scores never rise along the stream. Raises InvalidQuery when vectors are needed and
    there is no lookup.
    """
    if options.needs_vectors and vectors_of is None:
        raise InvalidQuery("diversity and near-duplicate removal compare vectors: use Reranker(index=...)")
    if options.normalize:
        stream = normalize_scores(stream)
    if options.filter is not None:
        stream = keep_matching(stream, options.filter)
    if options.min_score is not None:
        stream = keep_scoring(stream, options.min_score, falling=falling)
    if options.near_duplicate_threshold is not None and vectors_of is not None:
        stream = drop_near_duplicates(stream, vectors_of, options.near_duplicate_threshold)
    if options.group_by is not None:
        stream = limit_groups(stream, options.group_by, options.group_size)
    if options.diversity and vectors_of is not None:
        stream = diversify(stream, vectors_of, options.diversity, options.diversity_window)
    return cut_page(stream, options.offset, options.top_k)
