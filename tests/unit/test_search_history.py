"""The judge of the crash runs of searches: that it accepts what is exact, and complains of all else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from crash.search_history import Asked, SearchHistory, expected, problems

from pipeline.results import SearchResult
from query_service.protocol import Provenance, QueryPart, SearchAnswer, SearchRequest
from storage.records import ModelIdentity

MODEL = ModelIdentity(name="m", revision="r", weights_fingerprint="w", preprocessing_fingerprint="p", dimension=4)
OTHER = MODEL.model_copy(update={"weights_fingerprint": "v"})


def row(seed: int) -> np.ndarray:
    vector = np.random.default_rng(seed).standard_normal(4).astype(np.float32)
    return vector / np.linalg.norm(vector)


@pytest.fixture
def history() -> SearchHistory:
    """Generation 1: ten images at change 10, one more at 11, one gone at 12. Generation 2: the same ids, other rows."""
    made = SearchHistory()
    made.begin(1, MODEL)
    made.record(1, 10, {f"{n}": row(n) for n in range(10)})
    made.record(1, 11, {"new": row(99)})
    made.record(1, 12, {}, ["3"])
    made.begin(2, OTHER)
    made.record(2, 10, {f"{n}": row(1000 + n) for n in range(10)})
    return made


def asked(**options: Any) -> Asked:
    part = QueryPart(vector=tuple(row(3).tolist()))
    return Asked(SearchRequest(parts=(part,), options={"top_k": 5, **options}), row(3))


def answer(history: SearchHistory, one: Asked, generation_id: int = 1, seq: int = 12) -> SearchAnswer:
    held = history.state(generation_id, seq)
    model = history.model(generation_id)
    assert held is not None
    assert model is not None
    offset = one.request.options.offset
    page = expected(one, row(3), held)
    results = [
        SearchResult(rank=offset + place + 1, image_id=name, score=1 - distance / 2, distance=distance)
        for place, (distance, name) in enumerate(page)
    ]
    told = Provenance(worker="w", model=model, generation_id=generation_id, seq=seq, images=len(held))
    return SearchAnswer(query_id="q", results=results, normalized=True, model=model, provenance=told)


def with_results(one: SearchAnswer, results: list[SearchResult]) -> SearchAnswer:
    return one.model_copy(update={"results": results})


def told(one: SearchAnswer, **changes: Any) -> SearchAnswer:
    return one.model_copy(update={"provenance": one.provenance.model_copy(update=changes)})


@pytest.mark.parametrize(("generation_id", "seq"), [(1, 10), (1, 11), (1, 12), (2, 10)])
def test_an_exact_answer_of_any_moment_passes(history: SearchHistory, generation_id: int, seq: int) -> None:
    for options in ({}, {"offset": 3}, {"top_k": 50}):
        one = asked(**options)
        assert problems(one, answer(history, one, generation_id, seq), history) == []


def test_each_forged_answer_is_found(history: SearchHistory) -> None:
    one = asked()
    good = answer(history, one)
    first, second, *rest = good.results
    swapped = [
        first.model_copy(update={"image_id": second.image_id}),
        second.model_copy(update={"image_id": first.image_id}),
    ]
    forged = {
        "of another generation": answer(history, one, 2, 10).model_copy(update={"provenance": good.provenance}),
        "mixed of two": with_results(good, [*good.results[:2], *answer(history, one, 2, 10).results[2:]]),
        "the next one left out": with_results(good, [first, *rest]),
        "two places swapped": with_results(good, [*swapped, *rest]),
        "one twice": with_results(good, [first, first.model_copy(update={"rank": 2}), *rest]),
        "another distance": with_results(good, [first.model_copy(update={"distance": first.distance + 1e-3}), *rest]),
        "another score": with_results(good, [first.model_copy(update={"score": 0.123}), second, *rest]),
        "another rank": with_results(good, [first.model_copy(update={"rank": 7}), second, *rest]),
        "a removed image": told(answer(history, one, 1, 11), seq=12, images=10),
        "an older moment than it says": told(answer(history, one, 1, 11), seq=10, images=10),
        "half a commit": told(good, seq=9),
        "a generation that never was": told(good, generation_id=3),
        "the model of another": told(good, model=OTHER),
        "another number of images": told(good, images=11),
        "empty": with_results(good, []),
    }
    accepted = [name for name, answer_ in forged.items() if not problems(one, answer_, history)]
    assert accepted == []


def test_what_a_filter_or_the_caller_leaves_out_is_no_result(history: SearchHistory) -> None:
    plain = asked(top_k=50)
    everything = answer(history, plain)
    narrow = Asked(plain.request, plain.vector, among=frozenset({"1", "2"}))
    assert problems(narrow, answer(history, narrow), history) == []
    assert problems(narrow, everything, history)
    part = QueryPart(image_id="3")
    by_id = Asked(SearchRequest(parts=(part,), options={"top_k": 50}), image_id="3")
    held = history.state(1, 11)
    assert held is not None
    assert "3" not in [name for _, name in expected(by_id, row(3), held)]
    assert problems(by_id, answer(history, plain, 1, 11), history), "the image that was asked with is among the results"
    assert problems(by_id, answer(history, plain, 1, 12), history), "it was removed"
