"""The queue of searches against a real Valkey: bounds, priorities, deadlines, cancelling, takeover, wiping."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import OutOfMemoryError
from search_entries import reply, request, submit
from servers import ROOT, wait_for

from query_service.serving import taken_requests
from query_service.serving.taken_requests import RequestQueue
from query_service.transport.request_queue import (
    CANCEL_SCRIPT,
    CANCELLED,
    DEAD_LETTERS,
    STREAMS,
    cancel_arguments,
    reply_key,
)
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
    three = RequestQueue(client, "three", 3)
    names = {one.request_id: f"{p} {place}" for p, searches in sent.items() for place, one in enumerate(searches)}
    assert [names[one.request_id] for one in three.read(1)] == ["high 0", "high 1", "normal 0"]
    assert [names[one.request_id] for one in three.read(1)] == ["normal 1", "low 0", "low 1"]
    assert three.read(1) == []


def test_high_priorities_that_fill_every_batch_leave_a_part_of_it_to_the_lower_ones(
    client: Redis, queue: RequestQueue
) -> None:
    large = RequestQueue(client, "large", 16)
    for priority in ("high", "normal", "low"):
        for _ in range(20):
            submit(client, request(priority=priority))
    taken = [Counter(one.stream for one in large.read(1)) for _ in range(3)]
    high, normal, low = STREAMS.values()
    assert taken[0] == {high: 12, normal: 2, low: 2}
    assert taken[1] == {high: 8, normal: 6, low: 2}, "what is kept and not needed goes to the next in order"
    assert taken[2] == {normal: 12, low: 4}


def test_a_batch_of_large_pictures_is_a_small_one(
    client: Redis, queue: RequestQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(taken_requests, "_BATCH_BYTES", 50_000)
    many = RequestQueue(client, "many", 64)
    for number in range(9):
        picture = request(parts=[{"image": b"\0" * 20_000}], priority="low" if number > 5 else "high")
        submit(client, picture)
    first = [one.stream for one in many.read(1)]
    assert first == [STREAMS["high"]] * 3 + [STREAMS["low"]], "50,000 bytes, and one of those who would starve"
    assert len(many.read(1)) == 4
    everybody_is_silent(monkeypatch)
    assert [len(queue_of_four) for queue_of_four in (many.take_over(), many.take_over())] == [3, 3]
    assert sum(len(message.message) for message in many.read(1)) < 50_000


def everybody_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on whatever is held was held too long, however quick this machine is."""
    monkeypatch.setattr(taken_requests, "TAKE_OVER_MS", 0)


def nobody_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on nothing was, however slow it is."""
    monkeypatch.setattr(taken_requests, "TAKE_OVER_MS", 3_600_000)


def fill(client: Redis, size: int) -> None:
    """Write values of so many bytes until the server refuses."""
    for number in range(100_000):
        try:
            client.set(f"other:{size}:{number}", b"\0" * size)
        except OutOfMemoryError:
            return


def test_a_full_server_is_emptied_by_its_answers(own_valkey: Any) -> None:
    """It takes no write that needs memory: as one transaction no reply would go out, and no search ever away."""
    server = own_valkey("--maxmemory", "12mb")
    with connect_url(server.url) as client:
        queue = RequestQueue(client, "one", 64)
        queue.read(1)
        sent = [request(parts=[{"image": b"\0" * 100_000}]) for _ in range(20)]
        for one in sent:
            submit(client, one)
        for size in (1_000_000, 10_000, 100):
            fill(client, size)
        queue.settle([(one, b"said" * 50) for one in queue.read(1)])
        assert client.xlen(STREAMS["normal"]) == 0
        assert all(client.lpop(reply_key(one.request_id)) for one in sent)


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


_WAITING = """
import sys, time
from query_service.serving.taken_requests import RequestQueue
from workers.servers import connect_url

queue = RequestQueue(connect_url(sys.argv[1]), "frozen", 4)
queue.read(1)
[taken] = queue.read(60_000)
print(taken.queued_seconds, taken.ends_at - time.monotonic())
"""


def test_the_deadline_also_counts_while_a_worker_that_waited_was_frozen(client: Redis, redis_url: str) -> None:
    """Redis gives a search to whoever waits, at once: how long that process then takes to read it counts too."""
    with subprocess.Popen([sys.executable, "-c", _WAITING, redis_url], stdout=subprocess.PIPE, text=True) as waiting:
        wait_for(lambda: client.info("clients")["blocked_clients"] == 1, what="somebody who waits")
        waiting.send_signal(signal.SIGSTOP)
        submit(client, request(timeout_seconds=0.2))
        time.sleep(0.25)
        waiting.send_signal(signal.SIGCONT)
        out, _ = waiting.communicate(timeout=180)
    queued, left = map(float, out.split())
    assert queued >= 0.2
    assert left < 0


_ASKING = """
import sys, time
from query_service.serving.taken_requests import RequestQueue
from search_entries import request, submit
from workers.servers import connect_url

queue = RequestQueue(connect_url(sys.argv[1]), "frozen", 4)
queue.read(1)
with connect_url(sys.argv[1]) as other:
    submit(other, request(timeout_seconds=60.0))
print("submitted", flush=True)
input()
begun = time.monotonic()
[taken] = queue.read(1)
print(taken.ends_at - begun)
"""


def test_the_deadline_also_counts_while_a_worker_was_frozen_over_the_reply(client: Redis, redis_url: str) -> None:
    """As the server would be slow to come to it, it is told to wait until the worker is stopped."""
    folders = os.pathsep.join([str(ROOT), str(Path(__file__).parent)])
    with subprocess.Popen(
        [sys.executable, "-c", _ASKING, redis_url],
        env={**os.environ, "PYTHONPATH": folders},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as asking:
        assert asking.stdout is not None
        assert asking.stdout.readline() == "submitted\n"
        client.execute_command("CLIENT PAUSE", 60_000, "WRITE")
        try:
            asking.stdin.write("go\n")  # type: ignore[union-attr]
            asking.stdin.flush()  # type: ignore[union-attr]
            wait_for(lambda: [one["cmd"] for one in client.client_list() if "b" in one["flags"]] == ["eval"])
            asking.send_signal(signal.SIGSTOP)
        finally:
            client.execute_command("CLIENT UNPAUSE")
        time.sleep(0.5)
        asking.send_signal(signal.SIGCONT)
        out, _ = asking.communicate(timeout=180)
    assert float(out) <= 60.0, "it was submitted before the worker began to read"


@pytest.mark.parametrize("knows_the_clock", [True, False])
def test_a_search_has_all_of_its_time_when_the_server_had_stalled_over_the_workers_question(
    client: Redis, redis_url: str, queue: RequestQueue, knows_the_clock: bool
) -> None:
    """Longer than the search has time: else it would be refused at once."""
    worker = queue if knows_the_clock else RequestQueue(client, "new", 4)
    if knows_the_clock:
        assert worker.read(1) == []
    with connect_url(redis_url) as other, connect_url(redis_url) as looking, ThreadPoolExecutor() as threads:
        looking.execute_command("CLIENT PAUSE", 60_000, "WRITE")
        try:
            submitting = threads.submit(submit, other, request(timeout_seconds=0.3))
            wait_for(lambda: stalled(looking) == 1, what="the search to wait for the server")
            reading = threads.submit(worker.read, 1)
            wait_for(lambda: stalled(looking) == 2, what="the worker to wait behind it")
            time.sleep(0.5)
            taken_from = time.monotonic()
        finally:
            looking.execute_command("CLIENT UNPAUSE")
        assert submitting.result()
        [taken] = reading.result()
    assert taken.ends_at >= taken_from + 0.29
    assert taken.ends_at <= time.monotonic() + 0.3


def stalled(client: Redis) -> int:
    """How many commands the paused server keeps waiting."""
    return sum("b" in one["flags"] for one in client.client_list())


def test_a_cancelled_search_is_seen_as_such_and_forgotten_with_it(client: Redis, queue: RequestQueue) -> None:
    one, other = request(), request()
    submit(client, one)
    submit(client, other)
    client.eval(CANCEL_SCRIPT, *cancel_arguments(one.request_id, 600.0))
    taken = queue.read(1)
    assert [each.cancelled for each in taken] == [True, False]
    queue.settle([(taken[0], None), (taken[1], b"said")])
    assert client.zcard(CANCELLED) == 0
    assert not client.exists(reply_key(one.request_id))


def test_an_idle_worker_is_woken_by_the_first_search(client: Redis, queue: RequestQueue) -> None:
    started = time.monotonic()
    assert queue.read(60) == []
    assert time.monotonic() - started > 0.05


def test_what_a_dead_worker_held_is_taken_over_and_what_kills_workers_comes_alone(
    client: Redis, queue: RequestQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = [request() for _ in range(3)]
    for one in sent:
        submit(client, one)
    assert len(queue.read(1)) == 3
    second, third = RequestQueue(client, "two", 4), RequestQueue(client, "three", 4)
    nobody_is_silent(monkeypatch)
    assert second.take_over() == []
    everybody_is_silent(monkeypatch)
    left = second.take_over()
    assert [(one.request_id, one.deliveries) for one in left] == [(one.request_id, 2) for one in sent]
    nobody_is_silent(monkeypatch)
    assert third.take_over() == [], "they are held again"
    everybody_is_silent(monkeypatch)
    assert [one.request_id for one in third.take_over()] == [sent[0].request_id]
    assert [one.deliveries for one in queue.take_over()] == [3], "those that were left less often go first"


def test_renewing_keeps_others_from_taking_over(
    client: Redis, queue: RequestQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(taken_requests, "TAKE_OVER_MS", 100)
    submit(client, request())
    held, two = queue.read(1), RequestQueue(client, "two", 4)
    wait_for(two._left_behind, what="the time to pass")
    wait_for(lambda: queue.renew(held) or not two._left_behind(), what="a look soon after the renewing")
    queue.settle([(held[0], b"said")])
    queue.renew(held)  # after the reply it says nothing
    everybody_is_silent(monkeypatch)
    assert RequestQueue(client, "two", 4).take_over() == []


def test_what_a_worker_hangs_in_is_not_renewed_once_its_time_is_over(
    client: Redis, queue: RequestQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it would count against the bound of the queue for as long as that worker lives."""
    monkeypatch.setattr(taken_requests, "TAKE_OVER_MS", 100)
    submit(client, request(timeout_seconds=0.05))
    held = queue.read(1)
    time.sleep(0.12)
    queue.renew(held)
    assert [one.entry for one in RequestQueue(client, "two", 4).take_over()] == [one.entry for one in held]


def test_a_cancelled_search_is_seen_when_it_is_taken_over(
    client: Redis, queue: RequestQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    everybody_is_silent(monkeypatch)
    one = request()
    submit(client, one)
    assert [taken.cancelled for taken in queue.read(1)] == [False]
    client.eval(CANCEL_SCRIPT, *cancel_arguments(one.request_id, 600.0))
    assert [taken.cancelled for taken in queue.take_over()] == [True]


def test_what_was_deleted_while_a_dead_worker_held_it_is_forgotten(
    client: Redis, queue: RequestQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    everybody_is_silent(monkeypatch)
    submit(client, request())
    [held] = queue.read(1)
    client.xdel(held.stream, held.entry)
    assert queue.take_over() == []
    assert client.xpending(held.stream, "query")["pending"] == 0


def test_a_wiped_redis_gets_its_groups_again(client: Redis, queue: RequestQueue) -> None:
    client.flushall()
    submit(client, request())
    assert wait_for(lambda: queue.read(1))
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
