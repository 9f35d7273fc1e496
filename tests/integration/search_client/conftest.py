"""What tests of the clients share: clients of either kind on a real Valkey, closed at the end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from query_service.async_client import AsyncSearchClient
from query_service.client import SearchClient
from storage.settings import Settings
from workers.servers import connect_url


class AsyncInLoop:
    """The async client behind the blocking one's calls, so that both keep the same promises in the same tests."""

    def __init__(self, settings: Settings, **options: Any) -> None:
        self._loop = asyncio.Runner() if hasattr(asyncio, "Runner") else None
        self._client = AsyncSearchClient(settings, **options)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)
        return lambda *args, **keywords: self._run(method(*args, **keywords))

    def _run(self, work: Any) -> Any:
        if self._loop is None:
            pytest.skip("asyncio.Runner needs Python 3.11")
        return self._loop.run(work)

    def stop(self) -> None:
        if self._loop is not None:
            self._loop.run(self._client.close())
            self._loop.close()


@pytest.fixture
def settings(tmp_path: Path, redis_url: str) -> Settings:
    return Settings(data_dir=tmp_path, redis_url=redis_url, search_seconds=60.0)


@pytest.fixture(params=["sync", "async"])
def open_client(request: Any, settings: Settings) -> Iterator[Callable[..., Any]]:
    """`open_client(**options)`: a client of either kind, closed at the end."""
    opened: list[Any] = []

    def open_one(**options: Any) -> Any:
        kind = SearchClient if request.param == "sync" else AsyncInLoop
        opened.append(kind(options.pop("settings", settings), **options))
        return opened[-1]

    yield open_one
    for one in opened:
        one.close() if isinstance(one, SearchClient) else one.stop()


@pytest.fixture
def redis(redis_url: str) -> Iterator[Any]:
    with connect_url(redis_url) as connected:
        yield connected
