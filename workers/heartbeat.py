"""What each process of ours says of itself in Redis: not only that it lives, but when it last got on with its work.

For `status` and for people; nothing depends on it, and a lost heartbeat harms nobody.
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

from workers.errors import RedisUnavailable, RedisUnusable
from workers.servers import redis_errors_translated

_LOG = logging.getLogger(__name__)

_PREFIX = "vs:heartbeat:"
_EVERY_SECONDS = 5.0
_FORGET_SECONDS = 60  # a process that has said nothing for so long is gone


@dataclass(frozen=True)
class HeartbeatRecord:
    """One process; times are seconds since 1970. `done` counts images (or what the role counts) since its start."""

    role: str
    process: str  # host:pid
    started_at: float
    alive_at: float
    progressed_at: float
    done: int = 0
    doing: str = ""  # "": it waits for work


class Heartbeat:
    """Posts every few seconds from a thread while its block runs. Any thread may call `progress`; it costs nothing."""

    def __init__(self, client: Redis, role: str, every_seconds: float = _EVERY_SECONDS) -> None:
        self._redis: Any = client
        self._every_seconds = every_seconds
        self._lock = Lock()
        self._done = Event()
        self.process = f"{socket.gethostname()}:{os.getpid()}"
        self._key = f"{_PREFIX}{role}:{self.process}"
        moment = time()
        self._record = HeartbeatRecord(role, self.process, moment, moment, moment)
        self._thread = Thread(target=self._beat, name=f"heartbeat-{role}", daemon=True)

    def progress(self, done: int = 0, doing: str | None = None) -> None:
        """The work got on: by so many images, and now does this (None: as before)."""
        with self._lock:
            record = self._record
            self._record = replace(
                record,
                done=record.done + done,
                progressed_at=time(),
                doing=record.doing if doing is None else doing,
            )

    def __enter__(self) -> Heartbeat:  # noqa: PYI034 - typing.Self needs Python 3.11
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()
        self._send("delete", self._key)

    def _beat(self) -> None:
        while True:
            with self._lock:
                record = self._record
            message = json.dumps(asdict(replace(record, alive_at=time())))
            self._send("set", self._key, message, ex=_FORGET_SECONDS)
            if self._done.wait(self._every_seconds):
                return

    def _send(self, command: str, *arguments: Any, **options: Any) -> None:
        try:
            with redis_errors_translated():
                getattr(self._redis, command)(*arguments, **options)
        except (RedisUnavailable, RedisUnusable) as error:
            _LOG.debug("no heartbeat: %s", error)


def read_heartbeats(client: Redis) -> list[HeartbeatRecord]:
    """Every process that has given a sign within the last minute, by role. Raises RedisUnavailable."""
    redis: Any = client
    with redis_errors_translated():
        keys = list(redis.scan_iter(match=f"{_PREFIX}*", count=500))
        values = redis.mget(keys) if keys else []
    records = [HeartbeatRecord(**json.loads(value)) for value in values if value is not None]
    return sorted(records, key=lambda record: (record.role, record.process))
