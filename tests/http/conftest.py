"""The HTTP API in this process, asked without a socket, and as a real process with a real Valkey behind it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from http_api import HttpProcess, InProcess, api_keys, in_process
from pictures import jpeg
from servers import StartRole, ValkeyServer, free_port, wait_for

from storage.settings import Settings


@pytest.fixture
def http_settings(tmp_path: Path, redis_url: str) -> Settings:
    """Settings of a fresh catalog (SQLite) with the `baseline` model, a fresh Valkey database and a free port."""
    return Settings(
        data_dir=tmp_path / "data",
        model="baseline",
        redis_url=redis_url,
        http_port=free_port(),
        batch_images=4,
        requests_per_minute=0,
    )


@pytest.fixture
def http_app(http_settings: Settings) -> Iterator[InProcess]:
    """The application without keys, asked in this process: `http_app.client.get("/v1/collections")`."""
    with in_process(http_settings) as app:
        yield app


@pytest.fixture
def keyed_app(http_settings: Settings) -> Iterator[InProcess]:
    """The same with a key for each scope: `keyed_app.client.get(..., headers=bearer(SEARCH_KEY))`."""
    with in_process(http_settings.model_copy(update={"api_keys": api_keys()})) as app:
        yield app


@pytest.fixture(scope="session")
def stateless_app(valkey_server: ValkeyServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[InProcess]:
    """One application without keys for all tests that leave nothing behind: it is made once."""
    with in_process(_stateless(valkey_server, tmp_path_factory.mktemp("http"))) as app:
        yield app


@pytest.fixture(scope="session")
def stateless_keyed_app(valkey_server: ValkeyServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[InProcess]:
    """The same with a key for each scope."""
    settings = _stateless(valkey_server, tmp_path_factory.mktemp("http-keyed"))
    with in_process(settings.model_copy(update={"api_keys": api_keys()})) as app:
        yield app


def _stateless(valkey: ValkeyServer, folder: Path) -> Settings:
    return Settings(data_dir=folder, model="baseline", redis_url=valkey.url, requests_per_minute=0)


@pytest.fixture
def http_process(start_role: StartRole) -> Iterator[Callable[[Settings], HttpProcess]]:
    """`http_process(settings)`: started, waited for until it answers, and killed at the end."""
    clients: list[httpx.Client] = []

    def start(settings: Settings) -> HttpProcess:
        role = start_role("query_service.http", settings)
        client = httpx.Client(base_url=f"http://127.0.0.1:{settings.http_port}", timeout=120)
        clients.append(client)
        wait_for(lambda: role.says("ready"), what="the HTTP API to be ready")
        return HttpProcess(role, client, settings)

    yield start
    for client in clients:
        client.close()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with six pictures."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(6):
        (folder / f"{number}.jpg").write_bytes(jpeg(number))
    return folder
