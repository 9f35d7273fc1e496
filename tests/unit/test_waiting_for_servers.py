"""Waiting at the start for servers that are away: tried again while that can help, and no longer."""

from __future__ import annotations

import logging
from threading import Event, Timer

import pytest

from query_service.serving import waiting_for_servers
from query_service.serving.waiting_for_servers import opened_when_there
from workers.errors import RedisUnavailable, RedisUnusable


def test_a_server_that_comes_is_waited_for_and_the_log_says_so_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting_for_servers, "_FIRST_PAUSE_SECONDS", 0.01)
    failures = [RedisUnavailable("refused"), RedisUnavailable("loading")]

    def connect() -> str:
        if failures:
            raise failures.pop(0)
        return "connected"

    with caplog.at_level(logging.WARNING):
        assert opened_when_there(connect, "Redis", Event()) == "connected"
    assert [record.getMessage() for record in caplog.records] == ["waiting for Redis: refused"]


def test_what_no_retry_can_help_is_raised_at_once() -> None:
    def connect() -> str:
        raise RedisUnusable("wrong password")

    with pytest.raises(RedisUnusable, match="wrong password"):
        opened_when_there(connect, "Redis", Event())


def test_waiting_ends_when_the_worker_is_told_to_stop() -> None:
    def connect() -> str:
        raise RedisUnavailable("refused")

    stop = Event()
    timer = Timer(0.1, stop.set)
    timer.start()
    assert opened_when_there(connect, "Redis", stop) is None
    timer.join()
