"""A batch shares its work, drops what nobody waits for, and answers as each request alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from answering_bench import IMAGES, Bench, Watched, photo, request
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pictures import jpeg

from pipeline.embedding_service import EmbeddingService
from pipeline.rerank import RerankOptions
from query_service.protocol import QueryPart, SearchRequest
from storage.filters import And, Equals, Exists, Filter, Range


@pytest.mark.parametrize("asked_before", [0, 1])
def test_a_request_whose_time_is_over_is_dropped_before_the_next_stage(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, asked_before: int
) -> None:
    """Before embedding (0), or between embedding and searching (1)."""
    late, fine = request(QueryPart(image=jpeg(1))), request(QueryPart(image=jpeg(2)))
    asked: list[str] = []

    def still_wanted(request_id: str) -> bool:
        asked.append(request_id)
        return request_id != late.request_id or asked.count(request_id) <= asked_before

    prepared = Watched(monkeypatch, EmbeddingService, "prepare")
    searched = Watched(monkeypatch, bench.served.replica.index, "search_many")
    first, second = bench.answering.answer([late, fine], {"photos": bench.served}, still_wanted)
    assert first.error is not None
    assert (first.error.reason, first.error.retryable) == ("deadline_exceeded", True)
    assert second.answer is not None
    assert len(prepared.calls) == 1 + asked_before
    assert searched.calls == [[10]]


def test_a_batch_of_none_is_no_work(bench: Bench) -> None:
    assert bench.answer() == []


def test_a_batch_is_one_call_to_model_index_and_catalog(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    images = Watched(monkeypatch, EmbeddingService, "embed_prepared")
    texts = Watched(monkeypatch, EmbeddingService, "embed_texts")
    searches = Watched(monkeypatch, bench.served.replica.index, "search_many")
    shown = Watched(monkeypatch, bench.catalog.images, "shown")
    asked = [QueryPart(image=jpeg(seed % 3)) for seed in range(5)]  # three different pictures
    asked += [QueryPart(text=text) for text in ("a cat", "a dog", "a cat")]
    replies = bench.answer(
        *(request(part, options=RerankOptions(top_k=2 + place)) for place, part in enumerate(asked)),
        request(photo(1), exclude=("photo 05", "photo 06"), options=RerankOptions(offset=3)),
    )
    assert all(reply.answer is not None for reply in replies)
    assert [len(batch) for batch in images.calls] == [3]
    assert texts.calls == [["a cat", "a dog"]]
    assert searches.calls == [[2, 3, 4, 5, 6, 7, 8, 9, 10 + 3 + 3]]
    assert len(shown.calls) == 1


def test_a_thousand_pictures_are_never_in_memory_at_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixty-four searches may ask with sixteen pictures each."""
    prepared = Watched(monkeypatch, EmbeddingService, "prepare")
    embed, waiting, most = EmbeddingService.embed_prepared, [0], [0]

    def embedding(self: EmbeddingService, batch: Sequence[Any]) -> Any:
        most[0] = max(most[0], len(prepared.calls) - waiting[0])
        waiting[0] += len(batch)
        return embed(self, batch)

    monkeypatch.setattr(EmbeddingService, "embed_prepared", embedding)
    searches = [request(*(QueryPart(image=jpeg(100 * number + part)) for part in range(16))) for number in range(10)]
    assert all(reply.answer is not None for reply in bench.answer(*searches))
    assert waiting == [160]
    assert most[0] <= 64


def test_equal_filters_share_one_query_and_one_search(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """1 and True are equal in Python and different to a filter."""
    filters: list[Filter] = [Equals(key="year", value=2001), Equals(key="year", value=2001)]
    filters += [Equals(key="on", value=1), Equals(key="on", value=True)]
    matching = Watched(monkeypatch, bench.catalog.images, "matching_ids")
    searches = Watched(monkeypatch, bench.served.replica.index, "search_many")
    replies = bench.answer(*(request(photo(1), options=RerankOptions(filter=one)) for one in filters))
    assert [len(reply.answer or ()) for reply in replies] == [8, 8, 0, 0]
    assert matching.calls == [filters[0], filters[2], filters[3]]
    assert searches.calls == [[11, 11], [11], [11]]


FILTERS: list[Filter | None] = [
    None,
    None,
    Equals(key="shop", value="x"),
    Range(key="year", gte=2003),
    And(filters=(Exists(key="shop"), Range(key="year", lt=2002))),
]


requests = st.builds(
    lambda number, fields, options: request(photo(number), options=RerankOptions(**options), **fields),
    number=st.integers(0, IMAGES - 1),
    fields=st.fixed_dictionaries(
        {
            "exclude": st.lists(st.integers(0, IMAGES).map("photo {:02}".format), max_size=5).map(tuple),
            "exclude_query": st.booleans(),
            "explain": st.booleans(),
        }
    ),
    options=st.fixed_dictionaries(
        {
            "top_k": st.integers(1, 30),
            "offset": st.sampled_from([0, 0, 5, 40]),
            "filter": st.sampled_from(FILTERS),
            "normalize": st.booleans(),
            "min_score": st.sampled_from([None, None, 0.5]),
            "near_duplicate_threshold": st.sampled_from([None, None, 0.999]),
            "group_by": st.sampled_from([None, None, "shop", "year"]),
            "group_size": st.integers(1, 4),
            "diversity": st.sampled_from([None, None, 0.4]),
            "diversity_window": st.sampled_from([5, 100]),
        }
    ),
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(batch=st.lists(requests, min_size=1, max_size=10))
def test_a_batch_is_answered_to_the_bit_as_each_request_alone(bench: Bench, batch: list[SearchRequest]) -> None:
    for asked, reply in zip(batch, bench.answer(*batch), strict=True):
        assert reply.request_id == asked.request_id
        assert reply.answer is not None
        alone = bench.alone(asked)
        assert reply.answer.results == alone.results
        assert (reply.answer.normalized, reply.answer.model) == (alone.normalized, alone.model)
