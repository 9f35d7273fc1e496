"""The query worker's end of the queue in Redis: takes searches, replies, takes over those of workers that died.

At least once: a search stays in its stream until the reply is written, in the same transaction. Redis may be wiped
at any moment: the consumer group is made again. Knows neither what is asked nor how it is answered.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from time import monotonic
from typing import Any

from redis import Redis
from redis.exceptions import OutOfMemoryError, ResponseError

from query_service.serving.server_clock import ServerClock
from query_service.serving.taken import Taken, taken_of
from query_service.transport.queue_scripts import CLAIM_SCRIPT, FORGET_SCRIPT, READ_SCRIPT, SETTLE_SCRIPT
from query_service.transport.request_queue import (
    CANCELLED,
    DEAD_LETTERS,
    GROUP,
    ID_FIELD,
    MESSAGE_FIELD,
    REPLY_TTL_MS,
    STREAMS,
    reply_key,
)
from workers.servers import redis_errors_translated

MAX_DELIVERIES = 3  # a search that cost so many workers is put aside
TAKE_OVER_MS = 2000  # without a sign from the worker that holds it; `renew` is that sign
MAX_DEAD_LETTERS = 1000
_MAX_DEAD_MESSAGE_BYTES = 64 * 1024  # 1000 dead letters with their pictures would fill the memory
_DEAD_CONSUMER_MS = 60_000
_BATCH_BYTES = 64 * 1024 * 1024  # of messages: about what one may have; a batch of large pictures is a small batch
_KEPT_PART = 8  # of a batch, one in so many is kept for each lower priority while higher ones fill it
_UNSURE_SECONDS = 0.05  # about the server's clock: above it, it is asked once more before a deadline is told by it
_STREAMS = tuple(STREAMS.values())


class RequestQueue:
    """Takes and settles searches for one consumer, `batch` at a time at most.

    Every method raises RedisUnavailable or RedisUnusable when the server does not answer or refuses.
    """

    def __init__(self, client: Redis, consumer: str, batch: int) -> None:
        # The client's return types depend on a protocol that is chosen at run time; ours is fixed (RESP2)
        self._redis: Any = client
        self._consumer = consumer
        self._batch = batch
        self._clock = ServerClock()

    def read(self, block_ms: int) -> list[Taken]:
        """New searches, highest priority first; waits so long for the first one when there is none."""
        kept = max(1, self._batch // _KEPT_PART) if self._batch > len(_STREAMS) else 0

        def read() -> list[Taken]:
            return self._collected(READ_SCRIPT, self._batch, kept, _BATCH_BYTES) or self._wait(block_ms)

        return self._with_groups(read)

    def take_over(self, held: Sequence[Taken] = ()) -> list[Taken]:
        """Searches that their worker has left, as a rule because it died; [] when there are none.

        Those that were left once come together. One that was left again comes alone: it may be what kills workers,
        and is not to take the others with it. What is `held` here is not left, however long this process was frozen.
        """
        mine = {(one.stream, one.entry) for one in held}

        def take_over() -> list[Taken]:
            left = [one for one in self._left_behind() if one[:2] not in mine]
            once = [one for one in left if one[2] == 1]
            return self._claim(once[: self._batch] or sorted(left, key=lambda one: one[2])[:1])

        return self._with_groups(take_over)

    def renew(self, held: Sequence[Taken]) -> None:
        """Say that these are still being worked on; not of those whose time is over: they may be what we hang in."""
        now = monotonic()
        with redis_errors_translated(), self._redis.pipeline(transaction=False) as pipeline:
            for stream in _STREAMS:
                entries = [one.entry for one in held if one.stream == stream and one.ends_at > now]
                if entries:
                    pipeline.xclaim(stream, GROUP, self._consumer, 0, entries, justid=True)
            pipeline.execute()

    def hand_back(self, held: Sequence[Taken]) -> None:
        """We end, and have not answered these: from now on others may take them over, without waiting for our sign."""
        with redis_errors_translated(), self._redis.pipeline(transaction=False) as pipeline:
            for one in held:
                silent = {"idle": TAKE_OVER_MS + 1, "justid": True}
                pipeline.xclaim(one.stream, GROUP, self._consumer, 0, [one.entry], **silent)
            pipeline.execute()

    def settle(self, replies: Sequence[tuple[Taken, bytes | None]]) -> None:
        """Write the replies (None: nobody waits) and forget the searches, all in one step.

        A server that is full takes no reply: then the searches go first, whose memory the replies may use.
        """
        with redis_errors_translated():
            try:
                keys = (*_STREAMS, CANCELLED, *(reply_key(taken.request_id) for taken, _ in replies))
                settled = [part for taken, reply in replies for part in _settled(taken, reply)]
                self._redis.eval(SETTLE_SCRIPT, len(keys), *keys, GROUP, REPLY_TTL_MS, *settled)
            except OutOfMemoryError:
                with self._redis.pipeline(transaction=False) as pipeline:
                    for taken, _ in replies:
                        _forget(pipeline, taken)
                    for taken, reply in replies:
                        _reply(pipeline, taken, reply)
                    pipeline.execute()

    def dead_letter(self, taken: Taken, reason: str, reply: bytes | None) -> None:
        """Put a search aside for people to look at, without its message where that is large, and reply."""
        letter: dict[str, Any] = {"entry": taken.entry, ID_FIELD: taken.request_id, "reason": reason}
        letter |= {"bytes": len(taken.message), MESSAGE_FIELD: taken.message[:_MAX_DEAD_MESSAGE_BYTES]}
        with redis_errors_translated(), self._redis.pipeline(transaction=True) as pipeline:
            pipeline.xadd(DEAD_LETTERS, letter, maxlen=MAX_DEAD_LETTERS, approximate=False)
            _forget(pipeline, taken)
            _reply(pipeline, taken, reply)
            pipeline.execute()

    def forget_dead_consumers(self) -> None:
        """Forget the names of workers of the past that hold nothing."""
        with redis_errors_translated(), self._redis.pipeline(transaction=False) as pipeline:
            for stream in _STREAMS:
                pipeline.eval(FORGET_SCRIPT, 1, stream, GROUP, _DEAD_CONSUMER_MS)
            pipeline.execute(raise_on_error=False)  # without a group there is nobody to forget

    def _with_groups(self, take: Callable[[], list[Taken]]) -> list[Taken]:
        """What `take` gives; nothing, this time, where the groups had to be made first."""
        with redis_errors_translated():
            try:
                return take()
            except ResponseError as error:
                if not any(word in str(error) for word in ("NOGROUP", "UNBLOCKED", "no longer exists")):
                    raise
                self._make_groups()
                return []

    def _collected(
        self, script: str, *arguments: int | str | bytes, deliveries: Mapping[str, int] | None = None
    ) -> list[Taken]:
        keys = (*_STREAMS, CANCELLED)
        asked = monotonic()
        found, moment, cancelled = self._redis.eval(script, len(keys), *keys, GROUP, self._consumer, *arguments)
        return self._understood(found, (asked, moment), cancelled, deliveries)

    def _wait(self, block_ms: int) -> list[Taken]:
        """The first of each stream at most: others that come with it may be large, and are read next."""
        with self._redis.pipeline(transaction=False) as pipeline:
            pipeline.xreadgroup(GROUP, self._consumer, dict.fromkeys(_STREAMS, ">"), count=1, block=block_ms)
            pipeline.time()
            asked = monotonic()
            found, moment = pipeline.execute()
        return self._understood(found or [], (asked, moment), [])

    def _understood(
        self,
        found: Sequence[Any],
        looked: tuple[float, Sequence[Any]],
        cancelled: Sequence[bytes],
        deliveries: Mapping[str, int] | None = None,
    ) -> list[Taken]:
        """What Redis gave; `looked`: our time when it was asked, and its own when it answered."""
        (asked, moment), told = looked, monotonic()
        self._clock.looked(asked, _in_seconds(moment), told)
        if any(some for _, some in found) and self._clock.unsure_seconds > _UNSURE_SECONDS:
            self._look_at_the_clock()
        nobody_waits = {name.decode(errors="replace") for name in cancelled}
        taken = [
            taken_of(_text(stream), entry, raw, (self._clock, told)) for stream, some in found for entry, raw in some
        ]
        return [
            replace(one, cancelled=one.request_id in nobody_waits, deliveries=(deliveries or {}).get(one.entry, 1))
            for one in taken
        ]

    def _look_at_the_clock(self) -> None:
        asked = monotonic()
        moment = self._redis.time()
        self._clock.looked(asked, _in_seconds(moment), monotonic())

    def _left_behind(self) -> list[tuple[str, str, int]]:
        """Stream, entry, deliveries of what gave no sign for long."""
        with self._redis.pipeline(transaction=False) as pipeline:
            for stream in _STREAMS:
                pipeline.xpending_range(stream, GROUP, min="-", max="+", count=4 * self._batch, idle=TAKE_OVER_MS)
            answers = pipeline.execute()
        return [
            (stream, row["message_id"].decode(), int(row["times_delivered"]))
            for stream, rows in zip(_STREAMS, answers, strict=True)
            for row in rows
        ]

    def _claim(self, wanted: Sequence[tuple[str, str, int]]) -> list[Taken]:
        """Another worker may be quicker: what it has got comes not to us."""
        if not wanted:
            return []
        entries = [part for stream, entry, _ in wanted for part in (_STREAMS.index(stream) + 1, entry)]
        deliveries = {entry: count + 1 for _, entry, count in wanted}
        return self._collected(CLAIM_SCRIPT, TAKE_OVER_MS, _BATCH_BYTES, *entries, deliveries=deliveries)

    def _make_groups(self) -> None:
        for stream in _STREAMS:
            try:
                self._redis.xgroup_create(stream, GROUP, id="0", mkstream=True)
            except ResponseError as error:
                if not str(error).startswith("BUSYGROUP"):  # it is there: another worker was quicker
                    raise


def _settled(taken: Taken, reply: bytes | None) -> tuple[int | str | bytes, ...]:
    """One search as the script wants it."""
    wanted = reply if reply is not None and taken.request_id else b""
    return _STREAMS.index(taken.stream) + 1, taken.entry, wanted, taken.request_id if taken.cancelled else ""


def _forget(pipeline: Any, taken: Taken) -> None:
    pipeline.xack(taken.stream, GROUP, taken.entry)
    pipeline.xdel(taken.stream, taken.entry)
    if taken.cancelled:
        pipeline.zrem(CANCELLED, taken.request_id)


def _reply(pipeline: Any, taken: Taken, reply: bytes | None) -> None:
    if reply is not None and taken.request_id:
        pipeline.rpush(reply_key(taken.request_id), reply)
        pipeline.pexpire(reply_key(taken.request_id), REPLY_TTL_MS)


def _text(name: str | bytes) -> str:
    return name if isinstance(name, str) else name.decode()


def _in_seconds(moment: Sequence[Any]) -> float:
    """What TIME gives: seconds and microseconds."""
    return int(moment[0]) + int(moment[1]) / 1e6
