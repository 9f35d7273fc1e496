"""The reranker on fixed results, and what options it takes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pipeline.errors import InvalidQuery
from pipeline.rerank import Reranker, RerankOptions
from pipeline.rerank.options import RerankKeywords
from pipeline.results import SearchResult, SearchResults
from storage.errors import ModelMismatch, UnknownImageId
from storage.filters import Equals
from storage.records import ModelIdentity
from storage.vector_index import VectorIndex


def identity(name: str) -> ModelIdentity:
    return ModelIdentity(name=name, revision="r", weights_fingerprint="w", preprocessing_fingerprint="p", dimension=2)


def answer(*distances: float, model: ModelIdentity | None = None) -> SearchResults:
    """Results `1`, `2`, ... at these distances, with the attribute `parity`."""
    results = [
        SearchResult(
            rank=n,
            image_id=str(n),
            score=-distance,
            distance=distance,
            attributes={"parity": "odd" if n % 2 else "even"},
        )
        for n, distance in enumerate(distances, start=1)
    ]
    return SearchResults(query_id="q", results=results, model=model)


@pytest.fixture
def index() -> VectorIndex:
    """Images `1` and `2` are copies, `3` stands at a right angle to both."""
    index = VectorIndex(2, model=identity("clip"))
    index.add_many(["1", "2", "3"], np.array([[1, 0], [1, 0], [0, 1]], dtype=np.float32))
    return index


def test_the_example_of_the_design_works() -> None:
    results = answer(0.2, 0.4, 1.0, 1.3, 1.5, 1.9)
    reranked = Reranker().rerank(results=results, normalize=True, min_score=0.3, top_k=5)
    lines = [f"{result.rank}. {result.image_id}: {result.score:.4f}" for result in reranked.results]
    assert lines == ["1. 1: 0.9000", "2. 2: 0.8000", "3. 3: 0.5000", "4. 4: 0.3500"]
    assert reranked.normalized
    assert reranked.query_id == "q"


def test_the_results_given_are_left_as_they_were() -> None:
    results = answer(0.2, 0.4)
    before = results.model_copy(deep=True)
    Reranker().rerank(results, top_k=1)
    assert results == before


def test_normalized_results_are_not_normalized_again() -> None:
    once = Reranker().rerank(answer(0.2, 0.4))
    assert Reranker().rerank(once, normalize=True) == once


def test_normalized_results_stay_so_without_normalize() -> None:
    once = Reranker().rerank(answer(0.2, 0.4))
    assert Reranker().rerank(once, normalize=False) == once


def test_min_score_without_normalize_is_compared_with_raw_scores() -> None:
    reranked = Reranker().rerank(answer(0.2, 0.4, 1.0), normalize=False, min_score=-0.5)
    assert reranked.image_ids == ["1", "2"]
    assert [result.score for result in reranked.results] == [-0.2, -0.4]
    assert not reranked.normalized


def test_ranks_go_on_from_the_offset() -> None:
    reranked = Reranker().rerank(answer(0.1, 0.2, 0.3, 0.4), offset=1, top_k=2)
    assert [(result.rank, result.image_id) for result in reranked.results] == [(2, "2"), (3, "3")]


def test_a_filter_and_a_group_look_at_the_results_attributes() -> None:
    results = answer(0.1, 0.2, 0.3, 0.4)
    assert Reranker().rerank(results, filter=Equals(key="parity", value="even")).image_ids == ["2", "4"]
    assert Reranker().rerank(results, group_by="parity").image_ids == ["1", "2"]


def test_near_duplicates_are_removed_with_an_index(index: VectorIndex) -> None:
    reranked = Reranker(index).rerank(answer(0.1, 0.2, 0.3), near_duplicate_threshold=0.95)
    assert [(result.rank, result.image_id) for result in reranked.results] == [(1, "1"), (2, "3")]


def test_diversity_puts_the_different_image_before_the_copy(index: VectorIndex) -> None:
    assert Reranker(index).rerank(answer(0.1, 0.2, 0.3), diversity=0.5).image_ids == ["1", "3", "2"]


def test_min_score_after_diversity_loses_no_result(index: VectorIndex) -> None:
    """Diverse results do not fall in score, so that the first one below must not end them."""
    diverse = Reranker(index).rerank(answer(0.1, 0.2, 1.0), diversity=0.9)
    assert diverse.image_ids == ["1", "3", "2"]
    assert Reranker().rerank(diverse, min_score=0.6).image_ids == ["1", "2"]


def test_an_empty_answer_stays_empty(index: VectorIndex) -> None:
    assert Reranker(index).rerank(answer(), diversity=0.5, near_duplicate_threshold=0.9).results == []


@pytest.mark.parametrize("keywords", [{"diversity": 0.5}, {"near_duplicate_threshold": 0.9}])
def test_comparing_results_without_an_index_is_refused(keywords: dict[str, Any]) -> None:
    with pytest.raises(InvalidQuery, match=r"Reranker\(index=\.\.\.\)"):
        Reranker().rerank(answer(0.1), **keywords)


def test_results_of_another_model_are_not_compared(index: VectorIndex) -> None:
    with pytest.raises(ModelMismatch):
        Reranker(index).rerank(answer(0.1, model=identity("other")), diversity=0.5)


def test_results_that_the_index_does_not_hold_are_not_compared(index: VectorIndex) -> None:
    with pytest.raises(UnknownImageId):
        Reranker(index).rerank(answer(0.1, 0.2, 0.3, 0.4), diversity=0.5)


def test_keywords_win_over_options() -> None:
    reranked = Reranker().rerank(answer(0.1, 0.2, 0.3), RerankOptions(top_k=1, offset=1), top_k=2)
    assert reranked.image_ids == ["2", "3"]


def test_keywords_and_options_have_the_same_fields() -> None:
    assert set(RerankKeywords.__annotations__) == set(RerankOptions.model_fields)


@pytest.mark.parametrize(
    "keywords",
    [
        {"top_k": 0},
        {"offset": -1},
        {"diversity": 1.5},
        {"diversity": -0.1},
        {"diversity": float("nan")},
        {"diversity_window": 0},
        {"near_duplicate_threshold": 0.0},
        {"near_duplicate_threshold": 1.01},
        {"min_score": float("inf")},
        {"group_by": ""},
        {"group_size": 0},
        {"filter": "colour=red"},
        {"topk": 3},
    ],
    ids=str,
)
def test_options_that_make_no_sense_are_refused_by_name(keywords: dict[str, Any]) -> None:
    with pytest.raises(InvalidQuery, match=next(iter(keywords))):
        Reranker().rerank(answer(0.1), **keywords)
    with pytest.raises(InvalidQuery, match=next(iter(keywords))):
        RerankOptions(**keywords)


def test_options_travel_as_json() -> None:
    options = RerankOptions(filter=Equals(key="a", value=1), diversity=0.3, group_by="shop", offset=20)
    assert RerankOptions.model_validate_json(options.model_dump_json()) == options
