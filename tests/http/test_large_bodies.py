"""Large searches are read and unpacked on threads: the loop answers others meanwhile. Nothing here depends on time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event

import httpx
import pytest
from fastapi import FastAPI
from http_api import http_service

from query_service.http.app import create_app
from storage.settings import Settings

_SMALL_BYTES, _LARGE_BYTES = 100, 200_000
_OTHERS = 100  # requests that are answered meanwhile; a refusal takes some ten steps of the loop
_NO_BASE64 = "!"


def _one(size: int) -> dict[str, object]:
    return {"query": [{"image_base64": _NO_BASE64 * size}]}


def _form(size: int) -> httpx.Request:
    return httpx.Request("POST", "http://x", files={"image": bytes(size)}, data={"request": '{"k": "wrong"}'})


def _json(document: object) -> httpx.Request:
    return httpx.Request("POST", "http://x", json=document)


WAYS = {
    "json": ("/v1/search", lambda size: _json(_one(size))),
    "form": ("/v1/search", _form),
    "batch": ("/v1/search/batch", lambda size: _json({"searches": [_one(size)]})),
}


async def _sent(client: httpx.AsyncClient, address: str, wanted: httpx.Request) -> asyncio.Task[httpx.Response]:
    """The request on its way, when the application has all of its body, and has answered many others since."""
    has_all = asyncio.Event()
    body = wanted.read()

    async def pieces() -> AsyncIterator[bytes]:
        yield body
        has_all.set()  # it asked for more

    headers = {"Content-Type": wanted.headers["Content-Type"]}
    reply = asyncio.create_task(client.post(address, content=pieces(), headers=headers))
    await has_all.wait()
    for _ in range(_OTHERS):
        assert (await client.get("/healthz")).json() == {"alive": True}
        await asyncio.sleep(0)  # a step of the loop, in which the first one gets on if it can
    return reply


@contextmanager
def _all_threads_taken() -> Iterator[tuple[ThreadPoolExecutor, Event]]:
    free = Event()
    with ThreadPoolExecutor(1) as only:
        only.submit(free.wait)
        try:
            yield only, free
        finally:
            free.set()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("size", [_SMALL_BYTES, _LARGE_BYTES], ids=["small", "large"])
def test_only_a_large_search_is_unpacked_on_a_thread_and_others_are_answered_meanwhile(
    http_settings: Settings, way: str, size: int
) -> None:
    address, made = WAYS[way]

    async def ask(app: FastAPI) -> str:
        transport = httpx.ASGITransport(app)
        with _all_threads_taken() as (only, free):
            asyncio.get_running_loop().set_default_executor(only)
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
                reply = await _sent(client, address, made(size))
                if size == _LARGE_BYTES:
                    assert not reply.done()
                    free.set()
                return (await reply).text  # a small one needs no thread

    with http_service(http_settings) as service:
        answer = json.loads(asyncio.run(ask(create_app(service))))
    error = answer["answers"][0]["error"] if way == "batch" else answer["error"]
    assert error["reason"] == "invalid_query"
