"""The client of the search service for asyncio: the same promises as `client`, without blocking the loop."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import suppress
from time import monotonic
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
        self._connections: AsyncConnections | None = None
        self._closings = 0
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
        self._closings += 1
        connections, self._connections = self._connections, None
        if connections is not None:
            await connections.close()

    async def search(self, **question: Unpack[Question]) -> SearchAnswer:
        """Search with what `Question` describes, and wait for the answer. Raises as `SearchClient.search` does."""
        return await self.send(await self._request(question))

    async def search_many(self, questions: Iterable[Question]) -> list[SearchAnswer | VisualSearchError]:
        """Search with each question, 64 at once: an answer or an error for each, in their order."""
        return [outcome for some in together(questions) for outcome in await self._search_together(some)]

    async def send(self, request: SearchRequest) -> SearchAnswer:
        """Send a request and wait for its answer. Raises as `search` does once it is sent.

        Its id is for one search: what was cancelled or out of time is asked again under another one.
        """
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
        await (await self._connected()).told([cancelling(request_id, MAX_TIMEOUT_SECONDS)], LOOK_SECONDS)

    async def workers(self) -> int:
        """Count the query workers that gave a sign within the last seconds. Raises RedisUnavailable."""
        silences = await _silences(await self._connected(), LOOK_SECONDS)
        return sum(seconds <= FRESH_SECONDS for seconds in silences)

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
        """Until all is over on the same connections: those made after a `close` would be closed by nobody."""
        exchange = Exchange(requests, self.settings.search_queue)
        if exchange.waiting:
            try:
                connections = await self._connected()
                await self._move_on(connections, exchange)
                return await _with_reasons(connections, exchange)
            except (RedisUnavailable, RedisUnusable) as error:
                exchange.fail(error)
        return list(exchange.outcomes())

    async def _move_on(self, connections: AsyncConnections, exchange: Exchange) -> None:
        """Until every request has an outcome; a connection that breaks is made anew. Cancelled, it cancels them."""
        try:
            with redis_errors_translated(connections.place):
                for pause in (*RECONNECT_PAUSES_SECONDS, None):
                    try:
                        return await _rounds(connections, exchange)
                    except (exceptions.AuthenticationError, exceptions.AuthorizationError):
                        raise  # they count as broken connections with redis-py
                    except exceptions.ConnectionError:
                        if pause is None or not exchange.has_time(pause):
                            raise
                        await asyncio.sleep(pause)
                        exchange.start_again()
        except asyncio.CancelledError:
            await self._give_up(connections, exchange.giving_up())
            raise

    async def _give_up(self, connections: AsyncConnections, commands: Sequence[Command]) -> None:
        """Tell the workers in a task of its own: whoever cancelled us may cancel every further wait of ours too."""
        task = asyncio.create_task(_say_goodbye(connections, commands))
        self._farewells.add(task)
        task.add_done_callback(self._farewells.discard)
        await asyncio.shield(task)

    async def _connected(self) -> AsyncConnections:
        """The connections, made at first use. Raises RedisUnavailable, RedisUnusable."""
        if self._connections is None:
            closings = self._closings
            url = await asyncio.to_thread(find_service, self.settings, self._url)
            if closings != self._closings:  # closed meanwhile: they are ours alone
                return AsyncConnections(url, without_password(url), kept=False)
            # another task may have been quicker
            self._connections = self._connections or AsyncConnections(url, without_password(url))
        return self._connections


async def _rounds(connections: AsyncConnections, exchange: Exchange) -> None:
    """The wait for a free connection counts too: the searches' time runs already."""
    async with connections.one(exchange.longest_seconds()) as connection:
        while exchange.waiting:
            longest, commands = exchange.longest_seconds(), exchange.commands()
            exchange.take(await in_time(pipelined(connection, commands), longest))


async def _say_goodbye(connections: AsyncConnections, commands: Sequence[Command]) -> None:
    with suppress(RedisUnavailable, RedisUnusable):  # then the searches end at their deadline
        await connections.told(commands, LOOK_SECONDS)


async def _with_reasons(connections: AsyncConnections, exchange: Exchange) -> list[Outcome]:
    """The outcomes; those without an answer also say whether anybody is there. What nobody needs is taken back."""
    outcomes, ends = list(exchange.outcomes()), monotonic() + REASON_SECONDS
    try:
        await connections.told(exchange.taking_back(), ends - monotonic())
        if not any(isinstance(outcome, NoAnswer) for outcome in outcomes):
            return outcomes
        silences = await _silences(connections, ends - monotonic())
    except (RedisUnavailable, RedisUnusable):
        return outcomes
    return [no_answer(one, silences) if isinstance(one, NoAnswer) else one for one in outcomes]


async def _silences(connections: AsyncConnections, seconds: float) -> list[float]:
    """How long each query worker has given no sign."""
    ends, keys, cursor = monotonic() + seconds, list[bytes](), "0"
    while True:
        ((cursor, found),) = await connections.told([signs_wanted(cursor)], ends - monotonic())
        keys += found
        if int(cursor) == 0:
            return silent_seconds(await connections.told(signs_left(keys), ends - monotonic()))
