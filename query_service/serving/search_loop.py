"""The loop of the query worker: takes searches, has them answered, replies, and waits out a Redis that is away.

Knows neither how collections are followed nor how searches are answered; both are given.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from threading import Event, Thread
from time import monotonic

from query_service.answers.answering import Answering, Served
from query_service.errors import CollectionLoading, DeadlineExceeded, RemoteFailure
from query_service.metrics import DEAD_SEARCHES, SEARCHES, TAKEN_OVER
from query_service.protocol import SearchRequest
from query_service.serving.served import ServedCollections
from query_service.serving.set_aside import SetAside
from query_service.serving.taken import Taken
from query_service.serving.taken_requests import MAX_DELIVERIES, RequestQueue
from query_service.serving.worker_replies import answered, count_batch, refusal
from query_service.wire import unpack_request
from storage.errors import VisualSearchError
from workers.errors import RedisUnavailable, RedisUnusable

_BLOCK_MS = 250  # how long an idle worker takes to notice SIGTERM, and a change that was fetched
_TAKE_OVER_SECONDS = 1.0
_RENEW_SECONDS = 0.7  # several times within the time after which others take over
_FORGET_SECONDS = 30.0
_MAX_PAUSE_SECONDS = 2.0

Progress = Callable[[int, str], None]  # so many more searches were answered, and what is done now ("": it waits)

_log = logging.getLogger(__name__)


class QueryWorker:
    """Takes, answers and replies, on one thread, until told to stop. Everything it needs is given."""

    def __init__(
        self, queue: RequestQueue, served: ServedCollections, answering: Answering, progress: Progress
    ) -> None:
        self._queue = queue
        self._served = served
        self._answering = answering
        self._progress = progress
        self._aside = SetAside()
        self._held: Sequence[Taken] = ()  # being answered now, or set aside; the renewing thread reads it
        self._looked = self._forgot = monotonic()

    def run(self, stop: Event) -> None:
        """Serve until told to stop, and then end with the batch that was taken; waits out a Redis that is away.

        Searches that are set aside then are handed back.
        """
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
            self._hand_back()

    def _step(self) -> None:
        taken: list[Taken] = []
        if monotonic() - self._looked >= _TAKE_OVER_SECONDS:
            taken = self._queue.take_over(self._aside.taken)
            if not taken:  # else look again after this batch: more may have been left
                self._looked = monotonic()
            TAKEN_OVER.inc(len(taken))
        if monotonic() - self._forgot >= _FORGET_SECONDS:
            self._queue.forget_dead_consumers()
            self._forgot = monotonic()
        taken = taken or self._queue.read(_BLOCK_MS)
        self._held = [*self._aside.taken, *taken]
        try:
            self._work(taken)
        finally:
            self._held = self._aside.taken

    def _work(self, taken: Sequence[Taken]) -> None:
        loading = self._served.loading()  # asked first: what is loaded after that is served, and never unknown
        served = self._served.current()  # also without a search: changes are applied while nobody waits

        def must_wait(name: str) -> bool:
            return name not in served and (loading is None or name in loading or self._served.is_loading(name))

        settled: list[tuple[Taken, bytes | None]] = []
        open_ones: list[tuple[Taken, SearchRequest]] = []
        for one, request in [*self._aside.due(must_wait), *((one, None) for one in taken)]:
            if one.deliveries > MAX_DELIVERIES or not one.request_id:
                self._to_dead_letters(one)
            elif one.cancelled:
                SEARCHES.labels("cancelled").inc()
                settled.append((one, None))
            else:
                try:
                    admitted = self._admitted(one, request, must_wait)
                except Exception as error:  # noqa: BLE001 - whatever a message holds, it must not end the worker
                    settled.append((one, refusal(one, error)))
                else:
                    open_ones += [] if admitted is None else [(one, admitted)]
        if settled or open_ones:
            self._answer(open_ones, served, settled)
        self._progress(len(settled) + len(open_ones), "")

    def _answer(
        self,
        open_ones: Sequence[tuple[Taken, SearchRequest]],
        served: Mapping[str, Served],
        settled: Sequence[tuple[Taken, bytes | None]],
    ) -> None:
        """Answer what is open, and send it with what is settled already."""
        self._progress(0, f"answering {len(open_ones)} searches")
        ends = {one.request_id: one.ends_at for one, _ in open_ones}
        replies = self._answering.answer(
            [request for _, request in open_ones], served, lambda request_id: monotonic() < ends[request_id]
        )
        pairs = zip(open_ones, replies, strict=True)
        self._queue.settle([*settled, *((one, answered(reply, one)) for (one, _), reply in pairs)])
        count_batch([one for one, _ in open_ones], replies)

    def _admitted(
        self, one: Taken, request: SearchRequest | None, must_wait: Callable[[str], bool]
    ) -> SearchRequest | None:
        """The search if it can be answered now, None when it is set aside. Raises why it never will be."""
        if monotonic() >= one.ends_at:
            raise DeadlineExceeded("its time was over before a worker came to it")
        request = request or unpack_request(one.request_id, one.message)
        if not must_wait(request.collection):
            return request
        if self._aside.keep(one, request):
            return None
        raise CollectionLoading(f"the collection '{request.collection}' is still being loaded")

    def _hand_back(self) -> None:
        """What is set aside, so that another worker answers it while it has time."""
        held = self._aside.taken
        if held:
            try:
                self._queue.hand_back(held)
            except (RedisUnavailable, RedisUnusable) as error:  # then they are taken over a little later
                _log.debug("not handed back: %s", error)

    def _to_dead_letters(self, one: Taken) -> None:
        if one.request_id:
            reason = f"it was left by {one.deliveries - 1} workers: it may be what ended them"
            reply = refusal(one, RemoteFailure(reason))
        else:
            reason, reply = "the entry names no request id, so nobody can be replied to", None
        _log.error("search %s goes to the dead letters: %s", one.request_id or one.entry, reason)
        self._queue.dead_letter(one, reason, reply)
        DEAD_SEARCHES.inc()

    def _renew(self, over: Event) -> None:
        """What takes long is still ours: say so while the process lives."""
        seen: set[tuple[str, str]] = set()
        while not over.wait(_RENEW_SECONDS):
            held = self._held
            long_held = [one for one in held if (one.stream, one.entry) in seen]
            seen = {(one.stream, one.entry) for one in held}
            if long_held:
                try:
                    self._queue.renew(long_held)
                except VisualSearchError as error:
                    _log.debug("not renewed: %s", error)
