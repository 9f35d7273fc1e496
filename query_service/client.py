"""The client of the search service for ordinary (blocking) Python.

Knows Redis, and neither model nor index nor SQL; `asking` makes the requests, `exchange` says what to send.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from threading import Lock
from time import monotonic, sleep
from types import TracebackType
from typing import Any, cast

import redis
from redis import exceptions
from redis.backoff import NoBackoff
from redis.retry import Retry
from typing_extensions import Self, Unpack

from query_service.asking import Question, request_of
from query_service.errors import ServiceBusy
from query_service.exchange import Exchange, NoAnswer, Outcome, answer_or_raise, cancelling, windows
from query_service.protocol import MAX_TIMEOUT_SECONDS, SearchAnswer, SearchRequest
from query_service.service_place import (
    FRESH_SECONDS,
    POOL_OPTIONS,
    SIGNS,
    find_service,
    no_answer,
    silent_seconds,
)
from storage.errors import VisualSearchError
from storage.settings import Settings, load_settings
from workers.errors import RedisUnavailable, RedisUnusable
from workers.servers import redis_errors_translated, without_password

_MOST_CONNECTIONS = 1000  # one for each thread that waits
RECONNECT_SECONDS = 0.1  # a server that restarts needs a moment
_BUSY_SECONDS = 0.05  # first pause of `busy_retries`; it doubles, and is spread by chance


class SearchClient:
    """Asks the running search service. Threads may share one; use it as a context manager, or call `close`.

    Without `redis_url` the settings' Redis is asked, or the bundled server if it runs: nothing is started. It
    connects at the first search. A full queue raises ServiceBusy at once, unless `busy_retries` allows to try again
    within the search's time. A broken connection is made anew once, and the search sent again: it changes nothing.
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
        """Close the connections; a later search would make new ones."""
        with self._lock:
            if self._pool is not None:
                self._pool.disconnect()
                self._pool = None

    def search(self, **question: Unpack[Question]) -> SearchAnswer:
        """Search with what `Question` describes, and wait for the answer.

        Raises InvalidQuery, InvalidFilter, ImageNotFound, ImageTooLarge before anything is sent; RedisUnavailable,
        ServiceBusy, DeadlineExceeded; and what the worker answers, e.g. UnknownImageId.
        """
        return self.send(request_of(question, self.settings, self._collection))

    def search_many(self, questions: Iterable[Question]) -> list[SearchAnswer | VisualSearchError]:
        """Search with each question, all together: an answer or an error for each, in their order."""
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

    def send(self, request: SearchRequest) -> SearchAnswer:
        """Send a request and wait for its answer. Raises as `search` does once it is sent."""
        end = monotonic() + request.timeout_seconds
        for attempt in range(self._busy_retries):
            try:
                return self._answer(request)
            except ServiceBusy:
                pause = _BUSY_SECONDS * 2**attempt * random.uniform(0.5, 1.5)  # noqa: S311 - no secret
                if monotonic() + pause >= end:
                    raise
                sleep(pause)
                request = request.model_copy(update={"timeout_seconds": max(0.001, end - monotonic())})
        return self._answer(request)

    def send_many(self, requests: Sequence[SearchRequest]) -> list[SearchAnswer | VisualSearchError]:
        """Send requests together on one connection, 64 at once; an answer or an error for each, in their order."""
        return [outcome for window in windows(requests) for outcome in self._ask(Exchange(window, self._bound))]

    def cancel(self, request_id: str) -> None:
        """Nobody needs this answer any more; whoever waits for it gets SearchCancelled. Raises RedisUnavailable."""
        self._cancel(request_id, MAX_TIMEOUT_SECONDS)

    def workers(self) -> int:
        """Count the query workers that gave a sign within the last seconds. Raises RedisUnavailable."""
        return sum(seconds <= FRESH_SECONDS for seconds in self._silences())

    @property
    def _bound(self) -> int:
        return self.settings.search_queue

    def _answer(self, request: SearchRequest) -> SearchAnswer:
        (outcome,) = self._ask(Exchange([request], self._bound))
        return answer_or_raise(outcome)

    def _ask(self, exchange: Exchange) -> list[Outcome]:
        try:
            self._exchange(exchange)
        except (RedisUnavailable, RedisUnusable) as error:
            exchange.fail(error)
        except BaseException as error:
            if not isinstance(error, Exception):  # KeyboardInterrupt: nobody waits any more
                self._cancel_all(exchange.waiting)
            raise
        return self._with_reasons(list(exchange.outcomes()))

    def _exchange(self, exchange: Exchange) -> None:
        """Move it on until every request has an outcome; a connection that breaks is made anew once."""
        if not exchange.waiting:
            return
        pool = self._connections()
        with redis_errors_translated(self._place):
            try:
                _rounds(pool, exchange)
            except exceptions.ConnectionError:
                sleep(RECONNECT_SECONDS)
                exchange.start_again()
                _rounds(pool, exchange)

    def _with_reasons(self, outcomes: list[Outcome]) -> list[Outcome]:
        if not any(isinstance(outcome, NoAnswer) for outcome in outcomes):
            return outcomes
        try:
            silences = self._silences()
        except (RedisUnavailable, RedisUnusable):
            return outcomes
        return [no_answer(one, silences) if isinstance(one, NoAnswer) else one for one in outcomes]

    def _silences(self) -> list[float]:
        client: Any = redis.Redis(connection_pool=self._connections())
        with redis_errors_translated(self._place):
            keys = list(client.scan_iter(match=SIGNS, count=1000))
            with client.pipeline(transaction=False) as pipeline:
                for key in keys:
                    pipeline.pttl(key)
                return silent_seconds(pipeline.execute())

    def _cancel(self, request_id: str, timeout_seconds: float) -> None:
        pool = self._connections()
        with redis_errors_translated(self._place), _connection(pool) as connection:
            _pipelined(connection, cancelling(request_id, timeout_seconds), POOL_OPTIONS["socket_connect_timeout"])

    def _cancel_all(self, requests: Iterable[SearchRequest]) -> None:
        with suppress(RedisUnavailable, RedisUnusable):  # the requests end by themselves, at their deadline
            for request in requests:
                self._cancel(request.request_id, request.timeout_seconds)

    def _connections(self) -> Any:
        """The pool, made at first use. Raises RedisUnavailable, RedisUnusable."""
        with self._lock:
            if self._pool is None:
                url = find_service(self.settings, self._url)
                self._place = without_password(url)
                self._pool = _pool_of(url, self._place)
            return self._pool


def _pool_of(url: str, place: str) -> Any:
    try:
        return redis.ConnectionPool.from_url(
            url, max_connections=_MOST_CONNECTIONS, retry=Retry(NoBackoff(), 0), **cast("dict[str, Any]", POOL_OPTIONS)
        )
    except (ValueError, TypeError) as error:
        raise RedisUnusable(f"{place} is no usable Redis address: {error}") from error


def _rounds(pool: Any, exchange: Exchange) -> None:
    with _connection(pool) as connection:
        while exchange.waiting:
            longest = exchange.longest_seconds()
            exchange.take(_pipelined(connection, exchange.commands(), longest))


def _pipelined(connection: Any, commands: Sequence[tuple[Any, ...]], seconds: float) -> list[Any]:
    """Send all, then read all. redis-py's own pipeline has one time limit for every read, and retries by itself."""
    connection.send_packed_command(connection.pack_commands(commands))
    end = monotonic() + seconds
    return [connection.read_response(timeout=max(0.001, end - monotonic())) for _ in commands]


@contextmanager
def _connection(pool: Any) -> Iterator[Any]:
    """One connection of the pool; whatever goes wrong with it, it is not used again with answers left unread."""
    connection = pool.get_connection()
    try:
        yield connection
    except BaseException:
        connection.disconnect()
        raise
    finally:
        pool.release(connection)
