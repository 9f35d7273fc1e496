"""Blocking connections to Redis: those of one client, and one round of commands on one of them.

Knows redis-py's connections, and neither searches nor keys.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from time import monotonic
from typing import Any, cast

import redis
from redis import exceptions
from redis.backoff import NoBackoff
from redis.retry import Retry

from query_service.transport.exchange import Command
from query_service.transport.service_place import CONNECT_SECONDS, POOL_OPTIONS
from workers.errors import RedisUnusable
from workers.servers import redis_errors_translated

_SHORTEST_SECONDS = 0.001  # 0 would not wait for anything


class Connections:
    """Connections to one server, kept for the next search. Threads may share them, and after a fork both processes.

    Not redis-py's pool: it connects before it can be told how long that may take.
    """

    def __init__(self, url: str, place: str) -> None:
        """Connects when first used; `place` names the server without its password. Raises RedisUnusable."""
        try:
            options = cast("dict[str, Any]", POOL_OPTIONS)
            maker: Any = redis.ConnectionPool.from_url(url, retry=Retry(NoBackoff(), 0), **options)
        except (ValueError, TypeError) as error:
            raise RedisUnusable(f"{place} is no usable Redis address: {error}") from error
        self._kind: Any = type("_Connection", (_InTime, maker.connection_class), {})
        self._options = maker.connection_kwargs
        self.place = place
        self._free: list[Any] = []  # taking one and giving it back are one step each, so that threads need no lock
        self._process = os.getpid()
        self._closed = False

    @contextmanager
    def one(self, seconds: float) -> Iterator[Any]:
        """A connection, within so many seconds; whatever goes wrong in the block, no answers are left unread on it.

        Raises redis-py's errors when it cannot be had.
        """
        connection = self._taken()
        try:
            connection.ends = monotonic() + seconds
            _connect(connection)
            yield connection
        except BaseException:
            connection.disconnect()
            raise
        finally:
            self._give_back(connection)

    def told(self, commands: Sequence[Command], seconds: float) -> list[Any]:
        """The answers to commands that are answered at once. Raises RedisUnavailable, RedisUnusable."""
        if not commands:
            return []
        with redis_errors_translated(self.place), self.one(seconds) as connection:
            return pipelined(connection, commands, connection.ends - monotonic())

    def close(self) -> None:
        """Close those that are free now, and the others once they are."""
        self._closed = True
        for connection in self._all_free():
            connection.disconnect()

    def _taken(self) -> Any:
        if self._process != os.getpid():  # those of the process that forked us are not ours to speak on
            self._free, self._process = [], os.getpid()
        try:
            return self._free.pop()
        except IndexError:
            return self._kind(**self._options)

    def _give_back(self, connection: Any) -> None:
        self._free.append(connection)
        if self._closed:  # also when that was told just now
            for one in self._all_free():
                one.disconnect()

    def _all_free(self) -> Iterator[Any]:
        while self._free:
            try:
                yield self._free.pop()
            except IndexError:  # another thread was quicker
                return


def pipelined(connection: Any, commands: Sequence[Command], seconds: float) -> list[Any]:
    """Send all, then read all, within so many seconds. redis-py's own pipeline limits each read, and not their sum."""
    connection.ends = monotonic() + seconds
    connection.send_packed_command(connection.pack_commands(commands))
    return [connection.read_response() for _ in commands]


def _connect(connection: Any) -> None:
    """Connect, unless it is connected; one that was closed meanwhile, or on which something lies, is made anew."""
    connection.connect()
    try:
        used_up = connection.can_read()
    except (exceptions.ConnectionError, exceptions.TimeoutError, OSError):
        used_up = True
    if used_up:
        connection.disconnect()
        connection.connect()


class _InTime:
    """What is added to redis-py's connections: everything on one, connecting included, ends at `ends`."""

    ends = 0.0  # by `monotonic`

    def _connect(self) -> Any:
        self.socket_connect_timeout = max(_SHORTEST_SECONDS, min(CONNECT_SECONDS, self.ends - monotonic()))
        return _SocketInTime(super()._connect(), self)  # type: ignore[misc]  # the connection's, which stands behind


class _SocketInTime:
    """A socket whose sending and receiving end with its connection's time, however slowly the other side drips."""

    def __init__(self, socket: Any, connection: _InTime) -> None:
        self._socket = socket
        self._connection = connection

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)

    def sendall(self, data: bytes) -> None:
        self._limit()
        self._socket.sendall(data)

    def recv(self, *arguments: Any) -> Any:
        self._limit()
        return self._socket.recv(*arguments)

    def recv_into(self, *arguments: Any) -> Any:
        self._limit()
        return self._socket.recv_into(*arguments)

    def _limit(self) -> None:
        if self._socket.gettimeout() == 0:  # it is only asked what has come already
            return
        left = self._connection.ends - monotonic()
        if left <= 0:
            raise TimeoutError("its time is over")
        self._socket.settimeout(left)
