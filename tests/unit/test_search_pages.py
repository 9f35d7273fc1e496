"""Pages of a search against a plain reference: the whole list, steps written as simple loops, then a slice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.pages import PageQuestion, search_pages
from pipeline.rerank import RerankOptions
from pipeline.results import SearchResult
from pipeline.search import NearestNeighborSearch
from storage.filters import Equals
from storage.records import AttributeValue, ImageMetadata
from storage.vector_index import VectorIndex

DIMENSION = 4


@dataclass
class Collection:
    """A small collection with copies, ties and attributes, and a search on it."""

    vectors: dict[str, np.ndarray[Any, Any]]
    attributes: dict[str, dict[str, AttributeValue]]
    query: np.ndarray[Any, Any]

    def lookup(self, image_ids: Sequence[str]) -> Mapping[str, ImageMetadata]:
        return {i: ImageMetadata(image_id=i, attributes=self.attributes[i]) for i in image_ids}

    def service(self) -> NearestNeighborSearch:
        index = VectorIndex(DIMENSION)
        index.add_many(list(self.vectors), np.stack(list(self.vectors.values())))
        return NearestNeighborSearch(index, metadata=self.lookup)


def collection(seed: int, size: int, places: int) -> Collection:
    """Images at so many places of the sphere: fewer places than images means copies, so ties and duplicates."""
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(places + 1, DIMENSION))
    points = (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)
    names = [f"image {n:03}" for n in rng.permutation(size)]
    shops: list[dict[str, AttributeValue]] = [{}, {"shop": "x"}, {"shop": "y"}, {"shop": 1}, {"shop": True}]
    return Collection(
        vectors={name: points[rng.integers(places)] for name in names},
        attributes={name: shops[rng.integers(len(shops))] for name in names},
        query=points[-1],
    )


collections = st.builds(
    collection,
    seed=st.integers(0, 2**32 - 1),
    size=st.integers(1, 200),
    places=st.sampled_from([1, 3, 20, 500]),
)

options = st.builds(
    RerankOptions,
    normalize=st.booleans(),
    filter=st.sampled_from([None, Equals(key="shop", value="x"), Equals(key="shop", value=1)]),
    min_score=st.sampled_from([None, -1.5, -0.5, 0.0, 0.4, 0.95]),
    near_duplicate_threshold=st.sampled_from([None, 0.5, 0.9, 1.0]),
    group_by=st.sampled_from([None, None, "shop"]),
    group_size=st.sampled_from([1, 3, 30]),
    diversity=st.sampled_from([None, 0.0, 0.3, 0.7, 1.0]),
    diversity_window=st.sampled_from([1, 7, 100]),
)


def reference(data: Collection, asked: RerankOptions, exclude: frozenset[str] = frozenset()) -> list[SearchResult]:
    """All results in order, written to be read and not to be fast."""
    found = data.service().search_by_vector(data.query, k=len(data.vectors), exclude=exclude).results
    everything = [r.model_copy(update={"attributes": data.attributes[r.image_id]}) for r in found]
    chosen: list[SearchResult] = []
    groups: dict[str, int] = {}
    kept_vectors: list[np.ndarray[Any, Any]] = []
    for result in everything:
        score = 1 - result.distance / 2 if asked.normalize else -result.distance
        vector = data.vectors[result.image_id].astype(float)
        if asked.filter is not None and not asked.filter.matches(data.attributes[result.image_id]):
            continue
        if asked.min_score is not None and score < asked.min_score:
            continue
        threshold = asked.near_duplicate_threshold
        if threshold is not None:
            if any(vector @ kept >= threshold - 1e-6 for kept in kept_vectors):
                continue
            kept_vectors.append(vector)
        shop = data.attributes[result.image_id].get("shop")
        if asked.group_by and shop is not None:
            group = repr(shop)
            groups[group] = groups.get(group, 0) + 1
            if groups[group] > asked.group_size:
                continue
        chosen.append(result.model_copy(update={"score": score}))
    ordered = diverse(chosen, data, asked) if asked.diversity else chosen
    return [r.model_copy(update={"rank": rank}) for rank, r in enumerate(ordered, start=1)]


def diverse(results: list[SearchResult], data: Collection, asked: RerankOptions) -> list[SearchResult]:
    ordered: list[SearchResult] = []
    weight = asked.diversity or 0.0
    for start in range(0, len(results), asked.diversity_window):
        waiting = results[start : start + asked.diversity_window]
        against = ordered[-min(20, asked.diversity_window) :]  # the last picks of the window before, if any
        while waiting:
            gains = []
            for candidate in waiting:
                vector = data.vectors[candidate.image_id].astype(float)
                likeness = [float(vector @ data.vectors[r.image_id].astype(float)) for r in against]
                relevance = 1 - candidate.distance / 2
                gains.append(round((1 - weight) * relevance - weight * max(likeness, default=0.0), 9))
            best = waiting.pop(gains.index(max(gains)))
            ordered.append(best)
            against = [*against, best]
    return ordered


def pages_of(service: NearestNeighborSearch, data: Collection, asked: RerankOptions, size: int) -> list[SearchResult]:
    """All pages one after the other, until one is not full."""
    results: list[SearchResult] = []
    while True:
        page = service.search_page(data.query, asked.replace(top_k=size, offset=len(results)))
        results += page.results
        if len(page) < size:
            return results


@settings(max_examples=150, deadline=None)
@given(data=collections, asked=options, size=st.integers(5, 300))
def test_pages_together_are_the_reference_list_whatever_their_size(
    data: Collection, asked: RerankOptions, size: int
) -> None:
    """So every page is full while candidates remain, and none repeats or skips a result."""
    assert pages_of(data.service(), data, asked, size) == reference(data, asked)


@settings(max_examples=50, deadline=None)
@given(data=collections, asked=options, offset=st.integers(0, 60), top_k=st.integers(1, 60))
def test_one_page_is_the_slice_of_the_reference_list(
    data: Collection, asked: RerankOptions, offset: int, top_k: int
) -> None:
    page = data.service().search_page(data.query, asked.replace(offset=offset, top_k=top_k))
    assert page.results == reference(data, asked)[offset : offset + top_k]


@settings(max_examples=50, deadline=None)
@given(data=collections, asked=options)
def test_a_filter_gives_the_same_on_the_stream_and_by_ids_found_before(data: Collection, asked: RerankOptions) -> None:
    """The ids that SQL finds, handed in as `only`, change the speed and not the answer."""
    matching = {i for i, own in data.attributes.items() if asked.filter is None or asked.filter.matches(own)}
    service = data.service()
    assert service.search_page(data.query, asked, only=matching) == service.search_page(data.query, asked)


@pytest.fixture
def hundreds() -> Collection:
    """Five hundred images at five hundred places."""
    return collection(seed=11, size=500, places=500)


def test_a_page_is_full_when_nearly_everything_is_dropped(hundreds: Collection) -> None:
    """One image in fifty matches, more than any first fetch holds of them."""
    for position, name in enumerate(hundreds.vectors):
        hundreds.attributes[name] = {"rare": position % 50 == 0}
    page = hundreds.service().search_page(
        hundreds.query, RerankOptions(filter=Equals(key="rare", value=True), top_k=10)
    )
    assert len(page) == 10


class WatchedLookup:
    """The collection's lookup, which remembers each call."""

    def __init__(self, data: Collection) -> None:
        self.data = data
        self.calls: list[list[str]] = []

    def __call__(self, image_ids: Sequence[str]) -> Mapping[str, ImageMetadata]:
        self.calls.append(list(image_ids))
        return self.data.lookup(image_ids)


def test_metadata_is_looked_up_once_and_only_for_the_page(hundreds: Collection) -> None:
    lookup = WatchedLookup(hundreds)
    page = NearestNeighborSearch(hundreds.service().index, metadata=lookup).search_page(
        hundreds.query, RerankOptions(top_k=10, near_duplicate_threshold=0.9, diversity=0.5)
    )
    assert lookup.calls == [page.image_ids]


def test_metadata_is_looked_up_in_blocks_where_a_step_needs_it(hundreds: Collection) -> None:
    lookup = WatchedLookup(hundreds)
    page = NearestNeighborSearch(hundreds.service().index, metadata=lookup).search_page(
        hundreds.query, RerankOptions(top_k=10, group_by="shop", group_size=100)
    )
    assert [len(call) for call in lookup.calls] == [32]
    assert all(result.attributes == hundreds.attributes[result.image_id] for result in page.results)


def test_min_score_ends_the_search_instead_of_reading_the_whole_collection(hundreds: Collection) -> None:
    lookup = WatchedLookup(hundreds)
    page = NearestNeighborSearch(hundreds.service().index, metadata=lookup).search_page(
        hundreds.query, RerankOptions(top_k=100, min_score=0.9)
    )
    assert 0 < len(page) < 100
    assert lookup.calls == [page.image_ids]


def hit_pairs(data: Collection, query: np.ndarray[Any, Any], exclude: frozenset[str]) -> list[tuple[str, float]]:
    """Ids and distances by numpy alone, by distance (equal vectors exactly equal) and then id."""
    rows = {i: float(((vector.astype(float) - query.astype(float)) ** 2).sum()) for i, vector in data.vectors.items()}
    return sorted(((i, d) for i, d in rows.items() if i not in exclude), key=lambda pair: (round(pair[1], 12), pair[0]))


@dataclass(frozen=True)
class Ask:
    """What one request of a batch asks; `place` chooses the query vector among those of the collection."""

    place: int
    options: RerankOptions
    top_k: int
    offset: int
    excluded: int
    by_filter: bool
    explain: bool

    def question(self, data: Collection, only: dict[str, set[str]]) -> PageQuestion:
        names = sorted(data.vectors)
        filter_ = self.options.filter
        return PageQuestion(
            vector=data.vectors[names[self.place % len(names)]],
            options=self.options.replace(top_k=self.top_k, offset=self.offset),
            only=only[filter_.model_dump_json()] if filter_ is not None and self.by_filter else None,
            only_matches_filter=True,
            exclude=frozenset(names[: self.excluded]),
            explain=self.explain,
        )


asks = st.builds(
    Ask,
    place=st.integers(0, 1000),
    options=options,
    top_k=st.integers(1, 60),
    offset=st.sampled_from([0, 0, 7, 150]),
    excluded=st.sampled_from([0, 0, 1, 30]),
    by_filter=st.booleans(),
    explain=st.booleans(),
)


@settings(max_examples=100, deadline=None)
@given(data=collections, batch=st.lists(asks, min_size=1, max_size=12))
def test_a_batch_of_pages_is_to_the_bit_what_each_page_is_alone(data: Collection, batch: list[Ask]) -> None:
    """Whatever else is asked with it: other sizes, filters, offsets, excluded ids."""
    service = data.service()
    matching = {
        part.model_dump_json(): {i for i, own in data.attributes.items() if part.matches(own)}
        for part in {ask.options.filter for ask in batch}
        if part is not None
    }
    questions = [ask.question(data, matching) for ask in batch]
    for question, page in zip(questions, search_pages(service.index, questions, data.lookup), strict=True):
        alone = service.search_page(question.vector, question.options, exclude=question.exclude)
        assert page.results == alone.results
        wanted = reference(replace(data, query=question.vector), question.options, question.exclude)
        assert page.results == wanted[question.options.offset :][: question.options.top_k]
        assert (page.explanation is not None) == question.explain
        if page.explanation is not None:
            assert list(page.explanation.results) == [result.image_id for result in page.results]


@settings(max_examples=60, deadline=None)
@given(data=collections, ks=st.lists(st.integers(1, 250), min_size=1, max_size=20))
def test_a_batch_of_hits_agrees_with_numpy_alone(data: Collection, ks: list[int]) -> None:
    """Each query of the batch with a k of its own."""
    rng = np.random.default_rng(len(ks))
    queries = rng.normal(size=(len(ks), DIMENSION))
    rows = (queries / np.linalg.norm(queries, axis=1, keepdims=True)).astype(np.float32)
    found = data.service().index.search_many(rows, ks)
    for query, k, hits in zip(rows, ks, found, strict=True):
        wanted = hit_pairs(data, query, frozenset())[:k]
        assert [hit.image_id for hit in hits] == [image_id for image_id, _ in wanted]
        assert [hit.distance for hit in hits] == pytest.approx([distance for _, distance in wanted], abs=1e-12)


def test_a_batch_asks_the_index_once_and_the_catalog_once(
    hundreds: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Different pages, sizes and excluded ids notwithstanding."""
    index, lookup = hundreds.service().index, WatchedLookup(hundreds)
    calls: list[list[int]] = []
    search_many = index.search_many

    def counted(vectors: Any, k: list[int], **keywords: Any) -> Any:
        calls.append(k)
        return search_many(vectors, k, **keywords)

    monkeypatch.setattr(index, "search_many", counted)
    monkeypatch.setattr(index, "search", None)  # nobody has to ask on
    vectors = list(hundreds.vectors.values())
    questions = [
        PageQuestion(vectors[n], RerankOptions(top_k=5 + n, offset=n), exclude=frozenset(list(hundreds.vectors)[:n]))
        for n in range(8)
    ]
    pages = search_pages(index, questions, lookup)
    assert [len(page.results) for page in pages] == [5 + n for n in range(8)]
    assert calls == [[5 + 3 * n for n in range(8)]]
    assert len(lookup.calls) == 1


def test_an_image_that_the_catalog_does_not_know_any_more_stays_without_attributes(hundreds: Collection) -> None:
    """The index has not caught up with a removal yet: pages stay full and fit together."""
    removed = set(list(hundreds.vectors)[::2])

    def lookup(image_ids: Sequence[str]) -> Mapping[str, ImageMetadata]:
        return hundreds.lookup([image_id for image_id in image_ids if image_id not in removed])

    service = NearestNeighborSearch(hundreds.service().index, metadata=lookup)
    pages = [service.search_page(hundreds.query, RerankOptions(top_k=100, offset=at)) for at in range(0, 500, 100)]
    found = [result for page in pages for result in page.results]
    assert {result.image_id for result in found} == set(hundreds.vectors)
    assert all(result.attributes == {} for result in found if result.image_id in removed)
