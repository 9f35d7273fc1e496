"""The evaluation run as a whole: rankings from a real index, the report, the saved JSON."""

from __future__ import annotations

import hashlib
import json
import math
import re
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import EvaluationError
from pipeline.evaluate import EvaluationResult, ModelEvaluator, evaluate_model
from pipeline.evaluate.dataset import parse_ground_truth
from pipeline.evaluate.report import EvaluationRun
from pipeline.search import NearestNeighborSearch
from storage.records import ModelIdentity
from storage.vector_index import VectorIndex

ANGLES = {"a": 0, "b": 10, "c": 25, "d": 60, "e": 120}  # degrees; nearest to a: b, c, d, e
IDENTITY = ModelIdentity(
    name="plane", revision="r", weights_fingerprint="w", preprocessing_fingerprint="p", dimension=2
)


@pytest.fixture
def service() -> NearestNeighborSearch:
    index = VectorIndex(2, model=IDENTITY)
    for image_id, angle in ANGLES.items():
        radians = math.radians(angle)
        index.add(image_id, np.array([math.cos(radians), math.sin(radians)], dtype=np.float32))
    return NearestNeighborSearch(index)


def write_truth(folder: Path, truth: dict[str, list[str]]) -> Path:
    path = folder / "truth.json"
    queries = [{"query_id": query, "ground_truth": relevant} for query, relevant in truth.items()]
    path.write_text(json.dumps({"queries": queries}))
    return path


def a_run(k_values: list[int]) -> EvaluationRun:
    return EvaluationRun(
        model=None,
        dataset_path="evaluation_data.json",
        dataset_sha256="0" * 64,
        k_values=k_values,
        depth=1000,
        collection_size=5000,
        library_version="1",
        environment={},
        created_at=datetime(2024, 1, 1, tzinfo=timezone.utc),
    )


def test_a_query_is_left_out_of_its_own_results(service: NearestNeighborSearch, tmp_path: Path) -> None:
    result = ModelEvaluator(service, [1, 2]).evaluate(write_truth(tmp_path, {"a": ["b", "d"]}))
    (query,) = result.queries
    assert query.ranked_ids == ["b", "c"]
    assert query.relevant_ranks == [1, 3]
    assert query.metrics["recall@2"] == 1 / 2
    assert query.metrics["average_precision"] == pytest.approx((1 + 2 / 3) / 2)


def test_means_are_over_all_queries(service: NearestNeighborSearch, tmp_path: Path) -> None:
    result = ModelEvaluator(service, [1]).evaluate(write_truth(tmp_path, {"a": ["b"], "e": ["a"]}))
    assert result.means["recall@1"] == 1 / 2
    assert result.means["mrr"] == pytest.approx((1 + 1 / 4) / 2)


def test_ranks_below_the_depth_count_as_not_found(service: NearestNeighborSearch, tmp_path: Path) -> None:
    result = ModelEvaluator(service, [1], depth=2).evaluate(write_truth(tmp_path, {"a": ["d"]}))
    assert result.means["mrr"] == 0.0
    assert result.run.depth == 2


def test_the_depth_is_at_least_the_largest_k(service: NearestNeighborSearch, tmp_path: Path) -> None:
    result = ModelEvaluator(service, [1, 4], depth=2).evaluate(write_truth(tmp_path, {"a": ["e"]}))
    assert result.run.depth == 4
    assert result.means["recall@4"] == 1.0


@pytest.mark.parametrize("seed", [7])
def test_many_queries_are_ranked_as_one_by_one_and_progress_is_told(tmp_path: Path, seed: int) -> None:
    """More queries than one batch holds."""
    vectors = np.random.default_rng(seed).normal(size=(150, 16))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    index = VectorIndex(16)
    names = [f"{number:03}" for number in range(150)]
    index.add_many(names, vectors)
    service = NearestNeighborSearch(index)
    truth = write_truth(tmp_path, {name: [names[(n + 1) % 150]] for n, name in enumerate(names)})
    told: list[tuple[int, int]] = []
    result = ModelEvaluator(service, [10]).evaluate(truth, lambda done, total: told.append((done, total)))
    for query in result.queries:
        assert query.ranked_ids == service.search_by_id(query.query_id, k=10).image_ids
    assert told == [(64, 150), (128, 150), (150, 150)]


def test_unknown_ids_are_refused_and_named(service: NearestNeighborSearch, tmp_path: Path) -> None:
    truth = write_truth(tmp_path, {"a": ["b", *(f"no {n}" for n in range(6))], "nobody": ["a"]})
    message = "truth.json: 7 ids not in the index: 'no 0', 'no 1', 'no 2', 'no 3', 'no 4' and 2 more"
    with pytest.raises(EvaluationError, match=re.escape(message)):
        ModelEvaluator(service).evaluate(truth)


def test_without_strict_unknown_images_count_as_not_found(service: NearestNeighborSearch, tmp_path: Path) -> None:
    truth = write_truth(tmp_path, {"a": ["b", "gone"], "nobody": ["a"]})
    told: list[tuple[int, int]] = []
    result = ModelEvaluator(service, [5], strict=False).evaluate(truth, lambda *done: told.append(done))
    assert result.unknown_ids == ["gone", "nobody"]
    assert [query.metrics["recall@5"] for query in result.queries] == [1 / 2, 0.0]
    assert result.queries[1].ranked_ids == []
    assert told == [(2, 2)]
    assert "counted as not found: 2 ids" in result.table()


def test_without_strict_a_truth_of_strangers_is_refused(service: NearestNeighborSearch, tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="no query is in the index"):
        ModelEvaluator(service, strict=False).evaluate(write_truth(tmp_path, {"x": ["a"]}))


def test_an_empty_index_knows_none_of_the_ids(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="2 ids not in the index"):
        ModelEvaluator(NearestNeighborSearch(VectorIndex(2))).evaluate(write_truth(tmp_path, {"a": ["b"]}))


@pytest.mark.parametrize("k_values", [[], [0], [1, True]])
def test_bad_k_values_are_refused_at_once(service: NearestNeighborSearch, k_values: list[int]) -> None:
    with pytest.raises(EvaluationError, match="k_values"):
        ModelEvaluator(service, k_values)


def test_the_summary_is_exactly_as_promised() -> None:
    means = {"recall@1": 0.45, "recall@5": 0.72, "map": 0.52, "mrr": 0.61}
    query = {"query_id": "q", "ground_truth": ["a"], "metrics": {}, "ranked_ids": [], "relevant_ranks": []}
    result = EvaluationResult.model_validate({"run": a_run([1, 5]), "means": means, "queries": [query] * 100})
    assert result.summary() == (
        "Evaluation Results\n=================\nQueries: 100\nRecall@1: 0.450\nRecall@5: 0.720\nmAP: 0.520\nMRR: 0.610"
    )


def test_the_k_values_drive_the_recall_lines(service: NearestNeighborSearch, tmp_path: Path) -> None:
    result = ModelEvaluator(service, [20, 1, 10, 1]).evaluate(write_truth(tmp_path, {"a": ["b"]}))
    recalls = [line.split(":")[0] for line in result.summary().splitlines() if line.startswith("Recall")]
    assert recalls == ["Recall@1", "Recall@10", "Recall@20"]


def test_the_table_shows_all_means_and_what_was_measured(service: NearestNeighborSearch, tmp_path: Path) -> None:
    path = write_truth(tmp_path, {"a": ["b", "d"]})
    table = ModelEvaluator(service, [1, 2]).evaluate(path).table()
    assert f"Model: {IDENTITY}" in table
    assert f"Ground truth: {path} (sha256 {hashlib.sha256(path.read_bytes()).hexdigest()[:12]})" in table
    assert "Queries: 1   Images: 5   Depth: 1000" in table
    lines = [line.split() for line in table.splitlines()]
    assert ["k", "Recall", "Precision", "nDCG", "Success"] in lines
    assert ["2", "0.5000", "0.5000", "0.6131", "1.0000"] in lines
    assert table.endswith("mAP: 0.8333   MRR: 1.0000")


def test_the_example_of_the_design_works(service: NearestNeighborSearch, tmp_path: Path) -> None:
    dataset, output = write_truth(tmp_path, {"a": ["b"]}), tmp_path / "results.json"
    result = evaluate_model(
        search_service=service, dataset_path=str(dataset), k_values=[1, 5, 10, 20], output_path=str(output)
    )
    assert result.summary().startswith("Evaluation Results\n")
    assert EvaluationResult.model_validate_json(output.read_text()) == result
    assert [path.name for path in tmp_path.iterdir() if "partial" in path.name] == []


def test_the_saved_json_holds_what_a_repetition_needs(service: NearestNeighborSearch, tmp_path: Path) -> None:
    dataset, output = write_truth(tmp_path, {"a": ["b", "d"]}), tmp_path / "results.json"
    evaluate_model(service, dataset, [1, 3], output)
    saved = json.loads(output.read_text())
    run = saved["run"]
    assert run["model"] == IDENTITY.model_dump()
    assert run["dataset_path"] == str(dataset)
    assert run["dataset_sha256"] == hashlib.sha256(dataset.read_bytes()).hexdigest()
    assert (run["k_values"], run["depth"], run["collection_size"]) == ([1, 3], 1000, 5)
    assert run["library_version"]
    assert set(run["environment"]) == {"python", "numpy", "faiss-cpu"}
    age = datetime.now(timezone.utc) - datetime.fromisoformat(run["created_at"].replace("Z", "+00:00"))
    assert timedelta(0) <= age < timedelta(minutes=1)
    assert saved["queries"][0]["ranked_ids"] == ["b", "c", "d"]
    assert saved["queries"][0]["ground_truth"] == ["b", "d"]


@pytest.mark.parametrize("output", ["absent/results.json", "."])
def test_an_output_that_cannot_be_written_is_refused_before_the_run(
    service: NearestNeighborSearch, tmp_path: Path, output: str
) -> None:
    told: list[int] = []
    dataset = write_truth(tmp_path, {"a": ["b"]})
    with pytest.raises(EvaluationError, match="cannot write the results"):
        evaluate_model(service, dataset, [1], tmp_path / output, lambda done, _: told.append(done))
    assert told == []


def test_a_result_that_cannot_be_saved_says_so(service: NearestNeighborSearch, tmp_path: Path) -> None:
    path = write_truth(tmp_path, {"a": ["b"]})
    result = ModelEvaluator(service, [1]).evaluate(path)
    with pytest.raises(EvaluationError, match="cannot write the results to"):
        result.save(path / "results.json")


def test_ground_truth_in_memory_can_be_evaluated(service: NearestNeighborSearch) -> None:
    dataset = parse_ground_truth(b'{"queries": [{"query_id": "a", "ground_truth": ["b"]}]}')
    result = ModelEvaluator(service, [1]).evaluate(dataset)
    assert "not from a file" in result.table()


def test_a_version_that_is_not_installed_is_no_reason_to_fail(
    service: NearestNeighborSearch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A source checkout can be used without installing it."""
    monkeypatch.setattr("pipeline.evaluate.evaluator._DISTRIBUTION", "no-such-distribution-of-ours")
    result = ModelEvaluator(service, [1]).evaluate(write_truth(tmp_path, {"a": ["b"]}))
    assert result.run.library_version == "not installed"
