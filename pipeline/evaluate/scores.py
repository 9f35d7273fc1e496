"""All measures for rankings from anywhere: knows truth and rankings, no search and no files."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from math import fsum

from pydantic import BaseModel

from pipeline.errors import EvaluationError
from pipeline.evaluate.average_precision import average_precision
from pipeline.evaluate.ndcg import ndcg_at_k
from pipeline.evaluate.precision import precision_at_k
from pipeline.evaluate.recall import recall_at_k
from pipeline.evaluate.reciprocal_rank import reciprocal_rank
from pipeline.evaluate.success import success_at_k

_AT_K = {"recall": recall_at_k, "precision": precision_at_k, "ndcg": ndcg_at_k, "success": success_at_k}
_MEAN_NAMES = {"average_precision": "map", "reciprocal_rank": "mrr"}  # the usual names of these means


class RankingScores(BaseModel):
    """The measures of each query, and their means over all queries.

    Keys are `recall@5`, `precision@5`, `ndcg@5`, `success@5` for each k, then `average_precision` and
    `reciprocal_rank`, whose means are called `map` and `mrr`.
    """

    per_query: dict[str, dict[str, float]]
    means: dict[str, float]


def evaluate_rankings(
    truth: Mapping[str, Collection[str]], rankings: Mapping[str, Sequence[str]], k_values: Sequence[int]
) -> RankingScores:
    """Score a ranking of ids, best first, for every query of the truth; rankings without a truth are ignored.

    mAP and MRR look at the whole rankings, however deep they are. Raises EvaluationError when a query has no
    ranking (an empty one is allowed and scores 0), no relevant image, or an id ranked twice, and for bad
    k_values.
    """
    ks = check_k_values(k_values)
    if not truth:
        raise EvaluationError("there are no queries to evaluate")
    missing = [query_id for query_id in truth if query_id not in rankings]
    if missing:
        raise EvaluationError(f"{len(missing)} queries have no ranking: {', '.join(map(repr, missing[:5]))}")
    per_query = {query_id: _scores(query_id, set(truth[query_id]), rankings[query_id], ks) for query_id in truth}
    return RankingScores(per_query=per_query, means=_means(list(per_query.values())))


def check_k_values(k_values: Sequence[int]) -> list[int]:
    """Return the k values sorted, without repeats. Raises EvaluationError for none, or one below 1."""
    if not k_values or any(isinstance(k, bool) or not isinstance(k, int) or k < 1 for k in k_values):
        raise EvaluationError(f"k_values must be whole numbers from 1, at least one, got {list(k_values)}")
    return sorted(set(k_values))


def _scores(query_id: str, relevant: AbstractSet[str], ranked: Sequence[str], ks: Sequence[int]) -> dict[str, float]:
    if not relevant:
        raise EvaluationError(f"query {query_id!r} has no relevant image, so nothing can be measured")
    if len(set(ranked)) != len(ranked):
        raise EvaluationError(f"the ranking of query {query_id!r} holds an id twice")
    scores = {f"{name}@{k}": measure(relevant, ranked, k) for name, measure in _AT_K.items() for k in ks}
    scores["average_precision"] = average_precision(relevant, ranked)
    scores["reciprocal_rank"] = reciprocal_rank(relevant, ranked)
    return scores


def _means(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean over queries, every query counting the same."""
    return {_MEAN_NAMES.get(name, name): fsum(row[name] for row in rows) / len(rows) for name in rows[0]}
