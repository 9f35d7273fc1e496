"""The order of the steps, the same for a fixed list of results and for the lazy stream of a search."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from pipeline.errors import InvalidQuery
from pipeline.rerank.diversity import diversify
from pipeline.rerank.explanation import StepRecorder
from pipeline.rerank.filter import keep_matching
from pipeline.rerank.group_by import limit_groups
from pipeline.rerank.min_score import keep_scoring
from pipeline.rerank.near_duplicates import drop_near_duplicates
from pipeline.rerank.normalize import normalize_scores
from pipeline.rerank.options import RerankOptions
from pipeline.rerank.page import cut_page
from pipeline.rerank.stream import Stream, VectorLookup
from pipeline.results import SearchResult

_Step = Callable[[Stream], Stream]


def rerank_page(
    stream: Stream,
    options: RerankOptions,
    vectors_of: VectorLookup | None,
    *,
    falling: bool,
    recorder: StepRecorder | None = None,
) -> list[SearchResult]:
    """Run the steps over a stream of raw or normalized results and return one page.

    All that drops results comes before diversity, which therefore reorders what is left and costs no result.
    Pages of the same stream and the same other options fit together: none repeats or skips a result.
    `falling` says that scores never rise along the stream; a recorder sees what each step does. Raises
    InvalidQuery when vectors are needed and there is no lookup.
    """
    if options.needs_vectors and vectors_of is None:
        raise InvalidQuery("diversity and near-duplicate removal compare vectors: use Reranker(index=...)")
    stream = stream if recorder is None else recorder.watch("search", stream)
    for name, step in _steps(options, vectors_of, falling=falling):
        stream = step(stream) if recorder is None else recorder.watch(name, step(stream))
    return cut_page(stream, options.offset, options.top_k)


def _steps(options: RerankOptions, vectors_of: VectorLookup | None, *, falling: bool) -> Iterator[tuple[str, _Step]]:
    """Yield the steps that these options ask for, with their names, in order."""
    least, threshold, group = options.min_score, options.near_duplicate_threshold, options.group_by
    diversity, condition = options.diversity, options.filter
    if options.normalize:
        yield "normalize", normalize_scores
    if condition is not None:
        yield "filter", lambda stream: keep_matching(stream, condition)
    if least is not None:
        yield "min_score", lambda stream: keep_scoring(stream, least, falling=falling)
    if threshold is not None and vectors_of is not None:
        yield "near_duplicates", lambda stream: drop_near_duplicates(stream, vectors_of, threshold)
    if group is not None:
        yield "group_by", lambda stream: limit_groups(stream, group, options.group_size)
    if diversity and vectors_of is not None:
        yield "diversity", lambda stream: diversify(stream, vectors_of, diversity, options.diversity_window)
