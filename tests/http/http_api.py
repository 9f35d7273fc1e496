"""What tests of the HTTP API share: keys, the application in this process, and the real process."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
from fastapi import APIRouter, FastAPI, Request
from fastapi.testclient import TestClient
from servers import RoleProcess

from query_service.async_client import AsyncSearchClient
from query_service.http.access import requires
from query_service.http.app import create_app
from query_service.http.service import HttpService
from storage.errors import CatalogUnavailable, UnknownCollection
from storage.settings import ApiKey, Settings
from workers.job_client import JobClient
from workers.servers import connect_redis

SEARCH_KEY, SUBMIT_KEY, ADMIN_KEY = "vs-search-key", "vs-submit-key", "vs-admin-key"


def api_key(name: str, key: str, *scopes: str) -> ApiKey:
    return ApiKey(name=name, sha256=hashlib.sha256(key.encode()).hexdigest(), scopes=scopes)


def api_keys() -> list[ApiKey]:
    """One key of each scope."""
    pairs = {"search": SEARCH_KEY, "submit": SUBMIT_KEY, "admin": ADMIN_KEY}
    return [api_key(f"the {scope} key", key, scope) for scope, key in pairs.items()]


def add_probes(app: FastAPI) -> None:
    """Addresses of our own: one for each scope, one that reads a body, and those that fail."""
    router = APIRouter(prefix="/v1/probe")

    def allowed() -> dict[str, bool]:
        return {"allowed": True}

    for scope in ("search", "submit", "admin"):
        router.add_api_route(f"/{scope}", allowed, dependencies=[requires(scope)])

    @router.post("/body")
    async def body(request: Request) -> dict[str, int]:
        return {"bytes": len(await request.body())}

    @router.post("/json")
    def json_body(document: dict[str, Any], number: int = 0) -> dict[str, int]:
        return {"keys": len(document), "number": number}

    @router.get("/fails")
    def fails(reason: str) -> None:
        raise {
            "bug": RuntimeError("a secret: /etc/passwd"),
            "sql": CatalogUnavailable("no host 10.1.2.3"),
            "name": UnknownCollection("there is no collection '\ud800'"),
        }[reason]

    app.include_router(router)


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@dataclass
class InProcess:
    """`client` asks the application directly, `service` is what it works with."""

    client: TestClient
    service: HttpService


@contextmanager
def http_service(settings: Settings) -> Iterator[HttpService]:
    """What the application works with, closed at the end."""
    with connect_redis(settings) as redis, JobClient(settings) as jobs:
        yield HttpService(settings, jobs, AsyncSearchClient(settings), redis.ping)


@contextmanager
def in_process(settings: Settings, **client_options: Any) -> Iterator[InProcess]:
    """The application, asked without a socket."""
    options = {"base_url": "http://127.0.0.1", "raise_server_exceptions": False, **client_options}
    with http_service(settings) as service:
        app = create_app(service)
        add_probes(app)
        with TestClient(app, **options) as client:
            yield InProcess(client, service)


@dataclass
class HttpProcess:
    """A real `python -m query_service.http`; `client` asks it over its port."""

    role: RoleProcess
    client: httpx.Client
    settings: Settings
