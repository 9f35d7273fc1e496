"""The queue of searches against a real Valkey: bounds, priorities, deadlines, cancelling, takeover, wiping."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from redis import Redis
from search_entries import reply, request, submit
from servers import wait_for

from query_service import taken_requests
from query_service.request_queue import (
    CANCEL_SCRIPT,
    CANCELLED,
    DEAD_LETTERS,
    STREAMS,
    cancel_arguments,
    reply_key,
)
from query_service.taken_requests import RequestQueue
from workers.servers import connect_url


@pytest.fixture
def client(redis_url: str) -> Iterator[Redis]:
    with connect_url(redis_url) as connected:
        yield connected


@pytest.fixture
def queue(client: Redis) -> RequestQueue:
    made = RequestQueue(client, "one", 4)
    assert made.read(1) == []  # makes the groups
    return made


def test_what_waits_is_taken_at_once_highest_priority_first_and_no_more_than_a_batch(
    client: Redis, queue: RequestQueue
) -> None:
    sent = {p: [request(priority=p) for _ in range(2)] for p in ("low", "normal", "high")}
    for searches in sent.values():
        for one in searches:
            submit(client, one)
    taken = queue.read(1)
    assert [one.request_id for one in taken] == [one.request_id for p in ("high", "normal") for one in sent[p]]
    assert [one.request_id for one in queue.read(1)] == [one.request_id for one in sent["low"]]
    assert queue.read(1) == []


def test_a_full_queue_says_busy_at_once(client: Redis, queue: RequestQueue) -> None:
    first, second = request(), request()
    assert submit(client, first, bound=1)
    assert submit(client, second, bound=1) is None
    answer = reply(client, second.request_id)
    assert answer.error is not None
    assert (answer.error.reason, answer.error.retryable) == ("busy", True)
    assert submit(client, request(priority="high"), bound=1), "each priority has its own bound"


def test_settling_replies_for_ten_seconds_and_leaves_nothing_else(client: Redis, queue: RequestQueue) -> None:
    one = request()
    submit(client, one)
    queue.settle([(queue.read(1)[0], b"said")])
    assert 0 < client.pttl(reply_key(one.request_id)) <= 10_000
    assert [client.xlen(stream) for stream in STREAMS.values()] == [0, 0, 0]
    assert client.blpop(reply_key(one.request_id), 1)[1] == b"said"
    assert sorted(client.keys("vs:*")) == sorted(stream.encode() for stream in STREAMS.values())


def test_the_deadline_counts_from_when_redis_took_it(client: Redis, queue: RequestQueue) -> None:
    submit(client, request(timeout_seconds=0.2))
    time.sleep(0.25)
    [taken] = queue.read(1)
    assert taken.queued_seconds >= 0.25
    assert taken.ends_at < time.monotonic()


def test_a_cancelled_search_is_seen_as_such_and_forgotten_with_it(client: Redis, queue: RequestQueue) -> None:
    one, other = request(), request()
    submit(client, one)
    submit(client, other)
    client.eval(CANCEL_SCRIPT, *cancel_arguments(one.request_id, 10.0))
    taken = queue.read(1)
    assert [each.cancelled for each in taken] == [True, False]
    queue.settle([(taken[0], None), (taken[1], b"said")])
    assert client.zcard(CANCELLED) == 0
    assert not client.exists(reply_key(one.request_id))


def test_an_idle_worker_is_woken_by_the_first_search(client: Redis, queue: RequestQueue) -> None:
    started = time.monotonic()
    assert queue.read(60) == []
    assert 0.05 < time.monotonic() - started < 1


def test_what_a_dead_worker_held_is_taken_over_and_what_kills_workers_comes_alone(
    client: Redis, queue: RequestQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(taken_requests, "TAKE_OVER_MS", 50)
    sent = [request() for _ in range(3)]
    for one in sent:
        submit(client, one)
    assert len(queue.read(1)) == 3
    second, third = RequestQueue(client, "two", 4), RequestQueue(client, "three", 4)
    assert second.take_over() == []
    time.sleep(0.08)
    left = second.take_over()
    assert [(one.request_id, one.deliveries) for one in left] == [(one.request_id, 2) for one in sent]
    assert third.take_over() == [], "they are held again"
    time.sleep(0.08)
    assert [one.request_id for one in third.take_over()] == [sent[0].request_id]
    time.sleep(0.08)
    assert [one.deliveries for one in queue.take_over()] == [3], "those that were left less often go first"


def test_renewing_keeps_others_from_taking_over(
    client: Redis, queue: RequestQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(taken_requests, "TAKE_OVER_MS", 100)
    submit(client, request())
    held = queue.read(1)
    time.sleep(0.12)
    queue.renew(held)
    assert RequestQueue(client, "two", 4).take_over() == []
    queue.settle([(held[0], b"said")])
    queue.renew(held)  # after the reply it says nothing
    time.sleep(0.12)
    assert RequestQueue(client, "two", 4).take_over() == []


def test_a_wiped_redis_gets_its_groups_again(client: Redis, queue: RequestQueue) -> None:
    client.flushall()
    submit(client, request())
    assert wait_for(lambda: queue.read(1), seconds=2)
    client.flushall()
    assert queue.take_over() == []


@pytest.mark.parametrize("fields", [{"m": b"x"}, {"id": b"../../etc", "m": b"x", "t": b"5"}, {"id": b"a" * 33}])
def test_an_entry_that_names_no_request_is_taken_without_one(client: Redis, queue: RequestQueue, fields: Any) -> None:
    client.xadd(STREAMS["normal"], fields)
    [taken] = queue.read(1)
    assert taken.request_id == ""
    queue.dead_letter(taken, "names none", None)
    [(_, letter)] = client.xrange(DEAD_LETTERS)
    assert letter[b"reason"] == b"names none"
    assert client.xlen(STREAMS["normal"]) == 0


def test_names_of_dead_workers_are_forgotten_unless_they_hold_something(
    client: Redis, queue: RequestQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(taken_requests, "_DEAD_CONSUMER_MS", 20)
    submit(client, request())
    queue.read(1)
    RequestQueue(client, "idle", 4).read(1)
    time.sleep(0.05)
    queue.forget_dead_consumers()
    names = [one["name"] for one in client.xinfo_consumers(STREAMS["normal"], "query")]
    assert names == [b"one"]
