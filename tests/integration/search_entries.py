"""Searches written into Redis by hand, as any client would: what the query worker sees, without our clients."""

from __future__ import annotations

from typing import Any

from query_service.protocol import SearchReply, SearchRequest
from query_service.transport.request_queue import SUBMIT_SCRIPT, reply_key, submit_arguments
from query_service.wire import unpack_reply


def request(**fields: Any) -> SearchRequest:
    """A search with fields as they travel: `parts` as maps; by default by a fixed vector of 8 numbers."""
    return SearchRequest.model_validate({"parts": [{"vector": [1.0] + [0.0] * 7}], "timeout_seconds": 60.0, **fields})


def submit(client: Any, search: SearchRequest, bound: int = 256) -> bytes | None:
    """Send it; the entry's id, or None when the queue was full."""
    entry: bytes | None = client.eval(SUBMIT_SCRIPT, *submit_arguments(search, bound))
    return entry


def reply(client: Any, request_id: str, seconds: float = 60.0) -> SearchReply:
    """Wait for the reply."""
    found = client.blpop(reply_key(request_id), timeout=seconds)
    assert found is not None, "no reply came"
    return unpack_reply(found[1])


def ask(client: Any, search: SearchRequest) -> SearchReply:
    """Send and wait."""
    submit(client, search)
    return reply(client, search.request_id)
