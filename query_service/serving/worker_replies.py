"""What the query worker says to a search that it took: bytes of replies, and the metrics of what was said."""

from __future__ import annotations

from collections.abc import Sequence

from query_service.answers.asked import error_reply
from query_service.errors import MalformedMessage
from query_service.metrics import SEARCH_BATCH, SEARCH_SECONDS, SEARCHES
from query_service.protocol import SearchReply
from query_service.serving.taken import Taken
from query_service.wire import pack_reply


def refusal(taken: Taken, error: Exception) -> bytes:
    """The bytes that say why there will be no answer."""
    return pack_reply(_failed(taken.request_id, error))


def answered(reply: SearchReply, taken: Taken) -> bytes:
    """The bytes of a reply; a page that is too large to be sent becomes an error that says so."""
    try:
        return pack_reply(reply, queued_seconds=taken.queued_seconds)
    except MalformedMessage as error:
        return refusal(taken, error)


def count_batch(taken: Sequence[Taken], replies: Sequence[SearchReply]) -> None:
    """Tell the metrics of a batch that was answered together."""
    if not replies:
        return
    SEARCH_BATCH.observe(len(replies))
    for one in taken:
        SEARCH_SECONDS.labels("queued").observe(one.queued_seconds)
    for reply in replies:
        SEARCHES.labels("answered" if reply.error is None else reply.error.reason).inc()
    answer = next((reply.answer for reply in replies if reply.answer is not None), None)
    if answer is not None:
        for stage, seconds in answer.provenance.stage_seconds.items():
            SEARCH_SECONDS.labels(stage).observe(seconds)


def _failed(request_id: str, error: Exception) -> SearchReply:
    reply = error_reply(error, request_id)
    SEARCHES.labels(reply.reason).inc()
    return SearchReply(request_id=request_id, error=reply)
