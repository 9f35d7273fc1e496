"""Connections to Redis for asyncio: a pool of them, and one round of commands on one.

Knows redis-py's connections, and neither searches nor keys.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from importlib import import_module
from time import monotonic
from typing import Any, TypeVar, cast

import redis.asyncio
from redis import exceptions
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from query_service.transport.exchange import Command
from query_service.transport.service_place import POOL_OPTIONS
from workers.errors import RedisUnusable
from workers.servers import redis_errors_translated

_Made = TypeVar("_Made")

# asyncio's own since Python 3.11; before, the package that redis-py needs there. `wait_for` can swallow a cancellation
_timeout: Any = getattr(asyncio, "timeout", None) or import_module("async_timeout").timeout

_MOST_CONNECTIONS = 128  # one for each search under way; more of them wait for one, within their time


class AsyncConnections:
    """Connections to one server, kept for the next search; at most `_MOST_CONNECTIONS` are in use.

    A pool of our own, since a task may be cancelled anywhere: redis-py's waits while it takes a connection back, and
    loses it when the task is cancelled just then.
    """

    def __init__(self, url: str, place: str, *, kept: bool = True) -> None:
        """`place` names the server without its password. Without `kept` each is closed once it is free.

        Raises RedisUnusable.
        """
        options = cast("dict[str, Any]", POOL_OPTIONS)
        try:
            self._maker: Any = redis.asyncio.ConnectionPool.from_url(url, retry=Retry(NoBackoff(), 0), **options)
        except (ValueError, TypeError) as error:
            raise RedisUnusable(f"{place} is no usable Redis address: {error}") from error
        # `in_time` limits reads and writes; with a limit of its own, also the URL's, redis-py writes under `wait_for`
        self._maker.connection_kwargs["socket_timeout"] = None
        self.place = place
        self._free: list[Any] = []
        self._places = asyncio.Semaphore(_MOST_CONNECTIONS)
        self._closed = not kept

    @asynccontextmanager
    async def one(self, seconds: float) -> AsyncIterator[Any]:
        """A connection, within so many seconds; whatever goes wrong in the block, no answers are left unread on it.

        Raises redis-py's errors when it cannot be had.
        """
        ends = monotonic() + seconds
        await in_time(self._places.acquire(), seconds)
        connection = self._free.pop() if self._free else self._maker.make_connection()
        try:
            await in_time(self._maker.ensure_connection(connection), ends - monotonic())
            yield connection
            if self._closed:
                await connection.disconnect()
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        finally:  # nothing is waited for here
            self._free.append(connection)
            self._places.release()

    async def told(self, commands: Sequence[Command], seconds: float) -> list[Any]:
        """The answers to commands that are answered at once. Raises RedisUnavailable, RedisUnusable."""
        if not commands:
            return []
        ends = monotonic() + seconds
        with redis_errors_translated(self.place):
            async with self.one(seconds) as connection:
                return await in_time(pipelined(connection, commands), ends - monotonic())

    async def close(self) -> None:
        """Close those that are free now, and the others once they are."""
        self._closed = True
        free, self._free = self._free, []  # so that nobody gets one that is being closed
        for connection in free:
            await connection.disconnect()


async def pipelined(connection: Any, commands: Sequence[Command]) -> list[Any]:
    """Send all, then read all; the caller limits the time."""
    await connection.send_packed_command(connection.pack_commands(commands))
    return [await connection.read_response() for _ in commands]


async def in_time(work: Awaitable[_Made], seconds: float) -> _Made:
    """What comes of the work. Raises redis-py's TimeoutError when it takes longer than that."""
    try:
        async with _timeout(seconds):
            return await work
    except asyncio.TimeoutError as error:
        raise exceptions.TimeoutError("it did not answer in time") from error
