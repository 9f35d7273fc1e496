"""The evaluation run: asks every query of a ground truth, scores the rankings, and records how."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pipeline.errors import EvaluationError
from pipeline.evaluate.dataset import EvaluationDataset, EvaluationQuery, load_ground_truth, name_ids
from pipeline.evaluate.report import EvaluationResult, EvaluationRun, QueryEvaluation
from pipeline.evaluate.scores import check_k_values, evaluate_rankings
from pipeline.search import NearestNeighborSearch

DEFAULT_K_VALUES = (1, 5, 10, 20)
DEFAULT_DEPTH = 1000  # ranks for mAP and MRR; trec_eval's custom, so that numbers compare
_BATCH = 64  # queries searched at once: BLAS speed, and 64 x 1000 hits in memory

_DISTRIBUTION = "visual-search"

Progress = Callable[[int, int], None]  # queries done, queries in all


class ModelEvaluator:
    """Measures how well a search finds what a ground truth says should be found.

    Queries are stored images, each left out of its own results. `depth` is raised to the largest k. With
    strict=False ids that the index does not hold are not an error: such an image counts as not found and such
    a query as having found nothing, so that the measures can only be lower than they would be.
    """

    def __init__(
        self,
        search_service: NearestNeighborSearch,
        k_values: Sequence[int] = DEFAULT_K_VALUES,
        depth: int = DEFAULT_DEPTH,
        *,
        strict: bool = True,
    ) -> None:
        self._search = search_service
        self._k_values = check_k_values(k_values)
        self._depth = max(*check_k_values([depth]), *self._k_values)
        self._strict = strict

    def evaluate(self, dataset: EvaluationDataset | str | Path, progress: Progress | None = None) -> EvaluationResult:
        """Run all queries and return the measures. Raises EvaluationError for a broken ground truth."""
        checked = dataset if isinstance(dataset, EvaluationDataset) else load_ground_truth(dataset)
        unknown = self._unknown_ids(checked)
        rankings = self._rank(checked, progress)
        truth = {query.query_id: query.ground_truth for query in checked.queries}
        scores = evaluate_rankings(truth, rankings, self._k_values)
        deepest = self._k_values[-1]
        queries = [
            _query_evaluation(query, scores.per_query[query.query_id], rankings[query.query_id], deepest)
            for query in checked.queries
        ]
        return EvaluationResult(run=self._run(checked), means=scores.means, queries=queries, unknown_ids=unknown)

    def _unknown_ids(self, dataset: EvaluationDataset) -> list[str]:
        unknown = [image_id for image_id in dataset.image_ids if image_id not in self._search.index]
        if unknown and self._strict:
            count = f"{len(unknown)} id" + "s" * (len(unknown) > 1)
            raise EvaluationError(
                f"{dataset.path or 'the ground truth'}: {count} not in the index: {name_ids(unknown)}"
            )
        if all(query.query_id not in self._search.index for query in dataset.queries):
            raise EvaluationError(f"{dataset.path or 'the ground truth'}: no query is in the index")
        return unknown

    def _rank(self, dataset: EvaluationDataset, progress: Progress | None) -> dict[str, list[str]]:
        """Rank for every query that can be asked; the others keep an empty ranking."""
        rankings: dict[str, list[str]] = {query.query_id: [] for query in dataset.queries}
        askable = [query_id for query_id in rankings if query_id in self._search.index]
        done = len(rankings) - len(askable)
        for start in range(0, len(askable), _BATCH):
            batch = askable[start : start + _BATCH]
            rankings.update(zip(batch, self._search.rank_many_by_id(batch, self._depth), strict=True))
            done += len(batch)
            if progress is not None:
                progress(done, len(rankings))
        return rankings

    def _run(self, dataset: EvaluationDataset) -> EvaluationRun:
        return EvaluationRun(
            model=self._search.model,
            dataset_path=dataset.path,
            dataset_sha256=dataset.sha256,
            k_values=self._k_values,
            depth=self._depth,
            collection_size=len(self._search.index),
            library_version=_version(_DISTRIBUTION),
            environment={
                "python": platform.python_version(),
                **{n: _version(n) for n in ("numpy", "faiss-cpu")},
            },
            created_at=datetime.now(timezone.utc),
        )


def evaluate_model(
    search_service: NearestNeighborSearch,
    dataset_path: str | Path,
    k_values: Sequence[int] = DEFAULT_K_VALUES,
    output_path: str | Path | None = None,
    progress: Progress | None = None,
) -> EvaluationResult:
    """Evaluate a ground truth file and, with an output path, save the result there as JSON.

    Raises EvaluationError, before any search, for a broken file, unknown ids, and a folder that does not
    exist. For another depth or to go on in spite of unknown ids use ModelEvaluator.
    """
    if output_path is not None:
        _check_writable(Path(output_path))
    result = ModelEvaluator(search_service, k_values).evaluate(dataset_path, progress)
    if output_path is not None:
        result.save(output_path)
    return result


def _check_writable(path: Path) -> None:
    """Find the common mistakes before the long run, not after it."""
    if not path.parent.is_dir():
        raise EvaluationError(f"cannot write the results: there is no folder {path.parent}")
    if path.is_dir():
        raise EvaluationError(f"cannot write the results: {path} is a folder")


def _query_evaluation(
    query: EvaluationQuery, metrics: Mapping[str, float], ranking: Sequence[str], deepest: int
) -> QueryEvaluation:
    relevant = set(query.ground_truth)
    return QueryEvaluation(
        query_id=query.query_id,
        ground_truth=query.ground_truth,
        metrics=dict(metrics),
        ranked_ids=list(ranking[:deepest]),
        relevant_ranks=[rank for rank, image_id in enumerate(ranking, start=1) if image_id in relevant],
    )


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "not installed"
