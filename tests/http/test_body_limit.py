"""A body that does not get on is refused in time, one that does is waited for."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence

import pytest
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from query_service.http.body_limit import BodyLimit
from query_service.http.error_replies import add_error_replies


async def size(request: Request) -> JSONResponse:
    return JSONResponse({"bytes": len(await request.body())})


def asked(pieces: Sequence[tuple[float, bytes]], *, most: int = 1000, slow: float = 0.3) -> tuple[int, dict]:
    """Send these pieces after these pauses; the last one ends the body. Returns status and document."""
    app = FastAPI()
    app.add_api_route("/", size, methods=["POST"])
    add_error_replies(app)
    waiting = list(pieces)
    sent: list[dict] = []

    async def receive() -> dict:
        if not waiting:
            await asyncio.sleep(60)
        pause, body = waiting[0]
        await asyncio.sleep(pause)
        waiting.pop(0)
        return {"type": "http.request", "body": body, "more_body": bool(waiting)}

    async def send(message: dict) -> None:
        sent.append(message)

    scope = {
        "type": "http", "method": "POST", "path": "/", "query_string": b"",
        "headers": [(b"transfer-encoding", b"chunked")], "state": {},
    }  # fmt: skip
    asyncio.run(BodyLimit(app, most, slow)(scope, receive, send))
    return sent[0]["status"], json.loads(b"".join(one.get("body", b"") for one in sent))


def test_a_body_that_stalls_is_told_so(monkeypatch):
    monkeypatch.setattr("query_service.http.body_limit.LINGER_SECONDS", 0.1)
    status, document = asked([(0, b"x"), (30, b"y")])
    assert status == 408
    assert document["error"]["reason"] == "request_timeout"


def test_a_slow_body_that_gets_on_is_taken(monkeypatch):
    """What has come buys it time: here a second for each byte, and nothing but the first piece comes in 0.3 seconds."""
    monkeypatch.setattr("query_service.http.body_limit.SLOWEST_BYTES_PER_SECOND", 1)
    assert asked([(0, b"x" * 100), *[(0.1, b"x" * 100)] * 7]) == (200, {"bytes": 800})


@pytest.mark.parametrize(("sizes", "status"), [([400, 600], 200), ([400, 601], 413), ([1001], 413), ([0, 0], 200)])
def test_the_limit_counts_what_really_comes(sizes, status):
    assert asked([(0, b"x" * size) for size in sizes])[0] == status
