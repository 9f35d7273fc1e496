"""The client of the search service for asyncio: the same promises as `client`, without blocking the loop."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any

from redis import exceptions
from typing_extensions import Self, Unpack

from query_service.protocol import MAX_TIMEOUT_SECONDS, SearchAnswer, SearchRequest
from query_service.transport.asking import Question, request_of
from query_service.transport.async_connections import AsyncConnections, in_time, pipelined
from query_service.transport.busy_retries import BusyRetries
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
        self._pool: AsyncConnections | None = None
        self._place = "Redis"
        self._farewells: set[asyncio.Task[Any]] = set()  # the loop itself keeps no task alive

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections; a later search makes new ones, and one under way still gets its answer."""
        if self._farewells:
            await asyncio.wait(self._farewells, timeout=LOOK_SECONDS)
        pool, self._pool = self._pool, None
        if pool is not None:
            await pool.close()

    async def search(self, **question: Unpack[Question]) -> SearchAnswer:
        """Search with what `Question` describes, and wait for the answer. Raises as `SearchClient.search` does."""
        return await self.send(await self._request(question))

    async def search_many(self, questions: Iterable[Question]) -> list[SearchAnswer | VisualSearchError]:
        """Search with each question, 64 at once: an answer or an error for each, in their order."""
        return [outcome for some in together(questions) for outcome in await self._search_together(some)]

    async def send(self, request: SearchRequest) -> SearchAnswer:
        """Send a request and wait for its answer. Raises as `search` does once it is sent."""
        (outcome,) = await self.send_many([request])
        return answer_or_raise(outcome)

    async def send_many(self, requests: Sequence[SearchRequest]) -> list[SearchAnswer | VisualSearchError]:
        """Send requests together on one connection, 64 at once; an answer or an error for each, in their order."""
        outcomes: list[SearchAnswer | VisualSearchError] = []
        for window in windows(requests):
            outcomes += await self._ask_again_if_busy(window)
        return outcomes

    async def cancel(self, request_id: str) -> None:
        """Nobody needs this answer any more; whoever waits for it gets SearchCancelled. Raises RedisUnavailable."""
        await self._tell([cancelling(request_id, MAX_TIMEOUT_SECONDS)])

    async def workers(self) -> int:
        """Count the query workers that gave a sign within the last seconds. Raises RedisUnavailable."""
        return sum(seconds <= FRESH_SECONDS for seconds in await self._silences())

    async def _request(self, question: Question) -> SearchRequest:
        if isinstance(question.get("image"), bytes | None):
            return request_of(question, self.settings, self._collection)
        return await asyncio.to_thread(request_of, question, self.settings, self._collection)  # reads a file

    async def _search_together(self, questions: Sequence[Question]) -> list[Outcome]:
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

    async def _ask_again_if_busy(self, requests: Sequence[SearchRequest]) -> list[Outcome]:
        retries = BusyRetries(requests, self._busy_retries)
        outcomes = await self._ask(requests)
        while True:
            pause, again = retries.again(outcomes)
            if not again:
                return outcomes
            await asyncio.sleep(pause)
            for place, outcome in zip(again, await self._ask(list(again.values())), strict=True):
                outcomes[place] = outcome

    async def _ask(self, requests: Sequence[SearchRequest]) -> list[Outcome]:
        exchange = Exchange(requests, self.settings.search_queue)
        try:
            await self._exchange(exchange)
        except (RedisUnavailable, RedisUnusable) as error:
            exchange.fail(error)
        except asyncio.CancelledError:
            await self._give_up(exchange)
            raise
        return await self._with_reasons(exchange)

    async def _exchange(self, exchange: Exchange) -> None:
        """Move it on until every request has an outcome; a connection that breaks is made anew."""
        if not exchange.waiting:
            return
        pool = await self._connections()
        with redis_errors_translated(self._place):
            for pause in (*RECONNECT_PAUSES_SECONDS, None):
                try:
                    await _rounds(pool, exchange)
                except (exceptions.AuthenticationError, exceptions.AuthorizationError):
                    raise  # they count as broken connections with redis-py
                except exceptions.ConnectionError:
                    if pause is None or not exchange.has_time(pause):
                        raise
                    await asyncio.sleep(pause)
                    exchange.start_again()
                else:
                    return

    async def _give_up(self, exchange: Exchange) -> None:
        """Tell the workers in a task of its own: whoever cancelled us may cancel every further wait of ours too."""
        task = asyncio.create_task(self._say_goodbye(giving_up(exchange.waiting)))
        self._farewells.add(task)
        task.add_done_callback(self._farewells.discard)
        await asyncio.shield(task)

    async def _say_goodbye(self, commands: Sequence[Command]) -> None:
        with suppress(RedisUnavailable, RedisUnusable):  # then the searches end at their deadline
            await self._tell(commands)

    async def _with_reasons(self, exchange: Exchange) -> list[Outcome]:
        """The outcomes; those without an answer also say whether anybody is there, and are taken back."""
        outcomes = list(exchange.outcomes())
        if not any(isinstance(outcome, NoAnswer) for outcome in outcomes):
            return outcomes
        try:
            await self._tell(exchange.taking_back())
            silences = await self._silences()
        except (RedisUnavailable, RedisUnusable):
            return outcomes
        return [no_answer(one, silences) if isinstance(one, NoAnswer) else one for one in outcomes]

    async def _silences(self) -> list[float]:
        keys: list[bytes] = []
        cursor: Any = 0
        while True:
            ((cursor, found),) = await self._tell([signs_wanted(cursor)])
            keys += found
            if int(cursor) == 0:
                return silent_seconds(await self._tell(signs_left(keys)))

    async def _tell(self, commands: Sequence[Command]) -> list[Any]:
        """Send commands that are answered at once."""
        if not commands:
            return []
        pool = await self._connections()
        with redis_errors_translated(self._place):
            async with pool.one(LOOK_SECONDS) as connection:
                return await in_time(pipelined(connection, commands), LOOK_SECONDS)

    async def _connections(self) -> AsyncConnections:
        """The pool, made at first use. Raises RedisUnavailable, RedisUnusable."""
        if self._pool is None:
            url = await asyncio.to_thread(find_service, self.settings, self._url)
            self._place = without_password(url)
            self._pool = self._pool or AsyncConnections(url, self._place)  # another task may have been quicker
        return self._pool


async def _rounds(pool: AsyncConnections, exchange: Exchange) -> None:
    """The wait for a free connection counts too: the searches' time runs already."""
    async with pool.one(exchange.longest_seconds()) as connection:
        while exchange.waiting:
            longest, commands = exchange.longest_seconds(), exchange.commands()
            exchange.take(await in_time(pipelined(connection, commands), longest))
