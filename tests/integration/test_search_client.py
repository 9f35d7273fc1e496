"""Both clients against a real Valkey, where the test itself takes the searches and replies, or nobody does."""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
from servers import ValkeyServer, free_port, wait_for

from query_service import async_client as async_client_module
from query_service import client as client_module
from query_service.async_client import AsyncSearchClient
from query_service.client import SearchClient
from query_service.errors import DeadlineExceeded, SearchCancelled, ServiceBusy
from query_service.exchange import TOGETHER
from query_service.protocol import ErrorReply, Provenance, SearchAnswer, SearchReply, SearchRequest
from query_service.request_queue import CANCELLED, STREAMS, reply_key
from query_service.taken_requests import RequestQueue, Taken
from query_service.wire import pack_reply, unpack_request
from storage.errors import InvalidFilter, UnknownImageId, VisualSearchError
from storage.records import ModelIdentity
from storage.settings import Settings
from workers.bundled_valkey import ensure_valkey, stop_valkey
from workers.errors import RedisUnavailable, RedisUnusable
from workers.servers import connect_url

MODEL = ModelIdentity(name="m", revision="r", weights_fingerprint="w", preprocessing_fingerprint="p", dimension=2)
VECTOR = [1.0, 0.0]


class AsyncInLoop:
    """The async client behind the blocking one's calls, so that both keep the same promises in the same tests."""

    def __init__(self, settings: Settings, **options: Any) -> None:
        self._loop = asyncio.Runner() if hasattr(asyncio, "Runner") else None
        self._client = AsyncSearchClient(settings, **options)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)
        return lambda *args, **keywords: self._run(method(*args, **keywords))

    def _run(self, work: Any) -> Any:
        if self._loop is None:
            pytest.skip("asyncio.Runner needs Python 3.11")
        return self._loop.run(work)

    def stop(self) -> None:
        if self._loop is not None:
            self._loop.run(self._client.close())
            self._loop.close()


@pytest.fixture
def settings(tmp_path: Path, redis_url: str) -> Settings:
    return Settings(data_dir=tmp_path, redis_url=redis_url, search_seconds=60.0)


@pytest.fixture(params=["sync", "async"])
def open_client(request: Any, settings: Settings) -> Iterator[Callable[..., Any]]:
    """`open_client(**options)`: a client of either kind, closed at the end."""
    opened: list[Any] = []

    def open_one(**options: Any) -> Any:
        kind = SearchClient if request.param == "sync" else AsyncInLoop
        opened.append(kind(options.pop("settings", settings), **options))
        return opened[-1]

    yield open_one
    for one in opened:
        one.close() if isinstance(one, SearchClient) else one.stop()


@pytest.fixture
def redis(redis_url: str) -> Iterator[Any]:
    with connect_url(redis_url) as connected:
        yield connected


def answer(request: SearchRequest) -> SearchReply:
    """An answer without results, which tells by its worker's name what was asked."""
    name = request.parts[0].text or request.parts[0].image_id or "vector"
    provenance = Provenance(worker=name, model=MODEL, generation_id=1, seq=1, images=0)
    return SearchReply(
        request_id=request.request_id, answer=SearchAnswer(query_id=request.request_id, provenance=provenance)
    )


def refuse_unknown(request: SearchRequest) -> SearchReply:
    if request.parts[0].image_id is None:
        return answer(request)
    error = ErrorReply(reason="unknown_id", message="no such image")
    return SearchReply(request_id=request.request_id, error=error)


@contextmanager
def replying(url: str, reply: Callable[[SearchRequest], SearchReply] = answer, pause: float = 0.0) -> Iterator[None]:
    """Meanwhile the searches at this address get these replies, by the worker's own end of the queue."""
    stop = Event()

    def serve() -> None:
        with connect_url(url) as client:
            queue = RequestQueue(client, "test", 64)
            while not stop.is_set():
                try:
                    taken = queue.read(20)
                    time.sleep(pause if taken else 0)
                    queue.settle([(one, _reply_to(one, reply)) for one in taken])
                except (RedisUnavailable, RedisUnusable):
                    time.sleep(0.05)

    thread = Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _reply_to(one: Taken, reply: Callable[[SearchRequest], SearchReply]) -> bytes | None:
    return None if one.cancelled else pack_reply(reply(unpack_request(one.request_id, one.message)))


def assert_nothing_stays(redis: Any) -> None:
    """Every key that is not the queue itself runs out by itself within its time."""
    streams = {name.encode() for name in STREAMS.values()}
    for key in redis.keys("*"):
        assert key in streams or 0 < redis.pttl(key) <= 600_000, key
    assert [redis.xlen(name) for name in STREAMS.values()] == [0, 0, 0]


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


def test_without_a_worker_the_time_is_kept_the_reason_is_told_and_nothing_stays(open_client: Any, redis: Any) -> None:
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
    with pytest.raises(DeadlineExceeded, match="the last sign of a query worker is 100 s old"):
        client.search(text="a dog", timeout=0.05)


def test_searches_nobody_waits_for_do_not_fill_the_queue(open_client: Any, settings: Settings, redis: Any) -> None:
    client = open_client(settings=settings.model_copy(update={"search_queue": 2}))
    for _ in range(3):
        outcomes = client.search_many([{"text": "a", "timeout": 0.02}, {"text": "b", "timeout": 0.02}])
        assert [type(one) for one in outcomes] == [DeadlineExceeded, DeadlineExceeded]


def test_a_reply_that_comes_too_late_runs_out(open_client: Any, redis: Any, redis_url: str) -> None:
    client = open_client()
    with replying(redis_url, pause=0.3), pytest.raises(DeadlineExceeded):
        client.search(text="a dog", timeout=0.1)
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


def test_a_cancelled_search_ends_at_once_for_whoever_waits(settings: Settings, redis: Any) -> None:
    request = SearchRequest.model_validate({"parts": [{"text": "a dog"}], "timeout_seconds": 30.0})
    with SearchClient(settings) as client, ThreadPoolExecutor() as threads:
        waiting = threads.submit(client.send, request)
        wait_for(lambda: redis.xlen(STREAMS["normal"]) == 1)
        client.cancel(request.request_id)
        with pytest.raises(SearchCancelled):
            waiting.result()
    assert redis.zscore(CANCELLED, request.request_id)
    redis.xtrim(STREAMS["normal"], maxlen=0)
    assert_nothing_stays(redis)


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
            pool = client._pool
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
        f"SearchClient(Settings(), redis_url={settings.redis_url.get_secret_value()!r}).search(text='a dog')"  # type: ignore[union-attr]
    )
    process = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE)
    wait_for(lambda: redis.xlen(STREAMS["normal"]) == 1)
    process.send_signal(signal.SIGINT)
    assert b"KeyboardInterrupt" in process.communicate(timeout=60)[1]
    assert redis.zcard(CANCELLED) == 1


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


def test_parent_and_child_of_a_fork_both_go_on(settings: Settings, redis_url: str) -> None:
    program = (
        "import os\nfrom query_service.client import SearchClient\nfrom storage.settings import Settings\n"
        f"client = SearchClient(Settings(), redis_url={redis_url!r})\n"
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
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "both\n", done.stderr


def test_a_server_that_is_killed_and_comes_back_while_connections_are_tried_is_not_noticed(
    open_client: Any, own_valkey: Callable[..., ValkeyServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (client_module, async_client_module):
        monkeypatch.setattr(module, "RECONNECT_PAUSES_SECONDS", (0.1,) * 300)  # a busy machine starts a server slowly
    server = own_valkey()
    client = open_client(redis_url=server.url)
    with replying(server.url):
        assert client.search(text="before").provenance.worker == "before"

    def restart() -> None:
        with server.client() as inside:
            wait_for(lambda: inside.xlen(STREAMS["normal"]))
        server.kill()
        server.start()
        with replying(server.url):
            done.wait(60)

    done = Event()
    thread = Thread(target=restart)
    thread.start()
    try:
        assert client.search(text="amid").provenance.worker == "amid"
    finally:
        done.set()
        thread.join()


def test_a_connection_that_is_cut_amid_a_search_is_made_anew(open_client: Any, redis: Any, redis_url: str) -> None:
    def cut() -> None:
        wait_for(lambda: redis.xlen(STREAMS["normal"]))
        redis.client_kill_filter(_type="normal", skipme=True)
        wait_for(lambda: redis.xlen(STREAMS["normal"]) == 2)

    client = open_client()
    thread = Thread(target=cut)
    thread.start()
    with ThreadPoolExecutor() as threads:
        answered = Event()
        replies = threads.submit(_reply_after, thread, redis_url, answered)
        assert client.search(text="cut").provenance.worker == "cut"
        answered.set()
        replies.result()


def _reply_after(thread: Thread, url: str, over: Event) -> None:
    thread.join()
    with replying(url):
        over.wait(60)


def test_the_bundled_server_of_the_data_folder_is_found(open_client: Any, tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "bundled")
    url = ensure_valkey(settings)
    try:
        client = open_client(settings=settings)
        with replying(url):
            assert client.search(text="a dog").provenance.worker == "a dog"
        client.close()
    finally:
        stop_valkey(settings)
    with pytest.raises(RedisUnavailable, match="visual-search up"):
        client.search(text="a dog")


def test_a_wiped_redis_costs_the_searches_under_way_their_time_and_no_later_one(
    open_client: Any, redis: Any, redis_url: str
) -> None:
    client = open_client()

    def wipe() -> None:
        wait_for(lambda: redis.xlen(STREAMS["normal"]))
        redis.flushall()

    thread = Thread(target=wipe)
    thread.start()
    with pytest.raises(DeadlineExceeded):
        client.search(text="amid", timeout=2.0)
    thread.join()
    with replying(redis_url):
        assert client.search(text="after").provenance.worker == "after"


def test_a_frozen_server_costs_no_more_than_the_time_of_the_search_and_a_second(
    open_client: Any, own_valkey: Callable[..., ValkeyServer]
) -> None:
    server = own_valkey()
    client = open_client(redis_url=server.url)
    assert client.workers() == 0  # connects
    assert server.process is not None
    server.process.send_signal(signal.SIGSTOP)
    try:
        for image in (b"small", bytes(16 * 2**20)):  # the large one does not fit into the socket's buffers
            with pytest.raises(RedisUnavailable, match="127.0.0.1"):
                client.search(image=image, timeout=0.3)
    finally:
        server.process.send_signal(signal.SIGCONT)


def test_nobody_listening_a_wrong_password_and_another_program_are_told_without_the_password(
    open_client: Any, settings: Settings, own_valkey: Callable[..., ValkeyServer]
) -> None:
    with pytest.raises(RedisUnavailable, match="cannot be reached"):
        open_client(redis_url=f"redis://:secret@127.0.0.1:{free_port()}/0").search(text="a", timeout=20)
    server = own_valkey(password="right")
    with pytest.raises(RedisUnusable, match="refuses this user or password") as refused:
        open_client(redis_url=f"redis://:wrong@127.0.0.1:{server.port}/0").search(text="a")
    assert "wrong@" not in str(refused.value)
    with server.client() as inside:
        assert [one["count"] for one in inside.acl_log()] == [1], "no second try: it cannot help"
    with pytest.raises(RedisUnusable, match="no usable Redis address"):
        open_client(redis_url="gopher://127.0.0.1").search(text="a")
    without = Settings(data_dir=settings.data_dir)
    with pytest.raises(RedisUnavailable, match="no search service is running.*visual-search up"):
        open_client(settings=without).search(text="a")
    assert not (settings.data_dir / "valkey").exists(), "asking starts nothing"


def test_a_client_works_again_after_it_was_closed(open_client: Any, redis_url: str) -> None:
    client = open_client()
    with replying(redis_url):
        client.search(text="one")
        client.close()
        assert client.search(text="two").provenance.worker == "two"


def test_a_reply_key_never_stays_even_when_the_search_was_cancelled_before_it_was_sent(
    open_client: Any, redis: Any
) -> None:
    client = open_client()
    client.cancel("0" * 32)
    assert 0 < redis.pttl(reply_key("0" * 32)) <= 10_000
    assert 0 < redis.pttl(CANCELLED) <= 600_000
