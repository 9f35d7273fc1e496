"""Hundreds of hostile searches over the queue and over HTTP: each gets its reason, and the same processes go on."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hostile_requests import EMPTY, Hostile, for_http, for_redis, without_ids
from pictures import jpeg
from redis import Redis
from search_entries import request, submit
from servers import RoleProcess, StartRole, free_port, wait_for

from query_service.protocol import SearchReply
from query_service.transport.request_queue import CANCELLED, DEAD_LETTERS, GROUP, STREAMS, reply_key
from query_service.wire import unpack_reply
from storage.settings import Settings
from visual_search.collection import ImageCollection
from workers.servers import connect_url

pytestmark = pytest.mark.slow  # real processes: `make test-slow`

TOGETHER = 32
SEED = int(os.environ.get("HOSTILE_SEED", "4"))


@pytest.fixture
def settings(tmp_path: Path, redis_url: str) -> Settings:
    made = Settings(
        data_dir=tmp_path / "data", model="baseline", redis_url=redis_url, http_port=free_port(),
        requests_per_minute=0, search_seconds=120,
    )  # fmt: skip
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(8):
        (folder / f"{number:02}.jpg").write_bytes(jpeg(number))
    with ImageCollection("default", settings=made) as into:
        into.index(folder)
    return made


@pytest.fixture
def client(redis_url: str) -> Iterator[Redis]:
    with connect_url(redis_url) as connected:
        yield connected


@pytest.fixture
def worker(start_role: StartRole, settings: Settings) -> RoleProcess:
    started = start_role("query_service.worker", settings)
    wait_for(lambda: started.says("ready"), what="the query worker to be ready")
    return started


def assert_answers(ask: Callable[[], Any], worker: RoleProcess, pid: int) -> None:
    """The picture that is asked with is the best result; the process is the same, and has logged no bug."""
    assert ask() == "03.jpg"
    assert (worker.pid, worker.process.poll()) == (pid, None)
    assert "Traceback" not in worker.text(), worker.text()[-3000:]


def assert_nothing_is_left(client: Any, dead: int = 0) -> None:
    """No entry, pending or not, no reply, no cancelled id; dead letters as many as there have to be."""

    def clean() -> bool:
        entries = sum(client.xlen(stream) for stream in STREAMS.values())
        pending = sum(client.xpending(stream, GROUP)["pending"] for stream in STREAMS.values())
        return (entries, pending, client.keys("vs:reply:*"), client.exists(CANCELLED)) == (0, 0, [], 0)

    wait_for(clean, what="an empty queue")
    assert client.xlen(DEAD_LETTERS) == dead


def outcome_of(reply: SearchReply) -> tuple[str, str]:
    if reply.error is not None:
        return reply.error.reason, reply.error.message
    assert reply.answer is not None
    return (EMPTY if not reply.answer.results else f"found {reply.answer.image_ids}"), "-"


def problem(one: Hostile, outcome: tuple[str, str]) -> str | None:
    reason, message = outcome
    if reason not in one.reasons:
        return f"{one.name}: {reason} ({message[:200]}) in place of {' or '.join(one.reasons)}"
    if not message or len(message) > 4000 or "Traceback" in message or "sqlalchemy" in message.lower():
        return f"{one.name}: the message is {message[:300]!r}"
    return None


def send_raw(client: Any, one: Hostile) -> str:
    request_id = secrets.token_hex(16)
    client.xadd(STREAMS["normal"], {"id": request_id, "m": one.data, "t": 120_000, **one.fields})
    return request_id


def test_hostile_entries_of_the_queue(client: Any, worker: RoleProcess) -> None:
    """Among them forged, cut and nested messages, pictures that are bombs, and times that are over."""
    print(f"HOSTILE_SEED={SEED}")
    cases = for_redis(SEED)
    assert len(cases) >= 200

    def ask() -> str:
        wanted = request(parts=[{"image": jpeg(3)}], options={"top_k": 1})
        submit(client, wanted)
        reply = unpack_reply(client.blpop(reply_key(wanted.request_id), timeout=60)[1])
        return reply.answer.results[0].image_id if reply.answer else str(reply.error)

    pid, problems = worker.pid, []
    assert_answers(ask, worker, pid)
    for first in range(0, len(cases), TOGETHER):
        sent = [(one, send_raw(client, one)) for one in cases[first : first + TOGETHER]]
        for one, request_id in sent:
            found = client.blpop(reply_key(request_id), timeout=180)
            assert found is not None, f"{one.name}: no reply\n{worker.text()[-3000:]}"
            problems.append(problem(one, outcome_of(unpack_reply(found[1]))))
    assert [one for one in problems if one] == []
    nobody = without_ids()
    for fields in nobody:
        client.xadd(STREAMS["normal"], fields)
    assert_answers(ask, worker, pid)
    assert_nothing_is_left(client, dead=len(nobody))
    assert worker.stop() == 0


def test_hostile_bodies_over_http(client: Any, worker: RoleProcess, start_role: StartRole, settings: Settings) -> None:
    """The same intents as JSON and forms; the HTTP process lives on too."""
    print(f"HOSTILE_SEED={SEED}")
    cases = for_http(SEED)
    assert len(cases) >= 200
    web = start_role("query_service.http", settings)
    wait_for(lambda: web.says("ready"), what="the HTTP API to be ready")
    pids, problems = (worker.pid, web.pid), []
    with httpx.Client(base_url=f"http://127.0.0.1:{settings.http_port}", timeout=180) as http:

        def ask() -> str:
            reply = http.post("/v1/search", files=[("image", ("a.jpg", jpeg(3)))], data={"request": '{"k": 1}'})
            return str(reply.json()["results"][0]["image_id"])

        assert_answers(ask, worker, pids[0])
        for one in cases:
            reply = http.post("/v1/search", content=one.data, headers={"Content-Type": one.kind})
            problems.append(problem(one, _outcome_over_http(reply)))
        assert [one for one in problems if one] == []
        assert_answers(ask, worker, pids[0])
        assert_answers(ask, web, pids[1])
    assert_nothing_is_left(client)
    assert (worker.stop(), web.stop()) == (0, 0)


def _outcome_over_http(reply: httpx.Response) -> tuple[str, str]:
    document = reply.json()
    if reply.status_code == 200:
        return (EMPTY if not document["results"] else "found"), "-"
    assert 400 <= reply.status_code < 500, reply.text
    return document["error"]["reason"], document["error"]["message"]
