"""Searches over HTTP with everything real: the process, a query worker, Valkey, pictures; and what the docs show."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
from collections.abc import Callable
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import httpx
import pytest
from http_api import HttpProcess
from pictures import jpeg
from servers import ROOT, RoleProcess, StartRole, wait_for

from query_service.client import SearchClient
from query_service.transport.request_queue import CANCELLED, STREAMS
from storage.settings import Settings
from visual_search.collection import ImageCollection
from workers.servers import connect_redis

pytestmark = pytest.mark.slow  # several processes: `make test-slow`

NAMES = [f"{number:02}.jpg" for number in range(8)]


@pytest.fixture
def settings(http_settings: Settings, tmp_path: Path) -> Settings:
    """With eight pictures, and time for searches: a busy machine takes longer than people wait."""
    made = Settings(**http_settings.model_dump(exclude_unset=True), search_seconds=120)
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, name in enumerate(NAMES):
        (folder / name).write_bytes(jpeg(number))
    with ImageCollection("default", settings=made) as into:
        into.index(folder)
    return made


@pytest.fixture
def worker(start_role: StartRole, settings: Settings) -> RoleProcess:
    started = start_role("query_service.worker", settings)
    wait_for(lambda: started.says("ready"), what="the query worker to be ready")
    return started


@pytest.fixture
def http(http_process: Callable[[Settings], HttpProcess], settings: Settings, worker: RoleProcess) -> httpx.Client:
    return http_process(settings).client


def ids(document: dict[str, Any]) -> list[str]:
    return [result["image_id"] for result in document["results"]]


def test_http_answers_as_the_client_does(http: httpx.Client, settings: Settings) -> None:
    """JSON, forms, batches and pages, each against the RPC client."""
    with SearchClient(settings) as client:
        expected = client.search(image=jpeg(3), k=8)
    found = http.post("/v1/search", json={"query": [{"image_id": "03.jpg"}], "k": 8, "exclude_query": False}).json()
    assert ids(found) == expected.image_ids
    assert [one["rank"] for one in found["results"]] == list(range(1, 9))
    assert found["results"][0]["thumbnail"] == "/v1/thumbnail?id=03.jpg&collection=default"
    assert found["provenance"]["images"] == 8
    # a form, with the JSON and without
    files = [("image", ("a.jpg", jpeg(3))), ("image", ("b.jpg", jpeg(5)))]
    assert ids(http.post("/v1/search", files=files[:1]).json()) == expected.image_ids
    wanted = {"image_weights": [1, -0.5], "k": 8}
    mixed = http.post("/v1/search", files=files, data={"request": json.dumps(wanted)}).json()
    with SearchClient(settings) as client:
        parts = [{"image": jpeg(3)}, {"image": jpeg(5), "weight": -0.5}]
        assert ids(mixed) == client.search(parts=parts, k=8).image_ids
    # pages fit together; an explanation is there when asked for
    pages = [
        http.post("/v1/search", json={"query": [{"image_id": "03.jpg"}], "k": 3, "offset": at, "explain": True}).json()
        for at in (0, 3, 6)
    ]
    assert [name for page in pages for name in ids(page)] == [n for n in expected.image_ids if n != "03.jpg"]
    assert all(page["explanation"] for page in pages)
    # a batch
    searches = [{"query": [{"image_id": name}], "k": 1, "exclude_query": False} for name in NAMES]
    searches.insert(1, {"query": [{"image_id": "none"}]})
    answers = http.post("/v1/search/batch", json={"searches": searches}).json()["answers"]
    assert answers.pop(1)["error"]["reason"] == "unknown_id"
    assert [ids(answer) for answer in answers] == [[name] for name in NAMES]
    for body, status, reason in (
        ({"query": [{"image_id": "none"}]}, 404, "unknown_id"),
        ({"query": [{"image_id": "03.jpg"}], "collection": "none"}, 404, "unknown_collection"),
        ({"query": [{"vector": [1, 2]}]}, 400, "invalid_vector"),
        ({"query": [{"image_base64": "QUJD"}]}, 415, "unsupported_format"),
    ):
        reply = http.post("/v1/search", json=body)
        assert (reply.status_code, reply.json()["error"]["reason"]) == (status, reason)


@pytest.mark.parametrize("address", ["/v1/search", "/v1/search/batch"])
def test_a_client_that_leaves_cancels_its_search(
    http: httpx.Client, settings: Settings, worker: RoleProcess, address: str
) -> None:
    """The worker is stopped meanwhile: awake again, it drops the search and answers the next one."""
    body: dict[str, Any] = {"query": [{"image_id": "03.jpg"}], "timeout": 60, "k": 1}
    wanted = body if address == "/v1/search" else {"searches": [body, body]}
    worker.send(signal.SIGSTOP)
    with connect_redis(settings) as redis:
        redis.xadd(STREAMS["normal"], {"id": ""})  # what the worker waited for when it was stopped: it has got this one
        cancelled = 1 if address == "/v1/search" else 2
        leaving = HTTPConnection("127.0.0.1", settings.http_port, timeout=60)
        leaving.request("POST", address, json.dumps(wanted), {"Content-Type": "application/json"})
        wait_for(lambda: redis.xlen(STREAMS["normal"]) == 1 + cancelled, what="the searches to be in the queue")
        leaving.close()
        wait_for(lambda: redis.zcard(CANCELLED) == cancelled, what="the cancelled searches")
        worker.send(signal.SIGCONT)
        assert ids(http.post("/v1/search", json=body).json()) != []
        wait_for(lambda: not redis.exists(CANCELLED) and not redis.xlen(STREAMS["normal"]), what="order")
        assert redis.keys("vs:reply:*") == []


def test_the_commands_in_the_docs_do_what_they_show(http: httpx.Client, settings: Settings, tmp_path: Path) -> None:
    """Every curl of the section on searching is run; the fields that are shown are those that come."""
    assert shutil.which("curl"), "curl is needed"
    section = (ROOT / "docs" / "http.md").read_text().partition("## Searching\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"```console\n(.*?)```", section, re.DOTALL)
    assert len(blocks) >= 4
    (tmp_path / "query.jpg").write_bytes(jpeg(3))
    for block in blocks:
        command = block.removeprefix("$ ").replace("127.0.0.1:8600", f"127.0.0.1:{settings.http_port}")
        command, _, shown = re.sub(r"\\\n", " ", command).partition("\n")
        done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=True)
        assert set(re.findall(r'"(\w+)":', shown)) <= set(re.findall(r'"(\w+)":', done.stdout)), done.stdout
        if '"error"' not in shown:
            assert '"results"' in done.stdout, done.stdout
