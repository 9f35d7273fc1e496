"""Whether the search command asks a running service or searches by itself. Starts nothing."""

from __future__ import annotations

from concurrent.futures import Future, TimeoutError  # noqa: A004 - before Python 3.11 it is not the built-in one
from dataclasses import dataclass
from threading import Thread

from query_service.client import SearchClient
from query_service.transport.service_place import HOW_TO_START
from storage.errors import VisualSearchError
from storage.settings import Settings
from workers.errors import RedisUnavailable

_LOOK_SECONDS = 1.0  # a server on this machine answers in a hundredth, on a busy one or behind a slow line in some


@dataclass(frozen=True)
class Choice:
    """The client of the service that is to be asked; None: search in this process, and why."""

    client: SearchClient | None
    why: str = ""


def choose(settings: Settings, *, service: bool, embedded: bool, too_large: bool) -> Choice:
    """The service when a query worker gives signs, unless told otherwise. `too_large`: it would refuse the page.

    Raises RedisUnavailable when the service is wanted and there is none.
    """
    if embedded:
        return Choice(None)
    if too_large and not service:
        return Choice(None, "the service gives no pages that large")
    client = SearchClient(settings)
    workers = _count_workers(client)
    if isinstance(workers, int) and workers > 0:
        return Choice(client)
    if isinstance(workers, int):
        workers = RedisUnavailable(f"no query worker has given a sign: {HOW_TO_START}")
    client.close()
    if service:
        raise workers
    return Choice(None, "no service is running" if settings.redis_url is None else str(workers))


def _count_workers(client: SearchClient) -> int | VisualSearchError:
    """How many there are, or why that cannot be told; an address that swallows everything costs no more than that."""
    found: Future[int | VisualSearchError] = Future()
    Thread(target=lambda: found.set_result(_workers(client)), daemon=True).start()
    try:
        return found.result(_LOOK_SECONDS)
    except TimeoutError:
        return RedisUnavailable(f"Redis does not answer within {_LOOK_SECONDS:g} s")


def _workers(client: SearchClient) -> int | VisualSearchError:
    try:
        return client.workers()
    except VisualSearchError as error:
        return error
