"""The client of the search service for asyncio: the same promises as `client`, without blocking the loop."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from time import monotonic
from types import TracebackType
from typing import Any, cast

import redis.asyncio
from redis import exceptions
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from typing_extensions import Self, Unpack

from query_service.asking import Question, request_of
from query_service.client import RECONNECT_SECONDS
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

_MOST_CONNECTIONS = 128  # one for each search under way; more of them wait for one, within their time
_CANCEL_SECONDS = 2.0
_BUSY_SECONDS = 0.05


class AsyncSearchClient:
    """Asks the running search service from one event loop. Use it as an async context manager, or call `close`.

    As `SearchClient` in all else. Cancelling the task that waits for an answer cancels the search.
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
        self._pool: Any = None
        self._place = "Redis"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections; a later search would make new ones."""
        pool, self._pool = self._pool, None
        if pool is not None:
            await pool.disconnect()

    async def search(self, **question: Unpack[Question]) -> SearchAnswer:
        """Search with what `Question` describes, and wait for the answer. Raises as `SearchClient.search` does."""
        return await self.send(await self._request(question))

    async def search_many(self, questions: Iterable[Question]) -> list[SearchAnswer | VisualSearchError]:
        """Search with each question, all together: an answer or an error for each, in their order."""
        outcomes: list[Outcome | None] = []
        requests: list[SearchRequest] = []
        for question in questions:
            try:
                requests.append(await self._request(question))
                outcomes.append(None)
            except VisualSearchError as error:
                outcomes.append(error)
        sent = iter(await self.send_many(requests))
        return [next(sent) if outcome is None else outcome for outcome in outcomes]

    async def send(self, request: SearchRequest) -> SearchAnswer:
        """Send a request and wait for its answer. Raises as `search` does once it is sent."""
        end = monotonic() + request.timeout_seconds
        for attempt in range(self._busy_retries):
            try:
                return await self._answer(request)
            except ServiceBusy:
                pause = _BUSY_SECONDS * 2**attempt * random.uniform(0.5, 1.5)  # noqa: S311 - no secret
                if monotonic() + pause >= end:
                    raise
                await asyncio.sleep(pause)
                request = request.model_copy(update={"timeout_seconds": max(0.001, end - monotonic())})
        return await self._answer(request)

    async def send_many(self, requests: Sequence[SearchRequest]) -> list[SearchAnswer | VisualSearchError]:
        """Send requests together on one connection, 64 at once; an answer or an error for each, in their order."""
        outcomes: list[SearchAnswer | VisualSearchError] = []
        for window in windows(requests):
            outcomes += await self._ask(Exchange(window, self.settings.search_queue))
        return outcomes

    async def cancel(self, request_id: str) -> None:
        """Nobody needs this answer any more; whoever waits for it gets SearchCancelled. Raises RedisUnavailable."""
        await self._cancel(request_id, MAX_TIMEOUT_SECONDS)

    async def workers(self) -> int:
        """Count the query workers that gave a sign within the last seconds. Raises RedisUnavailable."""
        return sum(seconds <= FRESH_SECONDS for seconds in await self._silences())

    async def _request(self, question: Question) -> SearchRequest:
        if isinstance(question.get("image"), bytes | None):
            return request_of(question, self.settings, self._collection)
        return await asyncio.to_thread(request_of, question, self.settings, self._collection)  # reads a file

    async def _answer(self, request: SearchRequest) -> SearchAnswer:
        (outcome,) = await self._ask(Exchange([request], self.settings.search_queue))
        return answer_or_raise(outcome)

    async def _ask(self, exchange: Exchange) -> list[Outcome]:
        try:
            await self._exchange(exchange)
        except (RedisUnavailable, RedisUnusable) as error:
            exchange.fail(error)
        except asyncio.CancelledError:
            await self._cancel_all(exchange.waiting)
            raise
        return await self._with_reasons(list(exchange.outcomes()))

    async def _exchange(self, exchange: Exchange) -> None:
        """Move it on until every request has an outcome; a connection that breaks is made anew once."""
        if not exchange.waiting:
            return
        pool = await self._connections()
        with redis_errors_translated(self._place):
            try:
                await _rounds(pool, exchange)
            except exceptions.ConnectionError:
                await asyncio.sleep(RECONNECT_SECONDS)
                exchange.start_again()
                await _rounds(pool, exchange)

    async def _with_reasons(self, outcomes: list[Outcome]) -> list[Outcome]:
        if not any(isinstance(outcome, NoAnswer) for outcome in outcomes):
            return outcomes
        try:
            silences = await self._silences()
        except (RedisUnavailable, RedisUnusable):
            return outcomes
        return [no_answer(one, silences) if isinstance(one, NoAnswer) else one for one in outcomes]

    async def _silences(self) -> list[float]:
        client: Any = redis.asyncio.Redis(connection_pool=await self._connections())
        with redis_errors_translated(self._place):
            keys = [key async for key in client.scan_iter(match=SIGNS, count=1000)]
            async with client.pipeline(transaction=False) as pipeline:
                for key in keys:
                    pipeline.pttl(key)
                return silent_seconds(await pipeline.execute())

    async def _cancel(self, request_id: str, timeout_seconds: float) -> None:
        pool = await self._connections()
        with redis_errors_translated(self._place):
            async with _connection(pool) as connection:
                await _pipelined(connection, cancelling(request_id, timeout_seconds))

    async def _cancel_all(self, requests: Sequence[SearchRequest]) -> None:
        """Tell the workers, for a moment at most: the requests end by themselves too, at their deadline."""
        cancels = [self._cancel(request.request_id, request.timeout_seconds) for request in requests]
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.gather(*cancels, return_exceptions=True), _CANCEL_SECONDS)

    async def _connections(self) -> Any:
        """The pool, made at first use. Raises RedisUnavailable, RedisUnusable."""
        if self._pool is None:
            url = await asyncio.to_thread(find_service, self.settings, self._url)
            self._place = without_password(url)
            self._pool = self._pool or _pool_of(url, self._place)  # another task may have been quicker
        return self._pool


def _pool_of(url: str, place: str) -> Any:
    options = cast("dict[str, Any]", POOL_OPTIONS)
    try:
        return redis.asyncio.BlockingConnectionPool.from_url(
            url, max_connections=_MOST_CONNECTIONS, timeout=None, retry=Retry(NoBackoff(), 0), **options
        )
    except (ValueError, TypeError) as error:
        raise RedisUnusable(f"{place} is no usable Redis address: {error}") from error


async def _rounds(pool: Any, exchange: Exchange) -> None:
    """The wait for a free connection counts too: the searches' time runs already."""
    try:
        connecting = asyncio.wait_for(pool.get_connection(), exchange.longest_seconds())
        async with _connection(pool, connecting) as connection:
            while exchange.waiting:
                longest, commands = exchange.longest_seconds(), exchange.commands()
                exchange.take(await asyncio.wait_for(_pipelined(connection, commands), longest))
    except asyncio.TimeoutError as error:
        raise exceptions.TimeoutError("it did not answer in time") from error


async def _pipelined(connection: Any, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
    """Send all, then read all; the caller limits the time."""
    await connection.send_packed_command(connection.pack_commands(commands))
    return [await connection.read_response(timeout=math.inf) for _ in commands]


@asynccontextmanager
async def _connection(pool: Any, connecting: Any = None) -> AsyncIterator[Any]:
    """One connection of the pool; whatever goes wrong with it, it is not used again with answers left unread."""
    connection = await (pool.get_connection() if connecting is None else connecting)
    try:
        yield connection
    except BaseException:
        await connection.disconnect(nowait=True)
        raise
    finally:
        await pool.release(connection)
