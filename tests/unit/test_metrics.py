"""Each measure against numbers computed by hand."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest

from pipeline.errors import EvaluationError
from pipeline.evaluate import evaluate_rankings
from pipeline.evaluate.average_precision import average_precision
from pipeline.evaluate.ndcg import ndcg_at_k
from pipeline.evaluate.precision import precision_at_k
from pipeline.evaluate.recall import recall_at_k
from pipeline.evaluate.reciprocal_rank import reciprocal_rank
from pipeline.evaluate.success import success_at_k

RELEVANT = {"a", "b", "c"}
RANKED = ["x", "a", "b", "y", "z"]  # relevant at ranks 2 and 3; c was not ranked

AtK = Callable[[set[str], Sequence[str], int], float]


@pytest.mark.parametrize(
    ("measure", "k", "expected"),
    [
        (recall_at_k, 1, 0.0),
        (recall_at_k, 2, 1 / 3),
        (recall_at_k, 5, 2 / 3),
        (recall_at_k, 100, 2 / 3),
        (precision_at_k, 1, 0.0),
        (precision_at_k, 3, 2 / 3),
        (precision_at_k, 5, 2 / 5),
        (precision_at_k, 10, 2 / 10),
        (success_at_k, 1, 0.0),
        (success_at_k, 2, 1.0),
        (ndcg_at_k, 1, 0.0),
        (ndcg_at_k, 2, (1 / math.log2(3)) / (1 + 1 / math.log2(3))),
        (ndcg_at_k, 5, (1 / math.log2(3) + 1 / 2) / (1 + 1 / math.log2(3) + 1 / 2)),
    ],
)
def test_a_measure_at_k_is_as_computed_by_hand(measure: AtK, k: int, expected: float) -> None:
    assert measure(RELEVANT, RANKED, k) == pytest.approx(expected, abs=1e-15)


def test_average_precision_counts_what_was_not_ranked_as_zero() -> None:
    assert average_precision(RELEVANT, RANKED) == pytest.approx((1 / 2 + 2 / 3 + 0) / 3)


def test_reciprocal_rank_looks_at_the_first_relevant_image_only() -> None:
    assert reciprocal_rank(RELEVANT, RANKED) == 1 / 2


@pytest.mark.parametrize("measure", [recall_at_k, precision_at_k, ndcg_at_k, success_at_k])
def test_a_perfect_ranking_scores_one(measure: AtK) -> None:
    assert measure(RELEVANT, ["c", "a", "b"], 3) == 1.0


@pytest.mark.parametrize("measure", [recall_at_k, precision_at_k, ndcg_at_k, success_at_k])
def test_an_empty_ranking_scores_zero_at_k(measure: AtK) -> None:
    assert measure(RELEVANT, [], 5) == 0.0


def test_an_empty_ranking_has_no_precision_and_no_rank() -> None:
    assert average_precision(RELEVANT, []) == 0.0
    assert reciprocal_rank(RELEVANT, []) == 0.0


def test_ndcg_reaches_one_when_k_is_below_the_number_of_relevant_images() -> None:
    assert ndcg_at_k(RELEVANT, ["a", "b"], 2) == 1.0


def test_means_count_every_query_the_same() -> None:
    """The first query has three relevant images, the second one."""
    truth = {"q1": ["a", "b", "c"], "q2": ["a"]}
    scores = evaluate_rankings(truth, {"q1": RANKED, "q2": ["a", "x"]}, [5, 1])
    assert scores.means["recall@5"] == pytest.approx((2 / 3 + 1) / 2)
    assert scores.means["precision@1"] == 1 / 2
    assert scores.means["map"] == pytest.approx(((1 / 2 + 2 / 3) / 3 + 1) / 2)
    assert scores.means["mrr"] == pytest.approx((1 / 2 + 1) / 2)
    assert list(scores.per_query) == ["q1", "q2"]
    assert scores.per_query["q2"]["average_precision"] == 1.0


def test_every_measure_stands_for_every_k() -> None:
    scores = evaluate_rankings({"q": ["a"]}, {"q": ["a"]}, [1, 5])
    at_k = {f"{name}@{k}" for name in ("recall", "precision", "ndcg", "success") for k in (1, 5)}
    assert set(scores.per_query["q"]) == at_k | {"average_precision", "reciprocal_rank"}
    assert set(scores.means) == at_k | {"map", "mrr"}


def test_rankings_without_a_truth_are_ignored() -> None:
    assert list(evaluate_rankings({"q": ["a"]}, {"q": ["a"], "r": ["a"]}, [1]).per_query) == ["q"]


@pytest.mark.parametrize(
    ("truth", "rankings", "message"),
    [
        ({}, {}, "no queries"),
        ({"q": []}, {"q": ["a"]}, "'q' has no relevant image"),
        ({"q": ["a"], "r": ["a"]}, {"r": ["a"]}, "1 queries have no ranking: 'q'"),
        ({"q": ["a"]}, {"q": ["a", "b", "a"]}, "'q' holds an id twice"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    truth: dict[str, list[str]], rankings: dict[str, list[str]], message: str
) -> None:
    with pytest.raises(EvaluationError, match=message):
        evaluate_rankings(truth, rankings, [1])


@pytest.mark.parametrize("k_values", [[], [0], [1, -5], [True], [1.5]])
def test_k_values_that_make_no_sense_are_refused(k_values: list[int]) -> None:
    with pytest.raises(EvaluationError, match="k_values"):
        evaluate_rankings({"q": ["a"]}, {"q": ["a"]}, k_values)
