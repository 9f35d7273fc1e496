"""The web server (uvicorn) as this project runs it: stopped by an event, and patient with slow clients for so long."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from socket import socket
from threading import Event
from typing import Any

import h11
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from workers.machine.stopping import GRACE_SECONDS

HEAD_SECONDS = 10.0  # for the first line and the headers of a request; uvicorn alone would wait for ever
_KEEP_ALIVE_SECONDS = 15  # an idle connection is kept so long
_LAST_SECONDS = 0.5  # for requests that were cancelled, to end
_MOST_HEAD_BYTES = 64 * 1024  # more is 400; filters and ids travel in addresses
_MOST_CONNECTIONS = 1000  # more get 503


class PatientProtocol(H11Protocol):
    """uvicorn's connection, closed when the head of a request does not come in time."""

    _head: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self._watch_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget_head()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """What is wrong may also be the body of a request that is being answered: then its reply is all there is."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.transport.close()
        else:
            super().send_400_response(msg)

    def _watch_head(self) -> None:
        idle = self.timeout_keep_alive_task is not None  # between two requests, with a time of its own
        if idle or self.conn.their_state is not h11.IDLE or self.transport.is_closing():
            self._forget_head()
        elif self._head is None:
            self._head = self.loop.call_later(HEAD_SECONDS, self._too_slow)

    def _forget_head(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None

    def _too_slow(self) -> None:
        self._head = None
        self.transport.close()


class _Server(uvicorn.Server):
    """Leaves the signals to the role's process, and ends when that says so."""

    def __init__(self, config: uvicorn.Config, stop: Event) -> None:
        super().__init__(config)
        self._stop = stop

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def on_tick(self, counter: int) -> bool:
        return await super().on_tick(counter) or self._stop.is_set()


def serve(app: FastAPI, sockets: Sequence[socket], stop: Event) -> None:
    """Serve until told to stop; requests under way then have some seconds to end."""
    config = uvicorn.Config(
        app,
        http=PatientProtocol,
        loop="asyncio",
        ws="none",
        log_config=None,
        log_level="warning",
        access_log=False,
        proxy_headers=False,  # nothing here depends on what a proxy says, so nobody gains by forging it
        server_header=False,
        h11_max_incomplete_event_size=_MOST_HEAD_BYTES,
        limit_concurrency=_MOST_CONNECTIONS,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=int(GRACE_SECONDS),
    )
    _run(_Server(config, stop).serve(list(sockets)))


def _run(serving: Coroutine[Any, Any, None]) -> None:
    """As `asyncio.run`, which would wait without end for what hangs in a thread: a server that is silent, as a rule."""
    loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(serving)
        loop.run_until_complete(_ended(asyncio.all_tasks(loop)))
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()


async def _ended(tasks: Collection[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=_LAST_SECONDS)
