"""Blocking connections to Redis: a pool of them, and one round of commands on one.

Knows redis-py's connections, and neither searches nor keys.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from time import monotonic
from typing import Any, cast

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from query_service.transport.exchange import Command
from query_service.transport.service_place import POOL_OPTIONS
from workers.errors import RedisUnusable

_MOST_CONNECTIONS = 1000  # one for each thread that waits
_GREETING_SECONDS = 2.0  # for a new connection's first words; all later ones have a time of their own


def pool_of(url: str, place: str) -> Any:
    """A pool that connects when it is first used; `place` names it without its password. Raises RedisUnusable."""
    try:
        return redis.ConnectionPool.from_url(
            url,
            max_connections=_MOST_CONNECTIONS,
            socket_timeout=_GREETING_SECONDS,
            retry=Retry(NoBackoff(), 0),
            **cast("dict[str, Any]", POOL_OPTIONS),
        )
    except (ValueError, TypeError) as error:
        raise RedisUnusable(f"{place} is no usable Redis address: {error}") from error


def pipelined(connection: Any, commands: Sequence[Command], seconds: float) -> list[Any]:
    """Send all, then read all. redis-py's own pipeline has one time limit for every read, and retries by itself."""
    end = monotonic() + seconds
    connection.update_current_socket_timeout(seconds)  # a server that reads nothing would hold up the sending
    connection.send_packed_command(connection.pack_commands(commands))
    return [connection.read_response(timeout=max(0.001, end - monotonic())) for _ in commands]


@contextmanager
def connection_of(pool: Any) -> Iterator[Any]:
    """One connection of the pool; whatever goes wrong with it, it is not used again with answers left unread."""
    connection = pool.get_connection()
    try:
        yield connection
    except BaseException:
        connection.disconnect()
        raise
    finally:
        pool.release(connection)
