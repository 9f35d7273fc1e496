"""One search as a worker has taken it: an entry of a stream, understood as far as its envelope. Knows no connection."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from query_service.serving.server_clock import ServerClock
from query_service.transport.request_queue import ID_FIELD, MESSAGE_FIELD, TIMEOUT_FIELD

_REQUEST_ID = re.compile(rb"[0-9a-f]{32}")
_TIMEOUT = re.compile(rb"[0-9]{1,9}")


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


def taken_of(stream: str, entry: bytes, raw: Any, clocks: tuple[ServerClock, float]) -> Taken:
    """An entry as Redis gives it; `clocks`: the server's, and what `monotonic` showed when the entry came."""
    fields, (clock, told) = _fields(raw), clocks
    name, timeout = fields.get(ID_FIELD.encode(), b""), fields.get(TIMEOUT_FIELD.encode(), b"")
    submitted = clock.ours(int(entry.split(b"-")[0]) / 1000)
    return Taken(
        stream=stream,
        entry=entry.decode(),
        request_id=name.decode() if _REQUEST_ID.fullmatch(name) else "",
        message=fields.get(MESSAGE_FIELD.encode(), b""),
        queued_seconds=max(0.0, told - submitted),
        ends_at=submitted + (int(timeout) / 1000 if _TIMEOUT.fullmatch(timeout) else 0.0),
    )


def _fields(raw: Any) -> Mapping[bytes, bytes]:
    """A script gives fields as a flat list, the client as a map, and a deleted entry has none."""
    return raw if isinstance(raw, Mapping) else dict(zip(raw[::2], raw[1::2], strict=True)) if raw else {}
