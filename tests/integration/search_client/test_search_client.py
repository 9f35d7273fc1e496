"""Both clients on a real Valkey: answers in order, errors, deadlines, a full queue."""

from __future__ import annotations

import time
from threading import Event
from typing import Any

import pytest
from search_replies import VECTOR, answer, assert_nothing_stays, refuse_unknown, replying

from query_service import async_client as async_client_module
from query_service import client as client_module
from query_service.errors import DeadlineExceeded, ServiceBusy
from query_service.protocol import SearchReply, SearchRequest
from query_service.transport.exchange import TOGETHER
from query_service.transport.request_queue import STREAMS
from storage.errors import InvalidFilter, UnknownImageId, VisualSearchError
from storage.settings import Settings


def test_a_search_is_answered_and_leaves_nothing_in_redis(open_client: Any, redis: Any, redis_url: str) -> None:
    client = open_client()
    with replying(redis_url):
        assert client.search(text="a dog").provenance.worker == "a dog"
        assert client.search(vector=VECTOR, k=3, filter=["year>=2020", "label=sea"]).results == []
    assert sorted(redis.keys("*")) == sorted(name.encode() for name in STREAMS.values())


def test_what_is_wrong_is_raised_before_and_after_sending(open_client: Any, redis_url: str) -> None:
    client = open_client()
    with pytest.raises(InvalidFilter):
        client.search(text="a dog", filter="=x")
    with replying(redis_url, refuse_unknown), pytest.raises(UnknownImageId, match="no such image"):
        client.search(image_id="none")


def test_many_searches_keep_their_order_and_errors_in_the_middle_harm_no_other(
    open_client: Any, redis_url: str
) -> None:
    client = open_client()
    questions: list[Any] = [{"text": str(number)} for number in range(2 * TOGETHER + 9)]
    questions[3] = {"image_id": "none"}
    questions[70] = {"text": "x", "k": 0}
    questions[71] = {"image": "/no/such/file.jpg"}
    with replying(redis_url, refuse_unknown):
        outcomes = client.search_many(questions)
    told = [one.reason if isinstance(one, VisualSearchError) else one.provenance.worker for one in outcomes]
    expected = [str(number) for number in range(len(questions))]
    expected[3], expected[70], expected[71] = "unknown_id", "invalid_query", "not_found"
    assert told == expected
    assert client.search_many([]) == []


def test_without_a_worker_the_time_is_kept_the_reason_is_told_and_nothing_stays(
    open_client: Any, redis: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (client_module, async_client_module):
        monkeypatch.setattr(module, "REASON_SECONDS", 60.0)  # a crowded machine may need long for a look
    client = open_client()
    started = time.monotonic()
    with pytest.raises(DeadlineExceeded, match="no query worker has given a sign.*visual-search up"):
        client.search(text="a dog", timeout=0.3)
    assert time.monotonic() - started >= 0.29
    assert_nothing_stays(redis)
    assert client.workers() == 0
    redis.set("vs:heartbeat:query_worker:somewhere:1", "{}", ex=600)
    assert client.workers() == 1
    with pytest.raises(DeadlineExceeded, match="1 query worker lives"):
        client.search(text="a dog", timeout=0.05)
    redis.pexpire("vs:heartbeat:query_worker:somewhere:1", 500_000)
    with pytest.raises(DeadlineExceeded, match="the last sign of a query worker is 1[0-9][0-9] s old"):
        client.search(text="a dog", timeout=0.05)


def test_searches_nobody_waits_for_do_not_fill_the_queue(open_client: Any, settings: Settings, redis: Any) -> None:
    client = open_client(settings=settings.model_copy(update={"search_queue": 2}))
    for _ in range(3):
        outcomes = client.search_many([{"text": "a", "timeout": 0.02}, {"text": "b", "timeout": 0.02}])
        assert [type(one) for one in outcomes] == [DeadlineExceeded, DeadlineExceeded]


def test_a_reply_that_comes_too_late_runs_out(open_client: Any, redis: Any, redis_url: str) -> None:
    client, taken, gave_up = open_client(), Event(), Event()

    def late(request: SearchRequest) -> SearchReply:
        taken.set()
        assert gave_up.wait(60)
        return answer(request)

    with replying(redis_url, late):
        while not taken.is_set():  # as a rule at once; one that is not taken in time is taken back
            with pytest.raises(DeadlineExceeded):
                client.search(text="a dog", timeout=2.0)
        gave_up.set()
    (key,) = redis.keys("vs:reply:*")
    assert 0 < redis.pttl(key) <= 10_000


def test_a_full_queue_is_busy_at_once_and_retries_go_on_within_the_time(
    open_client: Any, settings: Settings, redis: Any, redis_url: str
) -> None:
    full = settings.model_copy(update={"search_queue": 1})
    redis.xadd(STREAMS["normal"], {"id": "f" * 32, "m": b"", "t": 1})
    with pytest.raises(ServiceBusy, match="1 searches of normal priority wait already"):
        open_client(settings=full).search(text="a dog")
    patient = open_client(settings=full, busy_retries=20)
    with pytest.raises(ServiceBusy):
        patient.search(text="a dog", timeout=0.2)
    outcomes = patient.search_many([{"text": "a", "timeout": 0.2}])
    assert [type(one) for one in outcomes] == [ServiceBusy]
    redis.xtrim(STREAMS["normal"], maxlen=0)
    with replying(redis_url):
        outcomes = patient.search_many([{"text": str(number)} for number in range(5)])
    assert [one.provenance.worker for one in outcomes] == [str(number) for number in range(5)]


def test_a_client_works_again_after_it_was_closed(open_client: Any, redis_url: str) -> None:
    client = open_client()
    with replying(redis_url):
        client.search(text="one")
        client.close()
        assert client.search(text="two").provenance.worker == "two"
