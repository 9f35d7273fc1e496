"""Clients while their server is killed, frozen, wiped, cut off, or not there at all."""

from __future__ import annotations

import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
from dripping_server import dripping
from search_replies import replying
from servers import ValkeyServer, free_port, wait_for

from query_service import async_client as async_client_module
from query_service import client as client_module
from query_service.errors import DeadlineExceeded
from query_service.transport import exchange
from query_service.transport.request_queue import STREAMS
from storage.settings import Settings
from workers.bundled_valkey import ensure_valkey, stop_valkey
from workers.errors import RedisUnavailable, RedisUnusable


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


def test_a_server_that_drips_from_any_answer_on_costs_a_search_no_more_than_its_time(
    open_client: Any, redis: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer that never ends, byte by byte: while connecting, searching, and looking for the reason."""
    monkeypatch.setattr(exchange, "_LATE_SECONDS", 0.2)
    for module in (client_module, async_client_module):
        monkeypatch.setattr(module, "REASON_SECONDS", 0.2)
    port, seen = redis.connection_pool.connection_kwargs["port"], []
    for answers in range(7):
        with dripping(port, answers) as url, pytest.raises((RedisUnavailable, DeadlineExceeded)) as ended:
            open_client(redis_url=url).search(text="a dog", timeout=0.2)
        seen.append(ended.type)
    assert seen[0] is RedisUnavailable, "it drips while it is greeted"
    assert seen[-1] is DeadlineExceeded, "it drips over the reasons, or not at all"


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
