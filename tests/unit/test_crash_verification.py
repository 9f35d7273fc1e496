"""The crash loop's judge does complain: of what is lost, doubled, different, or failed for no good reason."""

from dataclasses import replace

import numpy as np
import pytest
from crash.role_with_failpoint import decode_slowly
from crash.verify import Expected, State, judge
from pictures import jpeg

import pipeline.embedding_service

VECTORS = {name: np.eye(4, dtype=np.float32)[row] for row, name in enumerate(["a", "b", "c"])}
EXPECTED = Expected(VECTORS, {"broken": "corrupt"})
GOOD = State(
    live=["a", "b", "c"],
    vectors=VECTORS,
    seqs=[1, 2, 3],
    failures={"broken": "corrupt"},
    from_sql=VECTORS,
    from_snapshot=VECTORS,
    counts={"listed": 4, "indexed": 3, "failed": 1},
)
WITHOUT_C = {name: VECTORS[name] for name in ("a", "b")}
OTHER_C = {**VECTORS, "c": VECTORS["a"]}


def test_a_state_in_which_everything_is_right_is_clean():
    assert judge(EXPECTED, GOOD).clean


def test_a_lost_image_is_named():
    lost = replace(GOOD, live=["a", "b"], vectors=WITHOUT_C, from_sql=WITHOUT_C, from_snapshot=WITHOUT_C)
    assert judge(EXPECTED, lost).lost == ["c"]


def test_a_failure_without_a_trace_is_lost():
    assert judge(EXPECTED, replace(GOOD, failures={})).lost == ["broken"]


def test_a_doubled_image_is_named():
    assert judge(EXPECTED, replace(GOOD, live=["a", "b", "c", "c"])).doubled == ["c"]


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"vectors": OTHER_C}, "other vectors for 1 images"),
        ({"from_sql": OTHER_C}, "an index made of SQL has other vectors"),
        ({"from_snapshot": WITHOUT_C}, "booted from a snapshot holds other images"),
        ({"vectors": WITHOUT_C}, "images and vectors differ"),
        ({"seqs": [1, 2, 2]}, "the same number"),
        ({"failures": {"broken": "corrupt", "c": "worker_crashed"}}, "failed for another reason"),
        ({"failures": {"broken": "not_found"}}, "failed for another reason"),
        ({"live": ["a", "b", "c", "x"]}, "never submitted"),
        ({"counts": {"listed": 4, "indexed": 4, "failed": 1}}, "do not add up"),
        ({"unfinished_batches": 1}, "not done"),
    ],
)
def test_what_is_wrong_is_told(changes, complaint):
    verdict = judge(EXPECTED, replace(GOOD, **changes))
    assert not verdict.clean
    assert any(complaint in problem for problem in verdict.problems), verdict.problems


def test_slowed_decoding_gives_the_vectors_of_the_embedded_mode(monkeypatch):
    service = pipeline.embedding_service.EmbeddingService("baseline")
    wanted = service.embed_image(jpeg(5))
    monkeypatch.setattr(pipeline.embedding_service, "decode_image", pipeline.embedding_service.decode_image)
    decode_slowly(0.0, b"marker")
    assert np.array_equal(service.embed_image(jpeg(5)), wanted)
