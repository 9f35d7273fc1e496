"""Cancelled searches end at once, lose no connection and mix up no answers."""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from search_replies import assert_nothing_stays, replying
from servers import wait_for

from query_service.async_client import AsyncSearchClient
from query_service.client import SearchClient
from query_service.errors import SearchCancelled
from query_service.protocol import SearchRequest
from query_service.serving.taken_requests import RequestQueue
from query_service.transport.request_queue import CANCELLED, STREAMS, reply_key
from storage.settings import Settings
from workers.servers import connect_url


def test_a_cancelled_search_ends_at_once_for_whoever_waits(settings: Settings, redis: Any) -> None:
    request = SearchRequest.model_validate({"parts": [{"text": "a dog"}], "timeout_seconds": 120.0})
    with SearchClient(settings) as client, ThreadPoolExecutor() as threads:
        waiting = threads.submit(client.send, request)
        wait_for(lambda: redis.xlen(STREAMS["normal"]) == 1)
        client.cancel(request.request_id)
        with pytest.raises(SearchCancelled):
            waiting.result()
    assert redis.zscore(CANCELLED, request.request_id)
    redis.xtrim(STREAMS["normal"], maxlen=0)
    assert_nothing_stays(redis)


def test_a_search_that_was_sent_again_is_cancelled_by_the_id_that_its_caller_knows(
    open_client: Any, settings: Settings, redis: Any
) -> None:
    """Its connection broke, and it has another id since."""
    request = SearchRequest.model_validate({"parts": [{"text": "a dog"}], "timeout_seconds": 60.0})
    client = open_client()

    def cut_and_cancel() -> None:
        sent_again(redis)
        other.cancel(request.request_id)

    with SearchClient(settings) as other, ThreadPoolExecutor() as threads:
        cancelling = threads.submit(cut_and_cancel)
        with pytest.raises(SearchCancelled):
            client.send(request)
        cancelling.result()
    assert redis.xlen(STREAMS["normal"]) <= 1, "what was sent again is taken back"


def sent_again(redis: Any) -> None:
    """Break the connection of a search that waits, and wait until it is in the queue a second time."""
    wait_for(lambda: redis.xlen(STREAMS["normal"]) == 1)
    wait_for(lambda: redis.client_kill_filter(_type="normal", skipme=True))
    wait_for(lambda: redis.xlen(STREAMS["normal"]) == 2)


def test_cancelling_the_task_cancels_all_that_was_sent_of_the_search(settings: Settings, redis: Any) -> None:
    async def cancel_one() -> None:
        async with AsyncSearchClient(settings) as client:
            waiting = asyncio.create_task(client.search(text="a dog"))
            await asyncio.to_thread(sent_again, redis)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)

    asyncio.run(cancel_one())
    ids = {fields[b"id"] for _, fields in redis.xrange(STREAMS["normal"])}
    assert len(ids) == 2
    assert set(redis.zrange(CANCELLED, 0, -1)) == ids


def test_cancelling_the_task_cancels_the_search(settings: Settings, redis: Any) -> None:
    async def cancel_one() -> None:
        async with AsyncSearchClient(settings) as client:
            waiting = [asyncio.create_task(client.search(text=str(number))) for number in range(3)]
            while redis.xlen(STREAMS["normal"]) < 3:  # noqa: ASYNC110 - Redis has no event
                await asyncio.sleep(0.01)
            for task in waiting:
                task.cancel()
            assert [type(one) for one in await asyncio.gather(*waiting, return_exceptions=True)] == [
                asyncio.CancelledError
            ] * 3

    asyncio.run(cancel_one())
    ids = {fields[b"id"] for _, fields in redis.xrange(STREAMS["normal"])}
    assert set(redis.zrange(CANCELLED, 0, -1)) == ids
    with connect_url(settings.redis_url.get_secret_value()) as client:  # type: ignore[union-attr]
        queue = RequestQueue(client, "one", 10)
        taken = queue.read(1) or queue.read(1)
        assert [one.cancelled for one in taken] == [True] * 3
        queue.settle([(one, None) for one in taken])
    assert redis.keys("vs:reply:*") == []


@pytest.mark.parametrize("connected", [False, True])
def test_a_task_hears_of_its_cancellation_at_every_step(
    settings: Settings, redis: Any, redis_url: str, connected: bool
) -> None:
    """Also while it sends: one that is not heard leaves the search running to its deadline."""

    async def cancel_after(steps: int) -> type[Any]:
        async with AsyncSearchClient(settings, redis_url=f"{redis_url}?socket_timeout=30") as client:
            if connected:
                await client.workers()
            task = asyncio.create_task(client.search(text="a dog"))
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            return type((await asyncio.gather(task, return_exceptions=True))[0])

    for steps in range(150):
        assert asyncio.run(cancel_after(steps)) is asyncio.CancelledError, steps
    assert redis.zcard(CANCELLED) > 0


def test_a_task_that_is_cancelled_over_and_over_still_cancels_its_search(settings: Settings, redis: Any) -> None:
    """As anyio's scopes do, which cancel each further wait of a task."""

    async def cancel_one() -> None:
        async with AsyncSearchClient(settings) as client:
            task = asyncio.create_task(client.search(text="a dog"))
            while not redis.xlen(STREAMS["normal"]):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            while not task.done():
                task.cancel()
                await asyncio.sleep(0)

    asyncio.run(cancel_one())
    assert redis.zcard(CANCELLED) == 1


def test_cancelling_at_any_moment_loses_no_connection_and_mixes_up_no_answers(
    settings: Settings, redis: Any, redis_url: str
) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)

    async def ask_and_cancel() -> tuple[list[Any], int, int]:
        async with AsyncSearchClient(settings, busy_retries=9) as client:
            tasks = [asyncio.create_task(client.search(text=str(number))) for number in range(400)]
            for task in chance.sample(tasks, 200):
                await asyncio.sleep(chance.uniform(0, 0.004))
                task.cancel()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            assert (await client.search(text="after")).provenance.worker == "after"
            pool = client._connections
            assert pool is not None
            return outcomes, len(pool._free), pool._places._value

    with replying(redis_url):
        outcomes, made, places = asyncio.run(ask_and_cancel())
    for number, outcome in enumerate(outcomes):
        assert isinstance(outcome, asyncio.CancelledError) or outcome.provenance.worker == str(number)
    assert 0 < made <= places == 128
    assert_nothing_stays(redis)


def test_ctrl_c_cancels_the_search(settings: Settings, redis: Any) -> None:
    program = (
        "import sys\nfrom query_service.client import SearchClient\n"
        "from storage.settings import Settings\n"
        "settings = Settings(search_seconds=60)\n"
        f"SearchClient(settings, redis_url={settings.redis_url.get_secret_value()!r}).search(text='a dog')"  # type: ignore[union-attr]
    )
    process = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE)
    wait_for(lambda: redis.xlen(STREAMS["normal"]) == 1)
    process.send_signal(signal.SIGINT)
    assert b"KeyboardInterrupt" in process.communicate(timeout=180)[1]
    assert redis.zcard(CANCELLED) == 1


def test_a_reply_key_never_stays_even_when_the_search_was_cancelled_before_it_was_sent(
    open_client: Any, redis: Any
) -> None:
    client = open_client()
    client.cancel("0" * 32)
    assert 0 < redis.pttl(reply_key("0" * 32)) <= 10_000
    assert 0 < redis.pttl(CANCELLED) <= 600_000
