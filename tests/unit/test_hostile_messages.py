"""Messages that cost much to refuse, or pass for another: bounds of filters, of refusals, and of versions."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest

from pipeline.errors import InvalidQuery
from query_service.errors import MalformedMessage
from query_service.protocol import MAX_FILTER_DEPTH, QueryPart, SearchRequest
from query_service.wire import unpack_request
from storage.filters import And, Exists, Filter, In, Not, depth_of


def deep(levels: int) -> Filter:
    condition: Filter = Exists(key="a")
    for _ in range(levels - 1):
        condition = Not(filter=condition)
    return condition


def search(condition: Filter) -> SearchRequest:
    return SearchRequest.model_validate({"parts": [{"text": "x"}], "options": {"filter": condition}})


def test_a_filter_has_a_depth() -> None:
    condition = And(filters=(Exists(key="a"), Not(filter=In(key="b", values=(1, 2, 3)))))
    assert depth_of(condition) == 3
    assert depth_of(deep(5000)) == 5000


def test_filters_are_sent_up_to_a_depth() -> None:
    search(deep(MAX_FILTER_DEPTH))
    with pytest.raises(InvalidQuery, match=f"nested {MAX_FILTER_DEPTH + 1} deep, at most {MAX_FILTER_DEPTH}"):
        search(deep(MAX_FILTER_DEPTH + 1))


def test_a_vector_that_is_wrong_everywhere_is_refused_in_a_few_words() -> None:
    with pytest.raises(InvalidQuery) as refused:
        QueryPart.model_validate({"vector": [float("nan")] * 8192})
    assert len(str(refused.value)) < 500


def test_a_filter_that_is_wrong_everywhere_is_refused_in_a_few_words() -> None:
    options = {"filter": {"op": "in", "key": "a", "values": [[]] * 5000}}
    with pytest.raises(InvalidQuery) as refused:
        SearchRequest.model_validate({"parts": [{"text": "x"}], "options": options})
    assert len(str(refused.value)) < 1000


@pytest.mark.parametrize("version", [1.0, True, "1", 2], ids=["1.0", "true", "text", "2"])
def test_only_the_whole_number_1_is_version_1(version: Any) -> None:
    message = msgpack.packb({"v": version, "parts": [{"text": "x"}]})
    with pytest.raises(MalformedMessage, match="version"):
        unpack_request("0" * 32, message)
