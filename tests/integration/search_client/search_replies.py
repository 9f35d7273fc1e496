"""Replies by the worker's own end of the queue, and what must not stay behind in Redis."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import Any

from query_service.protocol import ErrorReply, Provenance, SearchAnswer, SearchReply, SearchRequest
from query_service.serving.taken import Taken
from query_service.serving.taken_requests import RequestQueue
from query_service.transport.request_queue import STREAMS
from query_service.wire import pack_reply, unpack_request
from storage.records import ModelIdentity
from workers.errors import RedisUnavailable, RedisUnusable
from workers.servers import connect_url

MODEL = ModelIdentity(name="m", revision="r", weights_fingerprint="w", preprocessing_fingerprint="p", dimension=2)


VECTOR = [1.0, 0.0]


def answer(request: SearchRequest) -> SearchReply:
    """An answer without results, which tells by its worker's name what was asked."""
    name = request.parts[0].text or request.parts[0].image_id or "vector"
    provenance = Provenance(worker=name, model=MODEL, generation_id=1, seq=1, images=0)
    return SearchReply(
        request_id=request.request_id, answer=SearchAnswer(query_id=request.request_id, provenance=provenance)
    )


def refuse_unknown(request: SearchRequest) -> SearchReply:
    if request.parts[0].image_id is None:
        return answer(request)
    error = ErrorReply(reason="unknown_id", message="no such image")
    return SearchReply(request_id=request.request_id, error=error)


@contextmanager
def replying(url: str, reply: Callable[[SearchRequest], SearchReply] = answer) -> Iterator[None]:
    """Meanwhile the searches at this address get these replies, by the worker's own end of the queue."""
    stop = Event()

    def serve() -> None:
        with connect_url(url) as client:
            queue = RequestQueue(client, "test", 64)
            while not stop.is_set():
                try:
                    taken = queue.read(20)
                    queue.settle([(one, _reply_to(one, reply)) for one in taken])
                except (RedisUnavailable, RedisUnusable):
                    time.sleep(0.05)

    thread = Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _reply_to(one: Taken, reply: Callable[[SearchRequest], SearchReply]) -> bytes | None:
    return None if one.cancelled else pack_reply(reply(unpack_request(one.request_id, one.message)))


def assert_nothing_stays(redis: Any) -> None:
    """Every key that is not the queue itself runs out by itself within its time."""
    streams = {name.encode() for name in STREAMS.values()}
    for key in redis.keys("*"):
        assert key in streams or 0 < redis.pttl(key) <= 600_000, key
    assert [redis.xlen(name) for name in STREAMS.values()] == [0, 0, 0]
