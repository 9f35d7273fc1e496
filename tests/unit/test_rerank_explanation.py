"""What an explanation tells of the steps, on small searches that can be followed by hand."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from pipeline.pages import PageQuestion, search_pages
from pipeline.rerank import RerankOptions
from pipeline.rerank.explanation import StepTrace
from pipeline.search import NearestNeighborSearch
from storage.filters import Equals
from storage.records import ImageMetadata
from storage.vector_index import VectorIndex

ANGLES = {"a": 0, "b": 1, "c": 30, "d": 60, "e": 62, "f": 90, "g": 120}  # degrees from the query
SHOPS = {"a": "x", "b": "x", "c": "x", "d": "y", "e": "y", "f": "x", "g": "x"}


def unit(degrees: float) -> np.ndarray:
    return np.array([math.cos(math.radians(degrees)), math.sin(math.radians(degrees))], dtype=np.float32)


@pytest.fixture
def service() -> NearestNeighborSearch:
    index = VectorIndex(2)
    index.add_many(list(ANGLES), np.stack([unit(angle) for angle in ANGLES.values()]))

    def lookup(image_ids: Sequence[str]) -> Mapping[str, ImageMetadata]:
        return {i: ImageMetadata(image_id=i, attributes={"shop": SHOPS[i]}) for i in image_ids}

    return NearestNeighborSearch(index, metadata=lookup)


def test_only_the_steps_that_were_asked_for_are_told(service: NearestNeighborSearch) -> None:
    _, explanation = service.explain_page(unit(0), RerankOptions(normalize=False, top_k=2))
    assert explanation.steps == ["page"]
    assert explanation.dropped == {"page": 0}
    assert list(explanation.results) == ["a", "b"]


def test_an_explained_page_is_the_page_itself(service: NearestNeighborSearch) -> None:
    options = RerankOptions(
        top_k=3, offset=1, near_duplicate_threshold=0.999, diversity=0.4, group_by="shop", group_size=3
    )
    assert service.explain_page(unit(0), options)[0] == service.search_page(unit(0), options)


def test_each_step_tells_scores_and_ranks_before_and_after(service: NearestNeighborSearch) -> None:
    options = RerankOptions(
        filter=Equals(key="shop", value="x"), min_score=-0.1, near_duplicate_threshold=0.999, top_k=1, offset=1
    )
    page, explanation = service.explain_page(unit(0), options)
    assert page.image_ids == ["c"]  # a, b and c are of shop x; b is nearly a; a stands before the offset
    cosine = 1 - page[0].distance / 2
    assert explanation.results["c"] == [
        StepTrace(step="normalize", score_before=-page[0].distance, score_after=cosine, rank_before=3, rank_after=3),
        StepTrace(step="filter", score_before=cosine, score_after=cosine, rank_before=3, rank_after=3),
        StepTrace(step="min_score", score_before=cosine, score_after=cosine, rank_before=3, rank_after=3),
        StepTrace(step="near_duplicates", score_before=cosine, score_after=cosine, rank_before=3, rank_after=2),
        StepTrace(step="page", score_before=cosine, score_after=cosine, rank_before=2, rank_after=2),
    ]
    assert explanation.steps == ["normalize", "filter", "min_score", "near_duplicates", "page"]


def test_dropped_ones_are_counted_where_they_were_dropped(service: NearestNeighborSearch) -> None:
    """Of a to g, the filter drops d and e, min_score g, near-duplicates b, and the offset a."""
    options = RerankOptions(
        filter=Equals(key="shop", value="x"), min_score=-0.1, near_duplicate_threshold=0.999, top_k=10, offset=1
    )
    page, explanation = service.explain_page(unit(0), options)
    assert page.image_ids == ["c", "f"]
    dropped = {"normalize": 0, "filter": 2, "min_score": 1, "near_duplicates": 1, "page": 1}
    assert explanation.dropped == dropped


def test_what_only_waits_for_the_next_page_is_not_dropped(service: NearestNeighborSearch) -> None:
    """Near-duplicates and diversity read ahead; the page needs two results."""
    _, explanation = service.explain_page(
        unit(0), RerankOptions(near_duplicate_threshold=0.999, diversity=0.1, diversity_window=7, top_k=2)
    )
    assert explanation.dropped == {"normalize": 0, "near_duplicates": 2, "diversity": 0, "page": 0}
    _, explanation = service.explain_page(unit(0), RerankOptions(near_duplicate_threshold=0.999, top_k=1))
    assert explanation.dropped == {"normalize": 0, "near_duplicates": 0, "page": 0}


def test_groups_that_are_full_are_dropped(service: NearestNeighborSearch) -> None:
    page, explanation = service.explain_page(unit(0), RerankOptions(group_by="shop", top_k=10))
    assert page.image_ids == ["a", "d"]
    assert explanation.dropped == {"normalize": 0, "group_by": 5, "page": 0}
    assert explanation.results["d"][1] == StepTrace(
        step="group_by", score_before=page[1].score, score_after=page[1].score, rank_before=4, rank_after=2
    )


def test_diversity_changes_ranks_and_no_scores(service: NearestNeighborSearch) -> None:
    page, explanation = service.explain_page(unit(0), RerankOptions(diversity=0.7, top_k=7))
    for result in page.results:
        trace = explanation.results[result.image_id][1]
        assert (trace.step, trace.score_before, trace.score_after) == ("diversity", result.score, result.score)
        assert trace.rank_before == list(ANGLES).index(result.image_id) + 1
        assert trace.rank_after == result.rank
    assert page.image_ids != list(ANGLES)


def test_a_filter_that_sql_has_answered_stands_first(service: NearestNeighborSearch) -> None:
    options = RerankOptions(filter=Equals(key="shop", value="y"), top_k=1)
    only = {"d", "e", "gone from the index"}
    question = PageQuestion(unit(0), options, only=only, only_matches_filter=True, explain=True)
    (page,) = search_pages(service.index, [question])
    assert page.explanation is not None
    assert page.explanation.steps == ["filter", "normalize", "page"]
    assert page.explanation.dropped == {"filter": 5, "normalize": 0, "page": 0}
    first = page.explanation.results["d"][0]
    assert (first.step, first.rank_before, first.rank_after) == ("filter", None, 1)


def test_an_empty_page_is_explained_as_well(service: NearestNeighborSearch) -> None:
    page, explanation = service.explain_page(unit(0), RerankOptions(offset=100))
    assert page.results == []
    assert explanation.results == {}
    assert explanation.dropped == {"normalize": 0, "page": 7}
