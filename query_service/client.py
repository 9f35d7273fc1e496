"""The client of the search service for ordinary (blocking) Python.

Knows Redis, and neither model nor index nor SQL; `asking` makes the requests, `exchange` says what to send.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from threading import Lock
from time import monotonic, sleep
from types import TracebackType

from redis import exceptions
from typing_extensions import Self, Unpack

from query_service.protocol import MAX_TIMEOUT_SECONDS, SearchAnswer, SearchRequest
from query_service.transport.asking import Question, request_of
from query_service.transport.busy_retries import BusyRetries
from query_service.transport.connections import Connections, pipelined
from query_service.transport.exchange import (
    RECONNECT_PAUSES_SECONDS,
    Exchange,
    NoAnswer,
    Outcome,
    answer_or_raise,
    cancelling,
    together,
    windows,
)
from query_service.transport.service_place import (
    FRESH_SECONDS,
    LOOK_SECONDS,
    REASON_SECONDS,
    find_service,
    no_answer,
    signs_left,
    signs_wanted,
    silent_seconds,
)
from storage.errors import VisualSearchError
from storage.settings import Settings, load_settings
from workers.errors import RedisUnavailable, RedisUnusable
from workers.servers import redis_errors_translated, without_password


class SearchClient:
    """Asks the running search service. Threads may share one; use it as a context manager, or call `close`.

    Without `redis_url` the settings' Redis is asked, or the bundled server if it runs: nothing is started. It
    connects at the first search. A full queue raises ServiceBusy at once, unless `busy_retries` allows to try again
    within the search's time. When the connection breaks, a new one is tried for about a second, within the search's
    time, and the search sent again: it changes nothing. After a fork parent and child may both go on.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        redis_url: str | None = None,
        collection: str | None = None,
        busy_retries: int = 0,
    ) -> None:
        self.settings = settings or load_settings()
        self._collection = collection
        self._url = redis_url
        self._busy_retries = busy_retries
        self._lock = Lock()
        self._connections: Connections | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; a later search makes new ones, and one under way still gets its answer."""
        with self._lock:
            connections, self._connections = self._connections, None
        if connections is not None:
            connections.close()

    def search(self, **question: Unpack[Question]) -> SearchAnswer:
        """Search with what `Question` describes, and wait for the answer.

        Raises InvalidQuery, InvalidFilter, ImageNotFound, ImageTooLarge before anything is sent; RedisUnavailable,
        ServiceBusy, DeadlineExceeded; and what the worker answers, e.g. UnknownImageId.
        """
        return self.send(request_of(question, self.settings, self._collection))

    def search_many(self, questions: Iterable[Question]) -> list[SearchAnswer | VisualSearchError]:
        """Search with each question, 64 at once: an answer or an error for each, in their order."""
        return [outcome for some in together(questions) for outcome in self._search_together(some)]

    def send(self, request: SearchRequest) -> SearchAnswer:
        """Send a request and wait for its answer. Raises as `search` does once it is sent.

        Its id is for one search: what was cancelled or out of time is asked again under another one.
        """
        (outcome,) = self.send_many([request])
        return answer_or_raise(outcome)

    def send_many(self, requests: Sequence[SearchRequest]) -> list[SearchAnswer | VisualSearchError]:
        """Send requests together on one connection, 64 at once; an answer or an error for each, in their order."""
        return [outcome for window in windows(requests) for outcome in self._ask_again_if_busy(window)]

    def cancel(self, request_id: str) -> None:
        """Nobody needs this answer any more; whoever waits for it gets SearchCancelled. Raises RedisUnavailable."""
        self._connected().told([cancelling(request_id, MAX_TIMEOUT_SECONDS)], LOOK_SECONDS)

    def workers(self) -> int:
        """Count the query workers that gave a sign within the last seconds. Raises RedisUnavailable."""
        return sum(seconds <= FRESH_SECONDS for seconds in _silences(self._connected(), LOOK_SECONDS))

    def _search_together(self, questions: Sequence[Question]) -> list[Outcome]:
        outcomes: list[Outcome | None] = []
        requests: list[SearchRequest] = []
        for question in questions:
            try:
                requests.append(request_of(question, self.settings, self._collection))
                outcomes.append(None)
            except VisualSearchError as error:
                outcomes.append(error)
        sent = iter(self.send_many(requests))
        return [next(sent) if outcome is None else outcome for outcome in outcomes]

    def _ask_again_if_busy(self, requests: Sequence[SearchRequest]) -> list[Outcome]:
        retries = BusyRetries(requests, self._busy_retries)
        outcomes = self._ask(requests)
        while True:
            pause, again = retries.again(outcomes)
            if not again:
                return outcomes
            sleep(pause)
            for place, outcome in zip(again, self._ask(list(again.values())), strict=True):
                outcomes[place] = outcome

    def _ask(self, requests: Sequence[SearchRequest]) -> list[Outcome]:
        """Until all is over on the same connections: those made after a `close` would be closed by nobody."""
        exchange = Exchange(requests, self.settings.search_queue)
        if exchange.waiting:
            try:
                connections = self._connected()
                _move_on(connections, exchange)
                return _with_reasons(connections, exchange)
            except (RedisUnavailable, RedisUnusable) as error:
                exchange.fail(error)
        return list(exchange.outcomes())

    def _connected(self) -> Connections:
        """The connections, made at first use. Raises RedisUnavailable, RedisUnusable."""
        with self._lock:
            if self._connections is None:
                url = find_service(self.settings, self._url)
                self._connections = Connections(url, without_password(url))
            return self._connections


def _move_on(connections: Connections, exchange: Exchange) -> None:
    """Until every request has an outcome; a connection that breaks is made anew. Interrupted, it cancels them."""
    try:
        with redis_errors_translated(connections.place):
            for pause in (*RECONNECT_PAUSES_SECONDS, None):
                try:
                    return _rounds(connections, exchange)
                except (exceptions.AuthenticationError, exceptions.AuthorizationError):
                    raise  # they count as broken connections with redis-py
                except exceptions.ConnectionError:
                    if pause is None or not exchange.has_time(pause):
                        raise
                    sleep(pause)
                    exchange.start_again()
    except Exception:
        raise
    except BaseException:  # KeyboardInterrupt: nobody waits any more
        with suppress(RedisUnavailable, RedisUnusable):  # then they end at their deadline
            connections.told(exchange.giving_up(), LOOK_SECONDS)
        raise


def _rounds(connections: Connections, exchange: Exchange) -> None:
    with connections.one(exchange.longest_seconds()) as connection:
        while exchange.waiting:
            longest = exchange.longest_seconds()
            exchange.take(pipelined(connection, exchange.commands(), longest))


def _with_reasons(connections: Connections, exchange: Exchange) -> list[Outcome]:
    """The outcomes; those without an answer also say whether anybody is there. What nobody needs is taken back."""
    outcomes, ends = list(exchange.outcomes()), monotonic() + REASON_SECONDS
    try:
        connections.told(exchange.taking_back(), ends - monotonic())
        if not any(isinstance(outcome, NoAnswer) for outcome in outcomes):
            return outcomes
        silences = _silences(connections, ends - monotonic())
    except (RedisUnavailable, RedisUnusable):
        return outcomes
    return [no_answer(one, silences) if isinstance(one, NoAnswer) else one for one in outcomes]


def _silences(connections: Connections, seconds: float) -> list[float]:
    """How long each query worker has given no sign."""
    ends, keys, cursor = monotonic() + seconds, list[bytes](), "0"
    while True:
        ((cursor, found),) = connections.told([signs_wanted(cursor)], ends - monotonic())
        keys += found
        if int(cursor) == 0:
            return silent_seconds(connections.told(signs_left(keys), ends - monotonic()))
