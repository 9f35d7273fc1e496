"""The query worker: `python -m query_service.worker` takes all searches that wait, answers them together, replies.

Killed at any point it loses no search: what it held is taken over by another worker. It never exits because Redis
or the catalog is away.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from threading import Event, Thread
from time import monotonic

from query_service.answering import Answering
from query_service.asked import error_reply
from query_service.errors import CollectionLoading, DeadlineExceeded, MalformedMessage, RemoteFailure
from query_service.metrics import DEAD_SEARCHES, SEARCH_BATCH, SEARCH_SECONDS, SEARCHES, TAKEN_OVER
from query_service.preloaded_models import PreloadedModels
from query_service.protocol import SearchReply, SearchRequest
from query_service.served import ServedCollections
from query_service.taken_requests import MAX_DELIVERIES, RequestQueue, Taken
from query_service.wire import pack_reply, unpack_request
from storage.catalog import Generation, catalog_of
from storage.errors import VisualSearchError
from storage.settings import Settings
from storage.snapshots import snapshots_of
from workers.change_hints import hear_changes
from workers.errors import RedisUnavailable, RedisUnusable
from workers.heartbeat import Heartbeat
from workers.role_process import run_role
from workers.servers import connect_redis

ROLE = "query_worker"

_BLOCK_MS = 250  # how long an idle worker takes to notice SIGTERM, and a change that was fetched
_TAKE_OVER_SECONDS = 1.0
_RENEW_SECONDS = 0.7  # several times within the time after which others take over
_FORGET_SECONDS = 30.0
_MAX_PAUSE_SECONDS = 2.0
_LOAD_SECONDS = 10.0  # for which the ready line waits; collections that take longer come later

_log = logging.getLogger(__name__)


class QueryWorker:
    """Takes, answers and replies, on one thread, until told to stop. Everything it needs is given."""

    def __init__(
        self, queue: RequestQueue, served: ServedCollections, answering: Answering, progress: Callable[[int], None]
    ) -> None:
        self._queue = queue
        self._served = served
        self._answering = answering
        self._progress = progress
        self._held: Sequence[Taken] = ()  # being answered now; the renewing thread reads it
        self._looked = self._forgot = monotonic()

    def run(self, stop: Event) -> None:
        """Serve until told to stop, and then end with the batch that was taken; waits out a Redis that is away."""
        over = Event()
        renewing = Thread(target=self._renew, args=(over,), name="renew", daemon=True)
        renewing.start()
        failures = 0
        try:
            while not stop.is_set():
                try:
                    self._step()
                    if failures:
                        _log.info("Redis answers again")
                    failures = 0
                except (RedisUnavailable, RedisUnusable) as error:
                    if not failures:
                        _log.warning("waiting for Redis: %s", error)
                    failures += 1
                    stop.wait(min(_MAX_PAUSE_SECONDS, 0.1 * 2 ** min(failures, 10)))
        finally:
            over.set()
            renewing.join()

    def _step(self) -> None:
        taken: list[Taken] = []
        if monotonic() - self._looked >= _TAKE_OVER_SECONDS:
            taken = self._queue.take_over()
            if not taken:  # else look again after this batch: more may have been left
                self._looked = monotonic()
            TAKEN_OVER.inc(len(taken))
        if monotonic() - self._forgot >= _FORGET_SECONDS:
            self._queue.forget_dead_consumers()
            self._forgot = monotonic()
        self._held = taken or self._queue.read(_BLOCK_MS)
        try:
            self._work(self._held)
        finally:
            self._held = ()

    def _work(self, taken: Sequence[Taken]) -> None:
        served = self._served.current()  # also without a search: changes are applied while nobody waits
        if not taken:
            return
        settled: list[tuple[Taken, bytes | None]] = []
        open_ones: list[tuple[Taken, SearchRequest]] = []
        for one in taken:
            if one.deliveries > MAX_DELIVERIES or not one.request_id:
                self._put_aside(one)
            elif one.cancelled:
                SEARCHES.labels("cancelled").inc()
                settled.append((one, None))
            else:
                try:
                    open_ones.append((one, self._request(one)))
                except Exception as error:  # noqa: BLE001 - whatever a message holds, it must not end the worker
                    settled.append((one, _packed(_failed(one.request_id, error))))
        ends = {request.request_id: one.ends_at for one, request in open_ones}
        replies = self._answering.answer(
            [request for _, request in open_ones], served, lambda request_id: monotonic() < ends[request_id]
        )
        settled += [(one, _packed(_queued(reply, one))) for (one, _), reply in zip(open_ones, replies, strict=True)]
        self._queue.settle(settled)
        self._progress(len(replies))
        _count_batch(open_ones, replies)

    def _request(self, one: Taken) -> SearchRequest:
        """Read one search. Raises what is wrong with it, or with answering it now."""
        if monotonic() >= one.ends_at:
            raise DeadlineExceeded("its time was over before a worker came to it")
        request = unpack_request(one.request_id, one.message)
        if request.collection in self._served.loading:
            raise CollectionLoading(f"the collection '{request.collection}' is still being loaded")
        return request

    def _put_aside(self, one: Taken) -> None:
        if one.request_id:
            reason = f"it was left by {one.deliveries - 1} workers: it may be what ended them"
            reply = _packed(_failed(one.request_id, RemoteFailure(reason)))
        else:
            reason, reply = "the entry names no request id, so nobody can be replied to", None
        _log.error("search %s goes to the dead letters: %s", one.request_id or one.entry, reason)
        self._queue.dead_letter(one, reason, reply)
        DEAD_SEARCHES.inc()

    def _renew(self, over: Event) -> None:
        """Long batches are still ours: say so while the process lives."""
        last: Sequence[Taken] = ()
        while not over.wait(_RENEW_SECONDS):
            held = self._held
            if held and held is last:
                try:
                    self._queue.renew(held)
                except VisualSearchError as error:
                    _log.debug("not renewed: %s", error)
            last = held


def _failed(request_id: str, error: Exception) -> SearchReply:
    reply = error_reply(error, request_id)
    SEARCHES.labels(reply.reason).inc()
    return SearchReply(request_id=request_id, error=reply)


def _queued(reply: SearchReply, one: Taken) -> SearchReply:
    """The reply, with the time in Redis among its stages."""
    if reply.answer is None:
        return reply
    provenance = reply.answer.provenance
    seconds = {"queued": one.queued_seconds, **provenance.stage_seconds}
    told = provenance.model_copy(update={"stage_seconds": seconds})
    return reply.model_copy(update={"answer": reply.answer.model_copy(update={"provenance": told})})


def _packed(reply: SearchReply) -> bytes:
    try:
        return pack_reply(reply)
    except MalformedMessage as error:  # the page is too large to be sent: say so
        return pack_reply(_failed(reply.request_id, error))


def _count_batch(taken: Sequence[tuple[Taken, SearchRequest]], replies: Sequence[SearchReply]) -> None:
    if not replies:
        return
    SEARCH_BATCH.observe(len(replies))
    for one, _ in taken:
        SEARCH_SECONDS.labels("queued").observe(one.queued_seconds)
    for reply in replies:
        SEARCHES.labels("answered" if reply.error is None else reply.error.reason).inc()
    answer = next((reply.answer for reply in replies if reply.answer is not None), None)
    if answer is not None:
        for stage, seconds in answer.provenance.stage_seconds.items():
            SEARCH_SECONDS.labels(stage).observe(seconds)


def run_worker(settings: Settings, stop: Event) -> None:
    """Build the worker from the settings and run it until told to stop.

    Raises RedisUnavailable, RedisUnusable, BundledServerError, CatalogError and StorageError when it cannot start.
    """
    name = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
    with ExitStack() as parts:
        client = parts.enter_context(connect_redis(settings))
        catalog = parts.enter_context(catalog_of(settings))
        models = PreloadedModels(settings)
        answering = parts.enter_context(closing(Answering(catalog, models, worker=name)))
        snapshots = snapshots_of(settings, catalog)
        served = parts.enter_context(ServedCollections(catalog, snapshots, lambda one: _load_model(models, one)))
        hearing = Thread(target=hear_changes, args=(client, served.hint, stop), name="hints", daemon=True)
        hearing.start()
        parts.callback(hearing.join)
        heartbeat = parts.enter_context(Heartbeat(client, ROLE))
        served.wait_until_loaded(_LOAD_SECONDS, stop)
        queue = RequestQueue(client, name, settings.search_batch)
        _log.info("ready: %s searches %s", name, ", ".join(sorted(served.current())) or "no collection yet")
        QueryWorker(queue, served, answering, heartbeat.progress).run(stop)


def _load_model(models: PreloadedModels, generation: Generation) -> None:
    """So that the first picture or words need not wait. Ids and vectors are searched without a model too."""
    try:
        models.get(generation.model)
    except VisualSearchError as error:
        _log.warning("searches by picture or words will fail: %s", error)


def main() -> int:
    """Start with the settings of the environment and the TOML file; SIGTERM ends it after the current batch."""
    return run_role(ROLE, run_worker)


if __name__ == "__main__":
    sys.exit(main())
