"""Requests under way: what two replies, two equal ids, late replies and a broken connection make of them. No Redis."""

from __future__ import annotations

import time
from typing import Any

import pytest

from pipeline.errors import InvalidQuery
from query_service.errors import MalformedMessage, SearchCancelled, ServiceBusy
from query_service.protocol import ErrorReply, QueryPart, SearchReply, SearchRequest
from query_service.transport.busy_retries import BusyRetries
from query_service.transport.exchange import TOGETHER, Exchange, NoAnswer, together, windows
from query_service.transport.request_queue import STREAMS, reply_key
from query_service.wire import MAX_REQUEST_BYTES, pack_reply


def request(**fields: Any) -> SearchRequest:
    return SearchRequest(parts=(QueryPart(text="a dog"),), **fields)


def refusal(one: SearchRequest, reason: str = "cancelled") -> bytes:
    return pack_reply(SearchReply(request_id=one.request_id, error=ErrorReply(reason=reason, message="no")))


def key(one: SearchRequest) -> bytes:
    return reply_key(one.request_id).encode()


def test_what_came_in_the_same_batch_is_taken_in_one_round() -> None:
    first, second = request(), request()
    exchange = Exchange([first, second], 10)
    assert [command[0] for command in exchange.commands()] == ["EVAL", "EVAL", "BLPOP", "LPOP", "LPOP"]
    exchange.take([b"1-0", b"2-0", [key(second), refusal(second, "busy")], refusal(first), None])
    assert not exchange.waiting
    assert [type(outcome) for outcome in exchange.outcomes()] == [SearchCancelled, ServiceBusy]


def test_a_search_that_two_workers_have_answered_ends_with_the_first_reply() -> None:
    one, other = request(), request()
    exchange = Exchange([one, other], 10)
    exchange.commands()
    exchange.take([b"1-0", b"2-0", [key(one), refusal(one)], refusal(one, "busy"), None])
    assert exchange.waiting == [other]
    exchange.take([[key(other), refusal(other)], None])
    assert [type(outcome) for outcome in exchange.outcomes()] == [SearchCancelled, SearchCancelled]


def test_the_same_request_sent_twice_has_two_outcomes() -> None:
    one = request()
    exchange = Exchange([one, one], 10)
    exchange.commands()
    ids = [waiting.request_id for waiting in exchange.waiting]
    assert len(set(ids)) == 2
    exchange.fail(ServiceBusy("no"))
    assert len(list(exchange.outcomes())) == 2


def test_a_search_out_of_time_is_taken_back_from_the_queue() -> None:
    exchange = Exchange([request(timeout_seconds=0.001, priority="low")], 10)
    exchange.commands()
    time.sleep(0.002)
    exchange.take([b"7-1", None])
    assert isinstance(next(exchange.outcomes()), NoAnswer)
    assert exchange.taking_back() == [("XDEL", STREAMS["low"], b"7-1")]


def test_a_busy_search_has_no_entry_to_take_back() -> None:
    one = request()
    exchange = Exchange([one], 10)
    exchange.commands()
    exchange.take([None, [key(one), refusal(one, "busy")]])
    assert exchange.taking_back() == []


def test_a_reply_for_another_search_or_of_broken_bytes_is_no_answer() -> None:
    one, other = request(), request()
    exchange = Exchange([one, other], 10)
    exchange.commands()
    exchange.take([b"1-0", b"2-0", [key(one), refusal(other)], None, b"\xc1"])
    assert [type(outcome) for outcome in exchange.outcomes()] == [MalformedMessage, MalformedMessage]


def test_a_request_too_large_to_be_sent_fails_alone() -> None:
    large = SearchRequest(parts=(QueryPart(image=bytes(MAX_REQUEST_BYTES)),))
    fine = request()
    exchange = Exchange([large, fine], 10)
    assert exchange.waiting == [fine]
    exchange.fail(ServiceBusy("no"))
    assert [type(outcome) for outcome in exchange.outcomes()] == [MalformedMessage, ServiceBusy]


def test_after_a_broken_connection_what_waits_is_sent_again_under_another_id_with_the_time_that_is_left() -> None:
    one = request(timeout_seconds=5.0)
    exchange = Exchange([one], 10)
    exchange.commands()
    exchange.start_again()
    (again,) = exchange.waiting
    assert again.request_id != one.request_id  # its reply may be on its way into the broken connection
    assert 4.0 < again.timeout_seconds <= 5.0
    assert [command[0] for command in exchange.commands()] == ["EVAL", "BLPOP"]


def test_searches_travel_64_at_once_and_fewer_when_their_pictures_are_large() -> None:
    small = [request() for _ in range(2 * TOGETHER + 1)]
    assert [len(window) for window in windows(small)] == [TOGETHER, TOGETHER, 1]
    large = SearchRequest(parts=(QueryPart(image=bytes(40 * 2**20)),))
    assert [len(window) for window in windows([small[0], large, large, small[1], small[2]])] == [2, 3]
    assert [len(window) for window in windows([large] * 3)] == [1, 1, 1]
    assert list(windows([])) == []
    assert [len(some) for some in together(range(TOGETHER + 2))] == [TOGETHER, 2]


def test_what_was_busy_is_asked_again_until_its_time_or_the_tries_are_over() -> None:
    searches = [request(timeout_seconds=30.0), request(timeout_seconds=30.0), request(timeout_seconds=0.01)]
    retries = BusyRetries(searches, 2)
    outcomes = [ServiceBusy("full"), SearchCancelled("no"), ServiceBusy("full")]
    pause, again = retries.again(outcomes)
    assert 0 < pause < 0.1
    assert list(again) == [0]
    assert again[0].request_id == searches[0].request_id
    assert 29.0 < again[0].timeout_seconds <= 30.0
    later, again = retries.again(outcomes)
    assert later > pause / 3
    assert list(again) == [0]
    assert retries.again(outcomes) == (0.0, {})


def test_without_retries_a_busy_answer_stands() -> None:
    assert BusyRetries([request()], 0).again([ServiceBusy("full")]) == (0.0, {})


def test_a_negative_number_of_retries_is_refused() -> None:
    with pytest.raises(InvalidQuery, match="busy_retries"):
        BusyRetries([], -1)
