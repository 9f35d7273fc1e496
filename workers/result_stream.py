"""The Redis stream of finished batches, from embed workers to the aggregator, and its dead letters.

At least once: an entry stays until it is acknowledged, and is deleted then; it is never trimmed by length. Redis may
be wiped at any moment: the consumer group is made again, and what was lost is queued again by the sweeper.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from time import sleep
from typing import Any

from redis import Redis
from redis.exceptions import ResponseError

from storage.catalog import BatchResult
from workers.errors import BatchInterrupted
from workers.servers import redis_errors_translated
from workers.wire import Fields, pack

STREAM = "vs:results"
GROUP = "aggregator"
DEAD_LETTERS = "vs:results:dead"
MAX_DEAD_LETTERS = 1000  # each up to a few 100 KiB: for a person to look at, not to fill the memory

_FULL_POLL_SECONDS = 0.05

Message = tuple[str, Fields]  # the entry's id, and what `wire.unpack` reads


def _always() -> bool:
    return True


class ResultStream:
    """Both ends of the stream. `bound` finished batches may wait; a few more when workers publish at once.

    Every method raises RedisUnavailable when the server does not answer.
    """

    def __init__(self, client: Redis, bound: int) -> None:
        # The client's return types depend on a protocol that is chosen at run time; ours is fixed (RESP2)
        self._redis: Any = client
        self._bound = bound

    # -- the workers' end --

    def publish(self, result: BatchResult, keep_waiting: Callable[[], bool] = _always) -> str:
        """Add one finished batch and return its id; wait while the stream is full.

        Raises WireError for what cannot be sent, BatchInterrupted when `keep_waiting` says no meanwhile.
        """
        fields = pack(result)
        while self.length() >= self._bound:
            if not keep_waiting():
                raise BatchInterrupted(f"stopped while batch {result.batch_id} waited for room in the stream")
            sleep(_FULL_POLL_SECONDS)
        with redis_errors_translated():
            entry: bytes = self._redis.xadd(STREAM, dict(fields))
        return entry.decode()

    def length(self) -> int:
        """How many finished batches are not acknowledged yet."""
        with redis_errors_translated():
            return int(self._redis.xlen(STREAM))

    # -- the aggregator's end --

    def read(self, consumer: str, count: int, block_ms: int) -> list[Message]:
        """Up to `count` new messages for this consumer; waits up to `block_ms` (at most 20,000) for the first."""
        block = None if block_ms <= 0 else min(block_ms, 20_000)  # to Redis, 0 would mean to wait for ever
        answer = self._in_group(
            lambda: self._redis.xreadgroup(GROUP, consumer, {STREAM: ">"}, count=count, block=block), []
        )
        return _messages(answer[0][1]) if answer else []

    def reclaim(self, consumer: str, min_idle_ms: int, count: int = 64) -> list[Message]:
        """Take over messages that some consumer, perhaps a dead one, has held for so long without acknowledging."""
        answer = self._in_group(
            lambda: self._redis.xautoclaim(STREAM, GROUP, consumer, min_idle_ms, start_id="0-0", count=count),
            [b"0-0", []],
        )
        return _messages(answer[1])

    def deliveries(self, ids: Sequence[str]) -> dict[str, int]:
        """How often each of these unacknowledged messages was delivered; an unknown one is left out."""
        counts: dict[str, int] = {}
        for entry in ids:
            ask = partial(self._redis.xpending_range, STREAM, GROUP, min=entry, max=entry, count=1)
            for row in self._in_group(ask, []):
                counts[entry] = int(row["times_delivered"])
        return counts

    def acknowledge(self, ids: Sequence[str]) -> None:
        """The messages are committed: forget them."""
        if ids:
            with redis_errors_translated(), self._redis.pipeline(transaction=True) as pipeline:
                pipeline.xack(STREAM, GROUP, *ids)
                pipeline.xdel(STREAM, *ids)
                pipeline.execute()

    def dead_letter(self, entry: str, fields: Fields, reason: str) -> None:
        """Put a message aside with the reason, and acknowledge it; the oldest of 1,000 dead letters gives way."""
        letter = {**fields, b"entry": entry.encode(), b"reason": reason.encode("utf-8", "backslashreplace")}
        with redis_errors_translated(), self._redis.pipeline(transaction=True) as pipeline:
            pipeline.xadd(DEAD_LETTERS, letter, maxlen=MAX_DEAD_LETTERS, approximate=False)
            pipeline.xack(STREAM, GROUP, entry)
            pipeline.xdel(STREAM, entry)
            pipeline.execute()

    def dead_letters(self, count: int = 100) -> list[Message]:
        """The newest dead letters, newest first; `reason` and `entry` stand among their fields."""
        with redis_errors_translated():
            return _messages(self._redis.xrevrange(DEAD_LETTERS, count=count))

    def remove_idle_consumers(self, idle_ms: int) -> int:
        """Forget consumers of the past that hold nothing; one that holds messages is left to `reclaim`."""
        consumers = self._in_group(lambda: self._redis.xinfo_consumers(STREAM, GROUP), [])
        idle = [one["name"] for one in consumers if one["pending"] == 0 and one["idle"] >= idle_ms]
        for name in idle:
            with redis_errors_translated():
                self._redis.xgroup_delconsumer(STREAM, GROUP, name)
        return len(idle)

    def _in_group(self, command: Callable[[], Any], when_missing: Any) -> Any:
        """Run the command; where the group is missing (a new or a wiped Redis), make it from the stream's beginning."""
        with redis_errors_translated():
            try:
                return command()
            except ResponseError as error:
                if not str(error).startswith(("NOGROUP", "no such key")):
                    raise
            self._make_group()
            return when_missing

    def _make_group(self) -> None:
        try:
            self._redis.xgroup_create(STREAM, GROUP, id="0", mkstream=True)
        except ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):  # another aggregator was quicker
                raise


def _messages(entries: Sequence[tuple[bytes, Mapping[bytes, bytes] | None]]) -> list[Message]:
    """An entry that was deleted while it was pending comes without fields: there is nothing left to do for it."""
    return [(entry.decode(), fields) for entry, fields in entries if fields]
