"""Each step of reranking by itself, on streams made by hand."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from pipeline.errors import InvalidQuery
from pipeline.rerank.diversity import diversify, mmr_order
from pipeline.rerank.filter import keep_matching
from pipeline.rerank.group_by import limit_groups
from pipeline.rerank.min_score import keep_scoring
from pipeline.rerank.near_duplicates import drop_near_duplicates
from pipeline.rerank.normalize import normalize_scores, similarity
from pipeline.rerank.options import RerankOptions
from pipeline.rerank.page import cut_page
from pipeline.rerank.steps import rerank_page
from pipeline.results import SearchResult
from storage.filters import Equals
from storage.records import AttributeValue

SEED = 20240607


def found(image_id: str, distance: float = 0.5, **attributes: AttributeValue) -> SearchResult:
    return SearchResult(rank=1, image_id=image_id, score=-distance, distance=distance, attributes=dict(attributes))


def ids(stream: Iterator[SearchResult]) -> list[str]:
    return [result.image_id for result in stream]


def at_angle(degrees: float) -> list[float]:
    """A unit vector in the plane: the cosine of two of them is the cosine of the angle between them."""
    return [math.cos(math.radians(degrees)), math.sin(math.radians(degrees))]


def looking_up(vectors: dict[str, Sequence[float]]) -> Callable[[Sequence[str]], Any]:
    return lambda image_ids: np.array([vectors[image_id] for image_id in image_ids], dtype=np.float32)


def plane(angles: dict[str, float]) -> tuple[list[SearchResult], Callable[[Sequence[str]], Any]]:
    """Images at angles from a query at 0 degrees, nearest first, and their vectors."""
    nearest_first = sorted(angles, key=lambda name: abs(angles[name]))
    results = [found(name, 2 - 2 * math.cos(math.radians(angles[name]))) for name in nearest_first]
    return results, looking_up({name: at_angle(angle) for name, angle in angles.items()})


def counted(results: Sequence[SearchResult]) -> tuple[Iterator[SearchResult], list[str]]:
    """A stream that records what was read from it."""
    read: list[str] = []

    def stream() -> Iterator[SearchResult]:
        for result in results:
            read.append(result.image_id)
            yield result

    return stream(), read


@pytest.mark.parametrize(("distance", "expected"), [(0.0, 1.0), (2.0, 0.0), (4.0, -1.0), (0.5, 0.75)])
def test_similarity_of_unit_vectors_is_one_minus_half_the_squared_distance(distance: float, expected: float) -> None:
    assert similarity(distance) == expected


def test_normalizing_changes_scores_and_keeps_distances() -> None:
    (only,) = normalize_scores(iter([found("a", 0.5)]))
    assert (only.score, only.distance) == (0.75, 0.5)


def test_a_filter_looks_at_each_results_own_attributes() -> None:
    stream = iter([found("a", colour="red"), found("b"), found("c", colour="blue")])
    assert ids(keep_matching(stream, Equals(key="colour", value="red"))) == ["a"]


def test_min_score_keeps_results_that_score_exactly_so_much() -> None:
    assert ids(keep_scoring(iter([found("a", 0.25), found("b", 0.5)]), -0.5, falling=True)) == ["a", "b"]


def test_min_score_stops_reading_at_the_first_result_below() -> None:
    stream, read = counted([found("a", 0.1), found("b", 0.9), found("c", 1.0), found("d", 1.1)])
    assert ids(keep_scoring(stream, -0.5, falling=True)) == ["a"]
    assert read == ["a", "b"]


def test_min_score_looks_at_every_result_when_scores_do_not_fall() -> None:
    stream = iter([found("a", 0.1), found("b", 0.9), found("c", 0.2)])
    assert ids(keep_scoring(stream, -0.5, falling=False)) == ["a", "c"]


def test_a_near_duplicate_of_a_more_relevant_result_is_dropped() -> None:
    results, vectors_of = plane({"a": 0, "copy of a": 5, "b": 40, "copy of b": 44})
    assert ids(drop_near_duplicates(iter(results), vectors_of, 0.99)) == ["a", "b"]


def test_a_result_like_a_dropped_one_only_is_kept() -> None:
    """Greedy comparison with the kept ones: 0 and 10 degrees are near, 10 and 20 are, 0 and 20 are not."""
    results, vectors_of = plane({"a": 0, "b": 10, "c": 20})
    assert ids(drop_near_duplicates(iter(results), vectors_of, math.cos(math.radians(12)))) == ["a", "c"]


def test_exact_copies_are_near_duplicates_at_the_threshold_of_one() -> None:
    """Their cosine in float32 may come out a little below 1."""
    rng = np.random.default_rng(SEED)
    vector = rng.normal(size=512)
    same = (vector / np.linalg.norm(vector)).astype(np.float32)
    stream = (found(name) for name in "abc")
    assert ids(drop_near_duplicates(stream, looking_up(dict.fromkeys("abc", same)), 1.0)) == ["a"]


def test_near_duplicates_are_found_across_blocks() -> None:
    """Two hundred images at two places, more than are compared in one block."""
    results = [found(f"{number:03}") for number in range(200)]
    vectors = {result.image_id: at_angle(90 * (n % 2)) for n, result in enumerate(results)}
    assert ids(drop_near_duplicates(iter(results), looking_up(vectors), 0.9)) == ["000", "001"]


def test_near_duplicate_removal_reads_no_more_than_a_block_ahead() -> None:
    results = [found(f"{number:03}") for number in range(200)]
    stream, read = counted(results)
    vectors = {result.image_id: at_angle(n) for n, result in enumerate(results)}
    next(drop_near_duplicates(stream, looking_up(vectors), 1.0))
    assert len(read) <= 32


def test_a_group_gives_its_most_relevant_results() -> None:
    stream = iter([found(f"{n}", shop="x" if n % 3 else "y") for n in range(9)])
    assert ids(limit_groups(stream, "shop", 2)) == ["0", "1", "2", "3"]


@pytest.mark.parametrize("absent", [{}, {"shop": None}, {"shop": []}], ids=["missing", "none", "empty"])
def test_a_result_without_the_attribute_is_a_group_of_its_own(absent: dict[str, AttributeValue]) -> None:
    stream = iter([found(name, **absent) for name in "abc"])
    assert ids(limit_groups(stream, "shop", 1)) == ["a", "b", "c"]


def test_groups_tell_a_number_from_a_boolean_and_from_text() -> None:
    stream = iter([found("int", v=1), found("float", v=1.0), found("bool", v=True), found("text", v="1")])
    assert ids(limit_groups(stream, "v", 1)) == ["int", "bool", "text"]


def test_a_list_is_one_group_whatever_its_order() -> None:
    stream = iter([found("a", v=["x", "y"]), found("b", v=["y", "x"]), found("c", v=["x"])])
    assert ids(limit_groups(stream, "v", 1)) == ["a", "c"]


def test_mmr_picks_as_computed_by_hand() -> None:
    """Query at 0 degrees; a at 10, b at 20, c at -60; diversity 0.5.

    First the most relevant, a; then b is worth (cos 20 - cos 10) / 2 = -0.02, c (cos 60 - cos 70) / 2 = 0.08.
    """
    angles = [10, 20, -60]
    relevance = np.cos(np.radians(angles))
    assert mmr_order(relevance, np.array([at_angle(a) for a in angles]), 0.5) == [0, 2, 1]


def test_mmr_without_diversity_keeps_the_order_of_relevance() -> None:
    rng = np.random.default_rng(SEED)
    vectors = rng.normal(size=(30, 8))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    assert mmr_order(np.sort(rng.random(30))[::-1], vectors, 0.0) == list(range(30))


def test_pure_variety_takes_the_most_relevant_first_and_then_the_least_alike() -> None:
    angles = [0, 10, 50, 180]
    order = mmr_order(np.cos(np.radians(angles)), np.array([at_angle(a) for a in angles]), 1.0)
    assert order == [0, 3, 2, 1]


def test_mmr_gives_ties_to_the_more_relevant() -> None:
    """Four copies of one vector: every gain is equal, whatever rounding does."""
    rng = np.random.default_rng(SEED)
    vector = rng.normal(size=512)
    copies = np.tile(vector / np.linalg.norm(vector), (4, 1))
    assert mmr_order(np.full(4, 0.3), copies, 0.7) == [0, 1, 2, 3]


def test_a_difference_that_is_only_rounding_is_a_tie() -> None:
    vectors = np.array([at_angle(30), at_angle(30)])
    assert mmr_order(np.array([0.3, 0.3 + 1e-13]), vectors, 0.5) == [0, 1]


def test_diversity_carries_the_last_twenty_picks_of_a_window_into_the_next() -> None:
    results, vectors_of = plane({f"{n:02}": n * 1.5 for n in range(60)})
    vectors = vectors_of([result.image_id for result in results]).astype(float)
    relevance = np.array([similarity(result.distance) for result in results])
    first = mmr_order(relevance[:30], vectors[:30], 0.8)
    second = mmr_order(relevance[30:], vectors[30:], 0.8, earlier=vectors[:30][first[-20:]])
    expected = [results[row].image_id for row in (*first, *(30 + row for row in second))]
    assert ids(diversify(iter(results), vectors_of, 0.8, 30)) == expected
    assert second != mmr_order(relevance[30:], vectors[30:], 0.8, earlier=vectors[:30][first[:20]])


def test_mmr_counts_the_picks_of_the_window_before() -> None:
    """The most relevant candidate looks like an earlier pick, so the other one goes first."""
    angles = [0, 60]
    relevance, vectors = np.cos(np.radians(angles)), np.array([at_angle(a) for a in angles])
    assert mmr_order(relevance, vectors, 0.6) == [0, 1]
    assert mmr_order(relevance, vectors, 0.6, earlier=np.array([at_angle(-10)])) == [1, 0]


def test_diversity_reorders_windows_and_loses_nothing() -> None:
    results, vectors_of = plane({f"{n:02}": n * 3 for n in range(25)})
    diverse = list(diversify(iter(results), vectors_of, 0.6, 10))
    assert {r.image_id for r in diverse[:10]} == {r.image_id for r in results[:10]}
    assert {r.image_id for r in diverse[10:20]} == {r.image_id for r in results[10:20]}
    assert sorted(ids(iter(diverse))) == sorted(ids(iter(results)))
    assert ids(iter(diverse)) != ids(iter(results))


def test_diversity_leaves_scores_as_they_were() -> None:
    results, vectors_of = plane({f"{n:02}": n * 3 for n in range(25)})
    before = {result.image_id: result.score for result in results}
    assert all(r.score == before[r.image_id] for r in diversify(iter(results), vectors_of, 0.6, 25))


def test_diversity_reads_one_window_for_its_first_results() -> None:
    results, vectors_of = plane({f"{n:02}": n * 3 for n in range(25)})
    stream, read = counted(results)
    diverse = diversify(stream, vectors_of, 0.6, 10)
    for _ in range(10):
        next(diverse)
    assert len(read) == 10


def test_a_page_is_ranked_from_its_offset() -> None:
    page = cut_page(iter([found(name) for name in "abcde"]), offset=2, top_k=2)
    assert [(result.rank, result.image_id) for result in page] == [(3, "c"), (4, "d")]


def test_a_page_beyond_the_end_is_empty() -> None:
    assert cut_page(iter([found("a")]), offset=5, top_k=2) == []


def test_vectors_are_asked_for_only_when_results_are_compared() -> None:
    page = rerank_page(iter([found("a")]), RerankOptions(diversity=0.0), None, falling=True)
    assert ids(iter(page)) == ["a"]


@pytest.mark.parametrize("options", [{"diversity": 0.5}, {"near_duplicate_threshold": 0.9}])
def test_comparing_results_without_vectors_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidQuery, match="index"):
        rerank_page(iter([found("a")]), RerankOptions(**options), None, falling=True)
