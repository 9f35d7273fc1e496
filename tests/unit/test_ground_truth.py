"""What a ground truth file must be, and what is said of a broken one."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import EvaluationError
from pipeline.evaluate.dataset import load_ground_truth, name_ids, parse_ground_truth


def as_json(*queries: tuple[str, list[str]]) -> bytes:
    entries = [{"query_id": query_id, "ground_truth": relevant} for query_id, relevant in queries]
    return json.dumps({"queries": entries}).encode()


def test_a_ground_truth_file_is_read_in_its_order_with_its_hash(tmp_path: Path) -> None:
    data = as_json(("q1", ["b", "a"]), ("q2", ["a"]))
    path = tmp_path / "truth.json"
    path.write_bytes(data)
    dataset = load_ground_truth(path)
    assert [(query.query_id, query.ground_truth) for query in dataset.queries] == [
        ("q1", ["b", "a"]),
        ("q2", ["a"]),
    ]
    assert dataset.sha256 == hashlib.sha256(data).hexdigest()
    assert dataset.path == str(path)
    assert dataset.image_ids == ["q1", "b", "a", "q2"]


def test_other_keys_are_ignored() -> None:
    data = {"name": "mine", "queries": [{"query_id": "q", "ground_truth": ["a"], "label": "dress"}]}
    assert parse_ground_truth(json.dumps(data).encode()).image_ids == ["q", "a"]


def test_ids_are_any_text() -> None:
    assert parse_ground_truth(as_json(("a folder/ü.jpg", ["写真"]))).image_ids == ["a folder/ü.jpg", "写真"]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=r"cannot read the ground truth .*absent\.json: No such file"):
        load_ground_truth(tmp_path / "absent.json")


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe\xfa", b"[" * 100_000], ids=["empty", "cut", "bytes", "deep"])
def test_what_is_no_json_is_refused(data: bytes) -> None:
    with pytest.raises(EvaluationError, match="is no JSON"):
        parse_ground_truth(data, "truth.json")


@pytest.mark.parametrize(
    ("content", "place"),
    [
        ([], "the whole"),
        ({}, "queries: Field required"),
        ({"queries": []}, "queries: List should have at least 1 item"),
        ({"queries": {"q": ["a"]}}, "queries: Input should be a valid list"),
        ({"queries": ["q"]}, "queries[0]"),
        ({"queries": [{"query_id": "q"}]}, "queries[0].ground_truth: Field required"),
        ({"queries": [{"ground_truth": ["a"]}]}, "queries[0].query_id: Field required"),
        ({"queries": [{"query_id": 7, "ground_truth": ["a"]}]}, "queries[0].query_id"),
        ({"queries": [{"query_id": "", "ground_truth": ["a"]}]}, "queries[0].query_id"),
        ({"queries": [{"query_id": "q", "ground_truth": []}]}, "queries[0].ground_truth"),
        ({"queries": [{"query_id": "q", "ground_truth": "a"}]}, "queries[0].ground_truth"),
        ({"queries": [{"query_id": "q", "ground_truth": ["a", 3]}]}, "queries[0].ground_truth[1]"),
    ],
)
def test_a_wrong_structure_is_refused_with_the_place_and_what_is_wanted(content: Any, place: str) -> None:
    with pytest.raises(EvaluationError, match=re.escape(f"truth.json: {place}")) as caught:
        parse_ground_truth(json.dumps(content).encode(), "truth.json")
    assert '"query_id": "q1"' in str(caught.value)


def test_further_errors_in_the_structure_are_counted() -> None:
    content = {"queries": [{"query_id": 1, "ground_truth": []}, {"query_id": "q"}]}
    with pytest.raises(EvaluationError, match=r"\(and 2 more\)"):
        parse_ground_truth(json.dumps(content).encode())


def test_a_query_given_twice_is_refused() -> None:
    with pytest.raises(EvaluationError, match="query ids occur more than once: 'q'"):
        parse_ground_truth(as_json(("q", ["a"]), ("r", ["a"]), ("q", ["b"])))


def test_an_id_twice_in_one_ground_truth_is_refused() -> None:
    with pytest.raises(EvaluationError, match="ground truth of query 'q' ids occur more than once: 'a'"):
        parse_ground_truth(as_json(("q", ["a", "b", "a"])))


def test_a_query_in_its_own_ground_truth_is_refused() -> None:
    with pytest.raises(EvaluationError, match="ground truth of query 'q' stands the query itself"):
        parse_ground_truth(as_json(("q", ["a", "q"])))


def test_one_id_may_be_relevant_for_several_queries() -> None:
    assert len(parse_ground_truth(as_json(("q", ["a"]), ("r", ["a", "q"]))).queries) == 2


def test_five_ids_are_spelled_out_and_the_rest_is_counted() -> None:
    assert name_ids(["a", "b", "c", "d", "e"]) == "'a', 'b', 'c', 'd', 'e'"
    assert name_ids(["a", "b", "c", "d", "e", "f", "g"]) == "'a', 'b', 'c', 'd', 'e' and 2 more"
