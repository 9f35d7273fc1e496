"""Tells query workers that a generation changed. A hint only: it may be lost, and whoever follows also polls SQL."""

from __future__ import annotations

import logging
from collections.abc import Callable
from threading import Event
from typing import Any

from workers.errors import RedisUnavailable, RedisUnusable
from workers.servers import redis_errors_translated

_CHANNELS = "vs:changes:*"
_LISTEN_SECONDS = 0.5  # how long a listener takes to notice that it is to stop
_RETRY_SECONDS = 1.0

_log = logging.getLogger(__name__)


def changes_channel(generation_id: int) -> str:
    """The Redis channel on which changes of a generation are told."""
    return f"vs:changes:{generation_id}"


def announce_change(client: Any, generation_id: int, seq: int) -> None:
    """Tell that everything up to change `seq` is committed; the client is a Redis one. Raises RedisUnavailable."""
    with redis_errors_translated():
        client.publish(changes_channel(generation_id), seq)


def hear_changes(client: Any, heard: Callable[[], None], stop: Event) -> None:
    """Call `heard` at each change that is told, of any generation, until told to stop; for a thread of its own.

    While Redis is away nothing is heard, which harms nobody.
    """
    while not stop.is_set():
        try:
            with redis_errors_translated(), client.pubsub(ignore_subscribe_messages=True) as listener:
                listener.psubscribe(_CHANNELS)
                while not stop.is_set():
                    if listener.get_message(timeout=_LISTEN_SECONDS) is not None:
                        heard()
        except (RedisUnavailable, RedisUnusable) as error:
            _log.debug("no hints of changes: %s", error)
            stop.wait(_RETRY_SECONDS)
