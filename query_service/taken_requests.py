"""The query worker's end of the queue in Redis: takes searches, replies, takes over those of workers that died.

At least once: a search stays in its stream until the reply is written, in the same transaction. Redis may be wiped
at any moment: the consumer group is made again. Knows neither what is asked nor how it is answered.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any

from redis import Redis
from redis.exceptions import ResponseError

from query_service.request_queue import (
    CANCELLED,
    DEAD_LETTERS,
    GROUP,
    ID_FIELD,
    MESSAGE_FIELD,
    REPLY_TTL_MS,
    STREAMS,
    TIMEOUT_FIELD,
    reply_key,
)
from workers.servers import redis_errors_translated

MAX_DELIVERIES = 3  # a search that cost so many workers is put aside
TAKE_OVER_MS = 2000  # without a sign from the worker that holds it; `renew` is that sign
MAX_DEAD_LETTERS = 1000
_MAX_DEAD_MESSAGE_BYTES = 64 * 1024  # 1000 dead letters with their pictures would fill the memory
_DEAD_CONSUMER_MS = 60_000
_STREAMS = tuple(STREAMS.values())
_REQUEST_ID = re.compile(rb"[0-9a-f]{32}")
_TIMEOUT = re.compile(rb"[0-9]{1,9}")

# KEYS: the streams, highest priority first, then the cancelled ids. ARGV: group, consumer, count.
_READ_SCRIPT = f"""
local left, found = tonumber(ARGV[3]), {{}}
for stream = 1, {len(_STREAMS)} do
  if left > 0 then
    local read = redis.call('XREADGROUP', 'GROUP', ARGV[1], ARGV[2], 'COUNT', left, 'STREAMS', KEYS[stream], '>')
    if read then
      found[#found + 1] = read[1]
      left = left - #read[1][2]
    end
  end
end
return {{found, redis.call('TIME'), redis.call('ZRANGE', KEYS[{len(_STREAMS) + 1}], 0, -1)}}
"""

# One step, so that nobody is removed between looking and removing. KEYS: a stream. ARGV: group, idle ms.
_FORGET_SCRIPT = """
for _, flat in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
  local one = {}
  for place = 1, #flat, 2 do one[flat[place]] = flat[place + 1] end
  if one['pending'] == 0 and one['idle'] > tonumber(ARGV[2]) then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], one['name'])
  end
end
return 1
"""


@dataclass(frozen=True)
class Taken:
    """One entry of a stream. `request_id` is "" when the entry names none: then nobody can be replied to."""

    stream: str
    entry: str
    request_id: str
    message: bytes
    queued_seconds: float  # in Redis, until it was taken
    ends_at: float  # by `monotonic` of this process: from then on nobody waits for it
    cancelled: bool = False
    deliveries: int = 1


class RequestQueue:
    """Takes and settles searches for one consumer, `batch` at a time at most.

    Every method raises RedisUnavailable or RedisUnusable when the server does not answer or refuses.
    """

    def __init__(self, client: Redis, consumer: str, batch: int) -> None:
        # The client's return types depend on a protocol that is chosen at run time; ours is fixed (RESP2)
        self._redis: Any = client
        self._consumer = consumer
        self._batch = batch

    def read(self, block_ms: int) -> list[Taken]:
        """All new searches, highest priority first; waits so long for the first one when there is none."""
        with redis_errors_translated():
            try:
                script = (_READ_SCRIPT, len(_STREAMS) + 1, *_STREAMS, CANCELLED, GROUP, self._consumer, self._batch)
                taken = _taken(*self._redis.eval(*script))
                return taken or self._wait(block_ms)
            except ResponseError as error:
                if not any(word in str(error) for word in ("NOGROUP", "UNBLOCKED", "no longer exists")):
                    raise
                self._make_groups()
                return []

    def take_over(self) -> list[Taken]:
        """Searches that their worker has left, as a rule because it died; [] when there are none.

        Those that were left once come together. One that was left again comes alone: it may be what kills workers,
        and is not to take the others with it.
        """
        with redis_errors_translated():
            try:
                left = self._left_behind()
            except ResponseError as error:
                if "NOGROUP" not in str(error):
                    raise
                self._make_groups()
                return []
            once = [one for one in left if one[2] == 1]
            return self._claim(once[: self._batch] or sorted(left, key=lambda one: one[2])[:1])

    def renew(self, held: Sequence[Taken]) -> None:
        """Say that these are still being worked on."""
        with redis_errors_translated(), self._redis.pipeline(transaction=False) as pipeline:
            for stream in _STREAMS:
                entries = [one.entry for one in held if one.stream == stream]
                if entries:
                    pipeline.xclaim(stream, GROUP, self._consumer, 0, entries, justid=True)
            pipeline.execute()

    def settle(self, replies: Sequence[tuple[Taken, bytes | None]]) -> None:
        """Write the replies (None: nobody waits) and forget the searches, all in one transaction."""
        with redis_errors_translated(), self._redis.pipeline(transaction=True) as pipeline:
            for taken, reply in replies:
                _settle(pipeline, taken, reply)
            pipeline.execute()

    def dead_letter(self, taken: Taken, reason: str, reply: bytes | None) -> None:
        """Put a search aside for people to look at, without its message where that is large, and reply."""
        letter: dict[str, Any] = {"entry": taken.entry, ID_FIELD: taken.request_id, "reason": reason}
        letter |= {"bytes": len(taken.message), MESSAGE_FIELD: taken.message[:_MAX_DEAD_MESSAGE_BYTES]}
        with redis_errors_translated(), self._redis.pipeline(transaction=True) as pipeline:
            pipeline.xadd(DEAD_LETTERS, letter, maxlen=MAX_DEAD_LETTERS, approximate=False)
            _settle(pipeline, taken, reply)
            pipeline.execute()

    def forget_dead_consumers(self) -> None:
        """Forget the names of workers of the past that hold nothing."""
        with redis_errors_translated(), self._redis.pipeline(transaction=False) as pipeline:
            for stream in _STREAMS:
                pipeline.eval(_FORGET_SCRIPT, 1, stream, GROUP, _DEAD_CONSUMER_MS)
            pipeline.execute(raise_on_error=False)  # without a group there is nobody to forget

    def _wait(self, block_ms: int) -> list[Taken]:
        each = max(1, self._batch // len(_STREAMS))  # of each stream: together no more than a batch
        with self._redis.pipeline(transaction=False) as pipeline:
            pipeline.xreadgroup(GROUP, self._consumer, dict.fromkeys(_STREAMS, ">"), count=each, block=block_ms)
            pipeline.time()
            pipeline.zrange(CANCELLED, 0, -1)
            found, moment, cancelled = pipeline.execute()
        return _taken(found or [], moment, cancelled)

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
        streams = [stream for stream in _STREAMS if any(one[0] == stream for one in wanted)]
        with self._redis.pipeline(transaction=False) as pipeline:
            for stream in streams:
                entries = [entry for place, entry, _ in wanted if place == stream]
                pipeline.xclaim(stream, GROUP, self._consumer, TAKE_OVER_MS, entries)
            pipeline.time()
            pipeline.zrange(CANCELLED, 0, -1)
            *claimed, moment, cancelled = pipeline.execute()
        deliveries = {entry: count + 1 for _, entry, count in wanted}
        return _taken(list(zip(streams, claimed, strict=True)), moment, cancelled, deliveries)

    def _make_groups(self) -> None:
        for stream in _STREAMS:
            try:
                self._redis.xgroup_create(stream, GROUP, id="0", mkstream=True)
            except ResponseError as error:
                if not str(error).startswith("BUSYGROUP"):  # it is there: another worker was quicker
                    raise


def _settle(pipeline: Any, taken: Taken, reply: bytes | None) -> None:
    if reply is not None and taken.request_id:
        pipeline.rpush(reply_key(taken.request_id), reply)
        pipeline.pexpire(reply_key(taken.request_id), REPLY_TTL_MS)
    pipeline.xack(taken.stream, GROUP, taken.entry)
    pipeline.xdel(taken.stream, taken.entry)
    if taken.cancelled:
        pipeline.zrem(CANCELLED, taken.request_id)


def _taken(
    found: Sequence[Any], moment: Sequence[Any], cancelled: Sequence[bytes], deliveries: Mapping[str, int] | None = None
) -> list[Taken]:
    """What Redis gave, with its clock (seconds, microseconds) put in relation to ours."""
    now_ms, now = int(moment[0]) * 1000 + int(moment[1]) // 1000, monotonic()
    nobody_waits = {name.decode(errors="replace") for name in cancelled}
    taken = []
    for stream, entries in found:
        for entry_id, raw in entries:
            fields = _fields(raw)
            entry, name = entry_id.decode(), fields.get(ID_FIELD.encode(), b"")
            request_id = name.decode() if _REQUEST_ID.fullmatch(name) else ""
            age_ms = now_ms - int(entry.split("-")[0])
            timeout = fields.get(TIMEOUT_FIELD.encode(), b"")
            left_ms = (int(timeout) if _TIMEOUT.fullmatch(timeout) else 0) - age_ms
            one = Taken(
                stream=stream if isinstance(stream, str) else stream.decode(),
                entry=entry,
                request_id=request_id,
                message=fields.get(MESSAGE_FIELD.encode(), b""),
                queued_seconds=max(0.0, age_ms / 1000),
                ends_at=now + left_ms / 1000,
                cancelled=request_id in nobody_waits,
                deliveries=(deliveries or {}).get(entry, 1),
            )
            taken.append(one)
    return taken


def _fields(raw: Any) -> Mapping[bytes, bytes]:
    """A script gives fields as a flat list, the client as a map, and a deleted entry has none."""
    return raw if isinstance(raw, Mapping) else dict(zip(raw[::2], raw[1::2], strict=True)) if raw else {}
