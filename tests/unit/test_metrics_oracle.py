"""Every measure against trec_eval itself, through pytrec_eval."""

from __future__ import annotations

import random

import pytest
import pytrec_eval

from pipeline.evaluate import evaluate_rankings

K_VALUES = (1, 2, 5, 10, 20, 100)
TREC_NAMES = {"recall": "recall", "precision": "P", "ndcg": "ndcg_cut", "success": "success"}
TOLERANCE = 1e-9


def random_case(rng: random.Random) -> tuple[list[str], list[str]]:
    """Ground truth and ranking over one pool: none, some or all of the truth is ranked, deep or shallow."""
    pool = [f"image_{number}" for number in range(rng.choice([3, 30, 300]))]
    relevant = rng.sample(pool, rng.randint(1, max(1, len(pool) // 2)))
    ranked = rng.sample(pool, rng.randint(1, len(pool)))
    return relevant, ranked


def trec_scores(truth: dict[str, list[str]], rankings: dict[str, list[str]]) -> dict[str, dict[str, float]]:
    measures = {f"{name}.{','.join(map(str, K_VALUES))}" for name in TREC_NAMES.values()}
    judged = {query: dict.fromkeys(relevant, 1) for query, relevant in truth.items()}
    # trec_eval sorts by score, so falling scores keep the order
    run = {q: {image: float(-rank) for rank, image in enumerate(ids)} for q, ids in rankings.items()}
    return dict(pytrec_eval.RelevanceEvaluator(judged, measures | {"map", "recip_rank"}).evaluate(run))


@pytest.mark.parametrize("seed", [19981124])
def test_all_measures_agree_with_trec_eval_on_random_rankings(seed: int) -> None:
    rng = random.Random(seed)
    cases = {f"q{number}": random_case(rng) for number in range(500)}
    truth = {query: relevant for query, (relevant, _) in cases.items()}
    rankings = {query: ranked for query, (_, ranked) in cases.items()}
    expected = trec_scores(truth, rankings)
    ours = evaluate_rankings(truth, rankings, K_VALUES)
    for query in cases:
        mine, theirs = ours.per_query[query], expected[query]
        for name, trec_name in TREC_NAMES.items():
            for k in K_VALUES:
                assert mine[f"{name}@{k}"] == pytest.approx(theirs[f"{trec_name}_{k}"], abs=TOLERANCE)
        assert mine["average_precision"] == pytest.approx(theirs["map"], abs=TOLERANCE)
        assert mine["reciprocal_rank"] == pytest.approx(theirs["recip_rank"], abs=TOLERANCE)


@pytest.mark.parametrize("seed", [19981125])
def test_means_agree_with_the_mean_of_trec_evals_numbers(seed: int) -> None:
    rng = random.Random(seed)
    cases = {f"q{number}": random_case(rng) for number in range(50)}
    truth = {query: relevant for query, (relevant, _) in cases.items()}
    rankings = {query: ranked for query, (_, ranked) in cases.items()}
    expected = trec_scores(truth, rankings)
    means = evaluate_rankings(truth, rankings, K_VALUES).means
    for ours, theirs in (("map", "map"), ("mrr", "recip_rank"), ("ndcg@10", "ndcg_cut_10")):
        values = [scores[theirs] for scores in expected.values()]
        assert means[ours] == pytest.approx(pytrec_eval.compute_aggregated_measure(theirs, values), abs=TOLERANCE)
