"""One client for many threads, tasks and processes, also while it is closed."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from search_replies import replying
from servers import wait_for

from query_service.async_client import AsyncSearchClient
from query_service.client import SearchClient
from query_service.errors import DeadlineExceeded
from query_service.protocol import SearchAnswer
from query_service.transport.request_queue import STREAMS
from storage.settings import Settings
from workers.errors import RedisUnavailable


def test_many_threads_share_one_client(settings: Settings, redis_url: str) -> None:
    with SearchClient(settings) as client, replying(redis_url), ThreadPoolExecutor(32) as threads:
        names = [str(number) for number in range(400)]
        told = list(threads.map(lambda name: client.search(text=name).provenance.worker, names))
    assert told == names


def test_many_tasks_share_one_client_and_wait_for_a_connection(settings: Settings, redis_url: str) -> None:
    async def ask() -> list[str]:
        async with AsyncSearchClient(settings, busy_retries=8) as client:
            answers = await asyncio.gather(*(client.search(text=str(number)) for number in range(300)))
            return [one.provenance.worker for one in answers]

    with replying(redis_url):
        assert asyncio.run(ask()) == [str(number) for number in range(300)]


def test_closing_amid_a_search_leaves_it_its_answer_and_no_connection(settings: Settings, redis: Any) -> None:
    others = {one["id"] for one in redis.client_list()}
    client = SearchClient(settings)
    with ThreadPoolExecutor() as threads:
        waiting = threads.submit(client.search, text="a dog")
        wait_for(lambda: redis.xlen(STREAMS["normal"]) == 1)
        client.close()
        with replying(settings.redis_url.get_secret_value()):  # type: ignore[union-attr]
            assert waiting.result().provenance.worker == "a dog"
    assert {one["id"] for one in redis.client_list()} <= others


def test_closing_amid_searches_of_tasks_leaves_them_their_answers(settings: Settings, redis: Any) -> None:
    others = {one["id"] for one in redis.client_list()}

    async def close_amid() -> list[SearchAnswer]:
        client = AsyncSearchClient(settings)
        waiting = [asyncio.create_task(client.search(text="a dog")) for _ in range(3)]
        while redis.xlen(STREAMS["normal"]) < 3:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await client.close()
        with replying(settings.redis_url.get_secret_value()):  # type: ignore[union-attr]
            return await asyncio.gather(*waiting)

    assert len(asyncio.run(close_amid())) == 3
    assert {one["id"] for one in redis.client_list()} <= others


def test_closing_amid_a_search_that_nobody_answers_leaves_no_connection(settings: Settings, redis: Any) -> None:
    """It looks for the reason when its client is closed already."""
    others = {one["id"] for one in redis.client_list()}
    client = SearchClient(settings)
    with ThreadPoolExecutor() as threads:
        waiting = threads.submit(client.search, text="a dog", timeout=1.0)
        wait_for(lambda: redis.xlen(STREAMS["normal"]) == 1 or waiting.done())
        client.close()
        assert isinstance(waiting.exception(), DeadlineExceeded)
    wait_for(lambda: {one["id"] for one in redis.client_list()} <= others, seconds=20)


@pytest.mark.parametrize("cancelled", [False, True])
def test_closing_at_any_step_of_a_task_that_searches_leaves_no_connection(
    settings: Settings, redis: Any, cancelled: bool
) -> None:
    """Also when it looks for the reason, or says goodbye, after the client was closed."""

    async def close_after(client: AsyncSearchClient, steps: int) -> None:
        task = asyncio.create_task(client.search(text="a dog", timeout=0.02))
        for _ in range(steps):
            await asyncio.sleep(0)
        if cancelled:
            task.cancel()
        await client.close()
        (outcome,) = await asyncio.gather(task, return_exceptions=True)
        assert isinstance(outcome, asyncio.CancelledError | DeadlineExceeded | RedisUnavailable)
        await asyncio.gather(*client._farewells)

    async def close_after_each_number_of_steps() -> None:
        for steps in range(1, 40):
            client = AsyncSearchClient(settings)
            await close_after(client, steps)
            await close_after(client, steps)  # one that is closed can be used again
            assert client._connections is None, steps

    others = {one["id"] for one in redis.client_list()}
    asyncio.run(close_after_each_number_of_steps())
    wait_for(lambda: {one["id"] for one in redis.client_list()} <= others, seconds=20)


def test_parent_and_child_of_a_fork_both_go_on(settings: Settings, redis_url: str) -> None:
    program = (
        "import os\nfrom query_service.client import SearchClient\nfrom storage.settings import Settings\n"
        f"client = SearchClient(Settings(search_seconds=60), redis_url={redis_url!r})\n"
        "client.search(text='before')\n"
        "pid = os.fork()\n"
        "name = 'parent' if pid else 'child'\n"
        "for number in range(50):\n"
        "    text = f'{name}-{number}'\n"
        "    assert client.search(text=text).provenance.worker == text\n"
        "if pid == 0:\n    os._exit(0)\n"
        "assert os.waitpid(pid, 0)[1] == 0\nprint('both')"
    )
    with replying(redis_url):
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300, check=False)
    assert done.stdout == "both\n", done.stderr
