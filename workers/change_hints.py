"""Tells query workers that a generation changed. A hint only: it may be lost, and whoever follows also polls SQL."""

from __future__ import annotations

from typing import Any

from workers.servers import redis_errors_translated


def changes_channel(generation_id: int) -> str:
    """The Redis channel on which changes of a generation are told."""
    return f"vs:changes:{generation_id}"


def announce_change(client: Any, generation_id: int, seq: int) -> None:
    """Tell that everything up to change `seq` is committed; the client is a Redis one. Raises RedisUnavailable."""
    with redis_errors_translated():
        client.publish(changes_channel(generation_id), seq)
