"""Pages of search results for many questions at once: one index call for all, then each asks on by itself.

An answer does not depend on what else is asked with it: hits are exact and the same to the bit for any batch,
and the steps of reranking see the same stream. Knows no models, no SQL and no queue.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from pipeline.errors import InvalidQuery
from pipeline.rerank.explanation import Explanation, StepRecorder
from pipeline.rerank.options import RerankOptions
from pipeline.rerank.steps import rerank_page
from pipeline.rerank.stream import Stream
from pipeline.results import SearchResult
from storage.records import Attributes
from storage.vector_checks import Vectors
from storage.vector_index import Hit, VectorIndex


class Shown(Protocol):
    """What results tell of an image: an ImageMetadata, or the catalog's lighter ShownImage."""

    @property
    def source_uri(self) -> str: ...

    @property
    def attributes(self) -> Attributes: ...


# Ids to what is known of these images; unknown ids may be left out. In practice Catalog.images.shown.
MetadataLookup = Callable[[Sequence[str]], Mapping[str, Shown]]

_FIRST_FETCH = 64  # hits, where steps may drop some: what is asked again costs a search of its own
_DEEPEST_SHARED = 2048  # hits; who needs more (a far offset) asks alone, so that the others need not wait for it
_LOOKUP_BLOCK = 32  # results whose attributes are looked up at once, when a step needs them


@dataclass(frozen=True, eq=False)
class PageQuestion:
    """One page of what is nearest to a (dimension,) float32 unit vector.

    `only` keeps to these ids (`only_matches_filter`: they are exactly those that the options' filter matches, so
    that no attributes have to be looked at); `exclude` leaves ids out.
    """

    vector: Vectors
    options: RerankOptions
    only: Collection[str] | None = None
    only_matches_filter: bool = False
    exclude: Collection[str] = ()
    explain: bool = False

    @property
    def filter_is_done(self) -> bool:
        """Whether the options' filter needs no step any more."""
        return self.only is not None and self.only_matches_filter and self.options.filter is not None

    @cached_property
    def steps(self) -> RerankOptions:
        """The options for the steps that are left."""
        return self.options.model_copy(update={"filter": None}) if self.filter_is_done else self.options

    @cached_property
    def first_fetch(self) -> int:
        """How many hits the page will probably need: its end, in whole windows, and more where results drop."""
        options = self.steps
        wanted = options.offset + options.top_k
        if options.diversity:
            wanted = -(-wanted // options.diversity_window) * options.diversity_window
        if options.drops_results:
            wanted = max(_FIRST_FETCH, 2 * wanted)
        return wanted + len(self.exclude)


@dataclass(frozen=True, eq=False)
class Page:
    """The results of one page, and how they came about if that was asked."""

    results: list[SearchResult]
    explanation: Explanation | None = None


def search_pages(
    index: VectorIndex, questions: Sequence[PageQuestion], metadata: MetadataLookup | None = None
) -> list[Page]:
    """Answer each question as if it were asked alone; questions with the same `only` object share a search.

    A page is full while candidates remain, whatever the options drop, and pages of the same options fit together
    while the index stays the same. Results carry address and attributes where the lookup knows them. Raises what
    the lookup raises, and InvalidQuery when options need attributes or vectors that there are none of.
    """
    if metadata is None and any(question.steps.needs_attributes for question in questions):
        raise InvalidQuery("filter and group_by need attributes: use NearestNeighborSearch(metadata=...)")
    firsts = _first_hits(index, questions)
    pages = [_page(index, question, hits, metadata) for question, hits in zip(questions, firsts, strict=True)]
    return pages if metadata is None else _with_metadata(pages, questions, metadata)


def _first_hits(index: VectorIndex, questions: Sequence[PageQuestion]) -> list[list[Hit]]:
    """The `first_fetch` nearest hits of each question, the excluded ones among them; one search for each `only`."""
    groups: dict[tuple[int, int], list[int]] = {}
    for place, question in enumerate(questions):
        alone = place if question.first_fetch > _DEEPEST_SHARED else -1
        groups.setdefault((id(question.only), alone), []).append(place)
    firsts: dict[int, list[Hit]] = {}
    for places in groups.values():
        vectors = np.stack([questions[place].vector for place in places])
        fetches = [questions[place].first_fetch for place in places]
        hits = index.search_many(vectors, fetches, only=questions[places[0]].only)
        firsts.update(zip(places, hits, strict=True))
    return [firsts[place] for place in range(len(questions))]


def _page(index: VectorIndex, question: PageQuestion, first: Sequence[Hit], metadata: MetadataLookup | None) -> Page:
    options = question.steps
    blocks = hit_blocks(index, question, first, question.first_fetch)
    stream = results_of(blocks, metadata if options.needs_attributes else None)
    recorder = StepRecorder(filtered_out=_filtered_out(index, question)) if question.explain else None
    results = rerank_page(stream, options, index.reconstruct_many, falling=True, recorder=recorder)
    return Page(results, None if recorder is None else recorder.explanation(results))


def _filtered_out(index: VectorIndex, question: PageQuestion) -> int | None:
    if not question.filter_is_done or question.only is None:
        return None
    return len(index) - index.count(question.only)


def _with_metadata(pages: Sequence[Page], questions: Sequence[PageQuestion], metadata: MetadataLookup) -> list[Page]:
    """The pages with address and attributes of their results, by one lookup; steps may have filled some already."""
    bare = [not question.steps.needs_attributes for question in questions]
    wanted = dict.fromkeys(
        result.image_id for page, is_bare in zip(pages, bare, strict=True) if is_bare for result in page.results
    )
    if not wanted:
        return list(pages)
    known = metadata(list(wanted))
    return [
        Page([_told(result, known.get(result.image_id)) for result in page.results], page.explanation)
        if is_bare
        else page
        for page, is_bare in zip(pages, bare, strict=True)
    ]


def hit_blocks(index: VectorIndex, question: PageQuestion, first: Sequence[Hit], fetched: int) -> Iterator[list[Hit]]:
    """Yield all hits in order, in blocks; `first` are the `fetched` nearest ones, the excluded among them.

    Each time it asks for twice as many, so that reading n hits takes about log2(n / fetched) searches. No image
    comes twice, even when the index changes meanwhile.
    """
    gone = set(question.exclude)
    hits, fetch = first, fetched
    while True:
        block = [hit for hit in hits if hit.image_id not in gone]
        yield block
        if len(hits) < fetch:
            return
        gone.update(hit.image_id for hit in block)
        fetch *= 2
        hits = index.search(question.vector, fetch, only=question.only)


def results_of(blocks: Iterable[Sequence[Hit]], metadata: MetadataLookup | None = None) -> Stream:
    """Yield the hits as results with raw scores, ranked from 1, with what the lookup knows of them."""
    rank = 0
    for block in blocks:
        for start in range(0, len(block), _LOOKUP_BLOCK):
            part = block[start : start + _LOOKUP_BLOCK]
            known = {} if metadata is None else metadata([hit.image_id for hit in part])
            for hit in part:
                rank += 1
                yield result_of(hit, rank, known.get(hit.image_id))


def result_of(hit: Hit, rank: int, known: Shown | None = None) -> SearchResult:
    """One hit as a result with its raw score."""
    return SearchResult(
        rank=rank,
        image_id=hit.image_id,
        score=-hit.distance,
        distance=hit.distance,
        source_uri=known.source_uri if known else "",
        attributes=known.attributes if known else {},
    )


def _told(result: SearchResult, known: Shown | None) -> SearchResult:
    if known is None:
        return result
    return result.model_copy(update={"source_uri": known.source_uri, "attributes": known.attributes})
