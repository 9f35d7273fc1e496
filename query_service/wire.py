"""The wire format of searches, the only file that knows it: msgpack, versioned, bounded before and after reading.

A message is a map with `v` (version) beside the model's own fields. Vectors travel as float lists: a query has few.
"""

from __future__ import annotations

from typing import Any

import msgpack
from pydantic import ValidationError

from query_service.errors import MalformedMessage
from query_service.protocol import VERSION, SearchReply, SearchRequest
from storage.errors import VisualSearchError

MAX_REQUEST_BYTES = 64 * 1024 * 1024  # a few large pictures; settings.max_image_bytes bounds each of them
MAX_REPLY_BYTES = 64 * 1024 * 1024


def pack_request(request: SearchRequest) -> bytes:
    """The bytes of a request. Raises MalformedMessage when they are too many."""
    return _pack(request.model_dump(exclude_none=True, exclude={"request_id"}), MAX_REQUEST_BYTES)


def unpack_request(request_id: str, data: bytes) -> SearchRequest:
    """Read a request. Raises MalformedMessage for broken bytes, InvalidQuery for what asks nonsense."""
    fields = _unpack(data, MAX_REQUEST_BYTES)
    if "request_id" in fields:
        raise MalformedMessage("the message names a request id of its own: it belongs beside the message")
    return SearchRequest.model_validate({**fields, "request_id": request_id})


def pack_reply(reply: SearchReply, *, queued_seconds: float | None = None) -> bytes:
    """The bytes of a reply; an answer tells its time in Redis too. Raises MalformedMessage when they are too many."""
    fields = reply.model_dump(exclude_none=True)
    if queued_seconds is not None and reply.answer is not None:
        provenance = fields["answer"]["provenance"]
        provenance["stage_seconds"] = {"queued": queued_seconds, **provenance["stage_seconds"]}
    return _pack(fields, MAX_REPLY_BYTES)


def unpack_reply(data: bytes) -> SearchReply:
    """Read a reply. Raises MalformedMessage."""
    try:
        return SearchReply.model_validate(_unpack(data, MAX_REPLY_BYTES))
    except (ValidationError, VisualSearchError) as error:
        raise MalformedMessage(f"this reply cannot be understood: {error}") from error


def _pack(fields: dict[str, Any], most_bytes: int) -> bytes:
    try:
        packed: bytes = msgpack.packb({"v": VERSION, **fields}, unicode_errors="surrogatepass")
    except (TypeError, ValueError, OverflowError) as error:
        raise MalformedMessage(f"this message cannot be packed: {error}") from error
    if len(packed) > most_bytes:
        raise MalformedMessage(f"this message has {len(packed):,} bytes, at most {most_bytes:,} are sent")
    return packed


def _unpack(data: bytes, most_bytes: int) -> dict[str, Any]:
    if len(data) > most_bytes:
        raise MalformedMessage(f"this message has {len(data):,} bytes, at most {most_bytes:,} are read")
    try:
        fields = msgpack.unpackb(data, unicode_errors="surrogatepass", strict_map_key=True)
    except Exception as error:  # msgpack raises ValueError, but also RecursionError and its own stack errors
        raise MalformedMessage(f"these bytes are no message: {error}") from error
    if not isinstance(fields, dict):
        raise MalformedMessage("a message is a map")
    version = fields.pop("v", None)
    if type(version) is not int or version != VERSION:  # 1.0 and True are equal to 1
        raise MalformedMessage(f"message of version {version!r}; this program speaks version {VERSION}")
    return fields
