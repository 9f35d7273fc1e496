"""The query worker's loop inside the test: progress for `status`, overload, and whose searches it leaves to others."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from query_collections import MODEL, store, vector
from redis import Redis
from search_entries import reply, request, submit
from servers import wait_for

from query_service import worker as worker_module
from query_service.answers.answering import Answering
from query_service.answers.preloaded_models import PreloadedModels
from query_service.client import SearchClient
from query_service.errors import ServiceBusy
from query_service.protocol import SearchAnswer, SearchReply, SearchRequest
from query_service.serving import search_loop, taken_requests
from query_service.serving.search_loop import QueryWorker
from query_service.serving.served import ServedCollections
from query_service.serving.taken_requests import RequestQueue
from query_service.transport.request_queue import DEAD_LETTERS, STREAMS, reply_key
from storage.catalog import Catalog, Generation, catalog_of
from storage.settings import Settings
from storage.snapshots import snapshots_of
from workers.servers import connect_url
from workers.signs.heartbeat import Heartbeat

BATCH_SECONDS = 0.05


class SlowAnswering(Answering):
    """An engine whose batches take a known time, and begin when they may: tests know what is too much for it."""

    def __init__(self, catalog: Catalog, models: PreloadedModels, may_answer: threading.Event) -> None:
        super().__init__(catalog, models)
        self._may_answer = may_answer

    def answer(
        self, requests: Sequence[SearchRequest], served: Mapping[str, Any], still_wanted: Callable[[str], bool]
    ) -> list[SearchReply]:
        if requests:
            assert self._may_answer.wait(60)
            time.sleep(BATCH_SECONDS)
        return super().answer(requests, served, still_wanted)


@pytest.fixture
def settings(tmp_path: Path, redis_url: str) -> Settings:
    return Settings(data_dir=tmp_path / "data", redis_url=redis_url, search_queue=8, search_batch=4)


@pytest.fixture
def client(redis_url: str) -> Iterator[Redis]:
    with connect_url(redis_url) as connected:
        yield connected


@pytest.fixture
def catalog(settings: Settings) -> Iterator[Catalog]:
    with catalog_of(settings) as opened:
        generation = opened.generations.ensure_active(opened.collections.ensure("default").id, MODEL)
        store(opened, generation, [f"{number:02}.jpg" for number in range(10)])
        yield opened


@pytest.fixture
def may_answer() -> threading.Event:
    """While it is cleared, the worker of `progress` holds what it took."""
    event = threading.Event()
    event.set()
    return event


@pytest.fixture
def progress(
    settings: Settings, client: Redis, catalog: Catalog, may_answer: threading.Event
) -> Iterator[list[tuple[int, str]]]:
    """What a worker that runs meanwhile tells of its progress."""
    told: list[tuple[int, str]] = []
    stop = threading.Event()
    answering = SlowAnswering(catalog, PreloadedModels(settings), may_answer)
    with ServedCollections(catalog, snapshots_of(settings, catalog), lambda _: None) as served:
        assert served.wait_until_loaded(60, threading.Event())
        queue = RequestQueue(client, "one", settings.search_batch)
        worker = QueryWorker(queue, served, answering, lambda done, doing: told.append((done, doing)))
        thread = threading.Thread(target=worker.run, args=(stop,), daemon=True)
        thread.start()
        yield told
        stop.set()
        thread.join(60)
        assert not thread.is_alive()
    answering.close()


def test_progress_says_what_is_done_and_counts_it(client: Redis, progress: list[tuple[int, str]]) -> None:
    """Without work it goes on too: an idle worker is not a stuck one, whatever others hold in the queue."""
    wait_for(lambda: progress.count((0, "")) >= 2)
    searches = [request() for _ in range(3)]
    for one in searches:
        submit(client, one)
    assert all(reply(client, one.request_id).answer for one in searches)
    wait_for(lambda: sum(done for done, _ in progress) == 3)
    work = [one for one in progress if one != (0, "")]
    assert work[0][1].startswith("answering ")
    assert {doing for done, doing in work if done} == {""}


@pytest.mark.usefixtures("progress")
def test_ten_times_too_many_searches_are_refused_at_once_or_answered(
    settings: Settings, client: Redis, may_answer: threading.Event
) -> None:
    """Four in 50 ms are answered, eight may wait, and forty clients ask as fast as they can.

    At first none is answered at all: eight are accepted, all others refused, and nobody waits for that.
    """
    outcomes: list[tuple[float, Any]] = []
    over = threading.Event()
    may_answer.clear()

    def ask() -> None:
        with SearchClient(settings) as asking:
            while not over.is_set():
                started = time.monotonic()
                try:
                    outcome: Any = asking.search(vector=vector("03.jpg").tolist(), timeout=60)
                except ServiceBusy as error:
                    outcome = error
                outcomes.append((time.monotonic() - started, outcome))
                time.sleep(0.02 if isinstance(outcome, ServiceBusy) else 0)

    threads = [threading.Thread(target=ask, daemon=True) for _ in range(40)]
    for thread in threads:
        thread.start()
    wait_for(lambda: len(outcomes) >= 10 * settings.search_queue, what="so many refusals")
    assert not any(isinstance(outcome, SearchAnswer) for _, outcome in outcomes)
    assert client.xlen(STREAMS["normal"]) == settings.search_queue
    may_answer.set()
    time.sleep(2.0)  # both kinds come, as many as this machine lets come
    over.set()
    for thread in threads:
        thread.join(60)
    answered = sorted(seconds for seconds, outcome in outcomes if isinstance(outcome, SearchAnswer))
    refused = sorted(seconds for seconds, outcome in outcomes if isinstance(outcome, ServiceBusy))
    print(f"answered {len(answered)}: median {answered[len(answered) // 2]:.3f} s, longest {answered[-1]:.3f} s")
    print(f"refused {len(refused)}: median {refused[len(refused) // 2]:.3f} s, longest {refused[-1]:.3f} s")
    assert len(answered) + len(refused) == len(outcomes)
    assert len(answered) >= settings.search_queue, "what was accepted is answered"
    assert len(refused) >= 10 * settings.search_queue
    assert all(one.image_ids[0] == "03.jpg" for _, one in outcomes if isinstance(one, SearchAnswer))
    wait_for(lambda: not any(client.xlen(stream) for stream in STREAMS.values()))
    assert sorted(client.keys("vs:*")) == sorted(stream.encode() for stream in STREAMS.values())


@pytest.mark.usefixtures("progress")
def test_low_searches_are_answered_while_high_ones_keep_the_queue_full(settings: Settings) -> None:
    """Of each batch a part is kept for them."""
    over = threading.Event()

    def flood() -> None:
        with SearchClient(settings) as asking:
            while not over.is_set():
                asking.search_many([{"vector": vector("01.jpg").tolist(), "priority": "high"}] * 16)

    threads = [threading.Thread(target=flood, daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    with SearchClient(settings) as asking:
        for _ in range(3):
            assert asking.search(vector=vector("02.jpg").tolist(), priority="low", timeout=60).image_ids[0] == "02.jpg"
    over.set()
    for thread in threads:
        thread.join(60)


def silent_ms(client: Redis) -> int:
    """For how long the worker that holds the one search has not said that it still does."""
    [held] = client.xpending_range(STREAMS["normal"], "query", min="-", max="+", count=10)
    return int(held["time_since_delivered"])


def test_searches_of_a_collection_that_is_loading_wait_for_it_while_they_have_time(
    settings: Settings, client: Redis, catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All workers may have been restarted at once. They are kept alive, and nobody else takes them."""
    monkeypatch.setattr(taken_requests, "TAKE_OVER_MS", 60_000)
    monkeypatch.setattr(search_loop, "_RENEW_SECONDS", 0.1)
    go_on, stop = threading.Event(), threading.Event()
    answering = Answering(catalog, PreloadedModels(settings))
    with ServedCollections(catalog, snapshots_of(settings, catalog), lambda _: go_on.wait(60) and None) as served:
        wait_for(served._looked.is_set)
        worker = QueryWorker(RequestQueue(client, "one", 64), served, answering, lambda _done, _doing: None)
        thread = threading.Thread(target=worker.run, args=(stop,), daemon=True)
        thread.start()
        short, long = request(timeout_seconds=2.0), request(timeout_seconds=60.0)
        submit(client, short)
        submit(client, long)
        error = reply(client, short.request_id).error
        assert error is not None
        assert (error.reason, error.retryable) == ("collection_loading", True)
        seen = [silent_ms(client)]
        for _renewal in range(3):
            wait_for(lambda: seen.append(silent_ms(client)) or seen[-1] < seen[-2], what="a sign for what is held")
        assert RequestQueue(client, "two", 64).take_over() == []
        go_on.set()
        assert reply(client, long.request_id).answer is not None
        stop.set()
        thread.join(60)
    answering.close()


def test_a_worker_that_was_frozen_does_not_take_over_what_it_has_set_aside_itself(
    settings: Settings, client: Redis, catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Awake again it finds its own searches without a sign for long: they have cost nobody, and are no dead letters."""
    monkeypatch.setattr(taken_requests, "TAKE_OVER_MS", 0)  # as if it had been frozen before each look
    monkeypatch.setattr(search_loop, "_TAKE_OVER_SECONDS", 0.0)
    monkeypatch.setattr(search_loop, "_BLOCK_MS", 1)
    go_on, stop = threading.Event(), threading.Event()
    answering = Answering(catalog, PreloadedModels(settings))
    with ServedCollections(catalog, snapshots_of(settings, catalog), lambda _: go_on.wait(60) and None) as served:
        wait_for(served._looked.is_set)
        steps: list[int] = []
        queue = RequestQueue(client, "one", 64)
        worker = QueryWorker(queue, served, answering, lambda done, _doing: steps.append(done))
        one = request()
        submit(client, one)
        thread = threading.Thread(target=worker.run, args=(stop,), daemon=True)
        thread.start()
        wait_for(lambda: worker._aside.taken, what="the search to be set aside")
        before = len(steps)
        wait_for(lambda: len(steps) > before + 20, what="so many looks")
        go_on.set()
        told = reply(client, one.request_id)
        assert told.answer is not None, told.error
        wait_for(lambda: not client.xlen(STREAMS["normal"]), what="the search to be forgotten")
        assert not client.exists(DEAD_LETTERS, reply_key(one.request_id))
        stop.set()
        thread.join(60)
    answering.close()


def test_a_worker_that_ends_hands_back_what_it_has_set_aside(
    settings: Settings, client: Redis, catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others need not wait until it was silent for long: the search may not have the time."""
    monkeypatch.setattr(taken_requests, "TAKE_OVER_MS", 3_600_000)
    go_on, stop = threading.Event(), threading.Event()
    answering = Answering(catalog, PreloadedModels(settings))
    with ServedCollections(catalog, snapshots_of(settings, catalog), lambda _: go_on.wait(60) and None) as served:
        wait_for(served._looked.is_set)
        worker = QueryWorker(RequestQueue(client, "one", 64), served, answering, lambda *_: None)
        one = request()
        submit(client, one)
        thread = threading.Thread(target=worker.run, args=(stop,), daemon=True)
        thread.start()
        wait_for(lambda: worker._aside.taken, what="the search to be set aside")
        stop.set()
        thread.join(60)
        go_on.set()
    answering.close()
    [taken] = RequestQueue(client, "two", 64).take_over([])
    assert (taken.request_id, taken.deliveries) == (one.request_id, 2)


def test_a_collection_that_is_loaded_just_while_a_batch_begins_is_not_unknown(
    settings: Settings, client: Redis, catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, stop = threading.Event(), threading.Event()
    answering = Answering(catalog, PreloadedModels(settings))
    with ServedCollections(catalog, snapshots_of(settings, catalog), lambda _: go_on.wait(60) and None) as served:
        wait_for(served._looked.is_set)
        current = served.current

        def loaded_after() -> Any:
            found = current()
            go_on.set()
            wait_for(lambda: not served.is_loading("default"))
            return found

        monkeypatch.setattr(served, "current", loaded_after)
        worker = QueryWorker(RequestQueue(client, "one", 64), served, answering, lambda _done, _doing: None)
        worker._queue.read(1)  # makes the groups
        one = request()
        submit(client, one)
        thread = threading.Thread(target=worker.run, args=(stop,), daemon=True)
        thread.start()
        told = reply(client, one.request_id)
        assert told.answer is not None, told.error
        stop.set()
        thread.join(60)
    answering.close()


@pytest.mark.parametrize("doing", ["", "loading collections"], ids=["idle", "loading"])
def test_a_worker_that_loads_takes_no_searches_while_another_answers(
    settings: Settings, client: Redis, catalog: Catalog, monkeypatch: pytest.MonkeyPatch, doing: str
) -> None:
    """It would tell them that their collection is loading. Where nobody answers, that is the better reply."""
    monkeypatch.setattr(worker_module, "_LOAD_SECONDS", 0.1)
    record = {"role": "query_worker", "process": "elsewhere:1", "started_at": 1.0, "alive_at": 2.0}
    sign = json.dumps({**record, "progressed_at": 2.0, "doing": doing})
    client.set("vs:heartbeat:query_worker:elsewhere:1", sign, ex=600)
    go_on, stop, waited = threading.Event(), threading.Event(), threading.Event()

    def slow(_: Generation) -> None:
        go_on.wait(60)

    def wait(served: ServedCollections, heartbeat: Heartbeat) -> None:
        worker_module._wait_until_loaded(served, client, heartbeat, stop)
        waited.set()

    with (
        ServedCollections(catalog, snapshots_of(settings, catalog), slow) as served,
        Heartbeat(client, "query_worker") as heartbeat,
    ):
        thread = threading.Thread(target=wait, args=(served, heartbeat), daemon=True)
        thread.start()
        loads_too = doing == "loading collections"
        assert waited.wait(60 if loads_too else 1.0) == loads_too
        go_on.set()
        thread.join(60)
        assert waited.is_set()
