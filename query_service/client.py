"""The client of the search service for ordinary (blocking) Python.

Knows Redis, and neither model nor index nor SQL; `asking` makes the requests, `exchange` says what to send.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from threading import Lock
from time import sleep
from types import TracebackType
from typing import Any

from redis import exceptions
from typing_extensions import Self, Unpack

from query_service.protocol import MAX_TIMEOUT_SECONDS, SearchAnswer, SearchRequest
from query_service.transport.asking import Question, request_of
from query_service.transport.busy_retries import BusyRetries
from query_service.transport.connections import connection_of, pipelined, pool_of
from query_service.transport.exchange import (
    RECONNECT_PAUSES_SECONDS,
    Command,
    Exchange,
    NoAnswer,
    Outcome,
    answer_or_raise,
    cancelling,
    giving_up,
    together,
    windows,
)
from query_service.transport.service_place import (
    FRESH_SECONDS,
    LOOK_SECONDS,
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
        self._pool: Any = None
        self._place = "Redis"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; a later search makes new ones, and one under way still gets its answer."""
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.disconnect(inuse_connections=False)

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
        """Send a request and wait for its answer. Raises as `search` does once it is sent."""
        (outcome,) = self.send_many([request])
        return answer_or_raise(outcome)

    def send_many(self, requests: Sequence[SearchRequest]) -> list[SearchAnswer | VisualSearchError]:
        """Send requests together on one connection, 64 at once; an answer or an error for each, in their order."""
        return [outcome for window in windows(requests) for outcome in self._ask_again_if_busy(window)]

    def cancel(self, request_id: str) -> None:
        """Nobody needs this answer any more; whoever waits for it gets SearchCancelled. Raises RedisUnavailable."""
        self._tell([cancelling(request_id, MAX_TIMEOUT_SECONDS)])

    def workers(self) -> int:
        """Count the query workers that gave a sign within the last seconds. Raises RedisUnavailable."""
        return sum(seconds <= FRESH_SECONDS for seconds in self._silences())

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
        exchange = Exchange(requests, self.settings.search_queue)
        try:
            self._exchange(exchange)
        except (RedisUnavailable, RedisUnusable) as error:
            exchange.fail(error)
        except BaseException as error:
            if not isinstance(error, Exception):  # KeyboardInterrupt: nobody waits any more
                with suppress(RedisUnavailable, RedisUnusable):  # then they end at their deadline
                    self._tell(giving_up(exchange.waiting))
            raise
        return self._with_reasons(exchange)

    def _exchange(self, exchange: Exchange) -> None:
        """Move it on until every request has an outcome; a connection that breaks is made anew."""
        if not exchange.waiting:
            return
        with self._translated_pool() as pool:
            for pause in (*RECONNECT_PAUSES_SECONDS, None):
                try:
                    _rounds(pool, exchange)
                except (exceptions.AuthenticationError, exceptions.AuthorizationError):
                    raise  # they count as broken connections with redis-py
                except exceptions.ConnectionError:
                    if pause is None or not exchange.has_time(pause):
                        raise
                    sleep(pause)
                    exchange.start_again()
                else:
                    return

    def _with_reasons(self, exchange: Exchange) -> list[Outcome]:
        """The outcomes; those without an answer also say whether anybody is there, and are taken back."""
        outcomes = list(exchange.outcomes())
        if not any(isinstance(outcome, NoAnswer) for outcome in outcomes):
            return outcomes
        try:
            self._tell(exchange.taking_back())
            silences = self._silences()
        except (RedisUnavailable, RedisUnusable):
            return outcomes
        return [no_answer(one, silences) if isinstance(one, NoAnswer) else one for one in outcomes]

    def _silences(self) -> list[float]:
        keys: list[bytes] = []
        cursor: Any = 0
        while True:
            ((cursor, found),) = self._tell([signs_wanted(cursor)])
            keys += found
            if int(cursor) == 0:
                return silent_seconds(self._tell(signs_left(keys)))

    def _tell(self, commands: Sequence[Command]) -> list[Any]:
        """Send commands that are answered at once."""
        if not commands:
            return []
        with self._translated_pool() as pool, connection_of(pool) as connection:
            return pipelined(connection, commands, LOOK_SECONDS)

    @contextmanager
    def _translated_pool(self) -> Iterator[Any]:
        """The pool, whose errors become ours; if the client was closed meanwhile, its connections are closed then."""
        pool = self._connections()
        try:
            with redis_errors_translated(self._place):
                yield pool
        finally:
            if pool is not self._pool:
                pool.disconnect(inuse_connections=False)

    def _connections(self) -> Any:
        """The pool, made at first use. Raises RedisUnavailable, RedisUnusable."""
        with self._lock:
            if self._pool is None:
                url = find_service(self.settings, self._url)
                self._place = without_password(url)
                self._pool = pool_of(url, self._place)
            return self._pool


def _rounds(pool: Any, exchange: Exchange) -> None:
    with connection_of(pool) as connection:
        while exchange.waiting:
            longest = exchange.longest_seconds()
            exchange.take(pipelined(connection, exchange.commands(), longest))
