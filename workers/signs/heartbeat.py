"""What each process of ours says of itself: not only that it lives, but when it last got on with its work.

In Redis for `status` and for people, on its own machine for probes; no work depends on it, and a lost heartbeat harms
nobody.
"""

from __future__ import annotations

import json
import logging
import os
import socket
from dataclasses import asdict, dataclass, replace
from threading import Event, Lock, Thread
from time import time
from types import TracebackType
from typing import Any

from redis import Redis

from storage.settings import Settings
from workers.errors import RedisUnavailable, RedisUnusable
from workers.servers import redis_errors_translated
from workers.signs.local_signs import LocalSigns
from workers.signs.queue_lengths import queue_lengths

_LOG = logging.getLogger(__name__)

_PREFIX = "vs:heartbeat:"
BEAT_SECONDS = 5.0
_LAST_SECONDS = 5.0  # for taking the sign back at the end
_AGAIN_SECONDS = 0.5  # after a sign that did not get through
SILENT_SECONDS = 60.0  # who has said nothing for so long is gone for good
_FORGET_SECONDS = 600  # until then `status` shows that there was somebody
LOADING = "loading collections"  # what a process does that lives, but is not there for anybody yet


@dataclass(frozen=True)
class HeartbeatRecord:
    """One process; times are seconds since 1970. `done` counts images (or what the role counts) since its start.

    `progressed_at`: when the work last got on, or when it last had nothing to do.
    """

    role: str
    process: str  # host:pid
    started_at: float
    alive_at: float
    progressed_at: float
    done: int = 0
    doing: str = ""  # "": it waits for work
    trouble: str = ""  # why it gave its last work back, until work succeeds again


@dataclass(frozen=True)
class Sign:
    """A record as it is read, with ages in seconds that do not depend on whether two machines' clocks agree."""

    record: HeartbeatRecord
    silent_seconds: float  # since it gave this sign, by Redis's clock
    still_seconds: float  # since it got on, or last had nothing to do


class Heartbeat:
    """Posts when its block begins, and every few seconds from a thread while it runs.

    So whoever says "ready" inside the block can be seen by then. Any thread may call `progress`; it costs nothing.
    `signs`: where to say the same on this machine. `client`: None when there was no Redis to be had.
    """

    def __init__(
        self,
        client: Redis | None,
        role: str,
        every_seconds: float = BEAT_SECONDS,
        *,
        signs: LocalSigns | None = None,
    ) -> None:
        self._redis: Any = client
        self._signs = signs
        self._every_seconds = every_seconds
        self._lock = Lock()
        self._done = Event()
        self.process = f"{socket.gethostname()}:{os.getpid()}"
        self._key = f"{_PREFIX}{role}:{self.process}"
        self._name = f"{role}-{self.process.replace(':', '-')}"
        moment = time()
        self._record = HeartbeatRecord(role, self.process, moment, moment, moment)
        self._heard = False  # whether Redis took the last sign
        self._thread: Thread | None = None  # while the block runs

    def progress(self, done: int = 0, doing: str | None = None, trouble: str | None = None) -> None:
        """The work got on: by so many images, now does this, and is held up by that (None: as before)."""
        with self._lock:
            record = self._record
            self._record = replace(
                record,
                done=record.done + done,
                progressed_at=time(),
                doing=record.doing if doing is None else doing,
                trouble=record.trouble if trouble is None else trouble,
            )

    def post(self) -> None:
        """Give a sign now, not with the next beat. Any thread may call it; one that is lost is soon given again."""
        try:
            self._post()
        except (RedisUnavailable, RedisUnusable) as error:
            _LOG.debug("no heartbeat: %s", error)
            self._heard = False
            self._excuse()
        else:
            self._heard = True
        if self._signs is not None and not self._done.is_set():
            self._signs.leave(self._name, self._message())

    def __enter__(self) -> Heartbeat:  # noqa: PYI034 - typing.Self needs Python 3.11
        self.post()
        self._thread = Thread(target=self._beat, name=f"heartbeat-{self._record.role}", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        last = Thread(target=self._take_back, name="heartbeat-end", daemon=True)
        last.start()
        last.join(_LAST_SECONDS)  # else Redis is silent: nobody waits for that, and the key runs out by itself
        if self._signs is not None:
            self._signs.take_back(self._name)

    def _take_back(self) -> None:
        """After the last beat, that none comes behind it."""
        if self._thread is not None:
            self._thread.join()
        if self._redis is None:
            return
        try:
            with redis_errors_translated():
                self._redis.delete(self._key)
        except (RedisUnavailable, RedisUnusable) as gone:
            _LOG.debug("the heartbeat could not be taken back: %s", gone)

    def _beat(self) -> None:
        while not self._done.wait(self._every_seconds if self._heard else min(_AGAIN_SECONDS, self._every_seconds)):
            self.post()

    def _post(self) -> None:
        if self._redis is None:
            raise RedisUnavailable("there was none at the start")
        waiting = queue_lengths(self._redis).waiting_for(self._record.role)
        if not waiting and not self._record.doing:  # else a process idle for long looks stuck at its next work
            self._excuse()
        message = self._message()
        with redis_errors_translated():
            self._redis.set(self._key, message, ex=_FORGET_SECONDS)

    def _excuse(self) -> None:
        """It has nothing to do, or cannot get on without Redis: that is not held against it."""
        with self._lock:
            self._record = replace(self._record, progressed_at=time())

    def _message(self) -> str:
        with self._lock:
            return json.dumps(asdict(replace(self._record, alive_at=time())))


def read_signs(client: Redis) -> list[Sign]:
    """The last sign of every process within ten minutes that did not end in order, by role. Raises RedisUnavailable."""
    redis: Any = client
    with redis_errors_translated():
        keys = list(dict.fromkeys(redis.scan_iter(match=f"{_PREFIX}*", count=500)))  # SCAN may name one twice
        with redis.pipeline(transaction=False) as pipeline:
            for key in keys:
                pipeline.get(key)
                pipeline.pttl(key)
            answers = pipeline.execute()
    signs = [_sign(value, left) for value, left in zip(answers[::2], answers[1::2], strict=True) if value is not None]
    return sorted(signs, key=lambda sign: (sign.record.role, sign.record.process))


def _sign(value: bytes, left_ms: int) -> Sign:
    record = HeartbeatRecord(**json.loads(value))
    silent = max(0.0, _FORGET_SECONDS - left_ms / 1000)
    return Sign(record, silent, silent + max(0.0, record.alive_at - record.progressed_at))


def read_local_signs(settings: Settings) -> list[Sign]:
    """The same of this machine's or container's processes, by what they left here; asks neither Redis nor SQL."""
    records = [HeartbeatRecord(**json.loads(text)) for text in LocalSigns(settings).read()]
    signs = [
        Sign(one, max(0.0, time() - one.alive_at), max(0.0, time() - one.progressed_at))
        for one in records
        if one.process.rpartition(":")[0] == socket.gethostname()
    ]
    return [sign for sign in signs if sign.silent_seconds <= _FORGET_SECONDS]


def read_heartbeats(client: Redis) -> list[HeartbeatRecord]:
    """Every process that has given a sign within the last minute, by role. Raises RedisUnavailable."""
    return [sign.record for sign in read_signs(client) if sign.silent_seconds <= SILENT_SECONDS]
