"""The API as a process: how it starts, refuses to start, ends, and what it never loads."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys

import pytest
from http_api import ADMIN_KEY, api_keys, bearer
from raw_http import connect, head, read, send_all
from servers import ROOT, environment_of, wait_for

from workers.servers import connect_redis
from workers.signs.heartbeat import read_signs

HEAVY = ("torch", "transformers", "faiss", "onnxruntime")


def test_it_starts_answers_is_seen_and_ends_in_order(http_process, http_settings):
    http = http_process(http_settings)
    assert http.client.get("/healthz").json() == {"alive": True}
    assert "<title>Visual Search</title>" in http.client.get("/").text
    with connect_redis(http_settings) as client:
        (sign,) = wait_for(lambda: read_signs(client), what="the sign")
        assert sign.record.role == "http"
        assert http.role.stop() == 0
        assert read_signs(client) == []


def test_a_request_under_way_is_finished_before_the_end(http_process, http_settings):
    http = http_process(http_settings)
    with connect(http_settings.http_port) as under_way, connect(http_settings.http_port) as idle:
        send_all(idle, head("GET /healthz"))
        assert read(idle, until_closed=False).status == 200
        send_all(under_way, head("POST /healthz", "Content-Length: 4"), b"ab")  # its reply is out, its body is not in
        assert read(under_way, until_closed=False).status == 405
        http.role.process.terminate()
        assert read(idle).closed
        send_all(under_way, b"cd")
        assert http.role.process.wait(180) == 0


def test_a_redis_that_is_silent_does_not_keep_it_from_ending(http_process, http_settings, own_valkey):
    """Neither its last sign nor what threads still ask is waited for without end."""
    valkey = own_valkey()
    http = http_process(http_settings.model_copy(update={"redis_url": type(http_settings.redis_url)(valkey.url)}))
    valkey.process.send_signal(signal.SIGSTOP)
    try:
        assert http.client.get("/readyz").json()["parts"]["redis"] == "does not answer"
        assert http.role.stop(seconds=90) == 0
    finally:
        valkey.process.send_signal(signal.SIGCONT)


@pytest.mark.parametrize("host", ["0.0.0.0", "::"], ids=["IPv4", "IPv6"])  # noqa: S104 - it must not listen there
def test_without_keys_it_refuses_to_let_other_machines_in(start_role, http_settings, host):
    role = start_role("query_service.http", http_settings.model_copy(update={"http_host": host}))
    assert role.process.wait(120) == 1
    assert "invalid_settings" in role.text()
    assert "visual-search keys new" in role.text()
    assert "Traceback" not in role.text()


def test_with_keys_it_listens_where_it_is_told_to(http_process, http_settings):
    update = {"http_host": "0.0.0.0", "api_keys": api_keys()}  # noqa: S104 - what is tested
    http = http_process(http_settings.model_copy(update=update))
    assert http.client.get("/v1/no-such").status_code == 401
    assert http.client.get("/v1/no-such", headers=bearer(ADMIN_KEY)).status_code == 404
    assert ADMIN_KEY not in http.role.text()


def test_a_port_that_is_taken_is_told_in_one_line(start_role, http_settings):
    with socket.socket() as other:
        other.bind(("127.0.0.1", http_settings.http_port))
        other.listen()
        role = start_role("query_service.http", http_settings)
        assert role.process.wait(120) == 1
    assert f"port_taken: cannot listen on 127.0.0.1 port {http_settings.http_port}" in role.text()
    assert "Traceback" not in role.text()


def test_a_redis_that_is_away_is_told_in_one_line(start_role, http_settings, own_valkey):
    valkey = own_valkey()
    valkey.kill()
    gone = http_settings.model_copy(update={"redis_url": type(http_settings.redis_url)(valkey.url)})
    role = start_role("query_service.http", gone)
    assert role.process.wait(120) == 1
    assert "redis_unavailable" in role.text()
    assert "Traceback" not in role.text()


def test_localhost_means_all_its_addresses_on_one_port(http_process, http_settings):
    http = http_process(http_settings.model_copy(update={"http_host": "localhost"}))
    assert http.client.get("/healthz").status_code == 200


def test_it_never_loads_a_model_or_an_index(http_settings):
    """Every module of the API, and what a first job does with the name of a model, in a process of its own."""
    code = f"""
import importlib, json, pkgutil, sys
import query_service.http
for module in pkgutil.iter_modules(query_service.http.__path__):
    importlib.import_module("query_service.http." + module.name)
from storage.settings import load_settings
from workers.job_client import JobClient
with JobClient(load_settings()) as jobs:
    jobs.submit_uploads({{"a.jpg": b"x"}})
    jobs.submit_uploads({{"a.jpg": b"x"}}, collection="other")
print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, cwd=ROOT, env=environment_of(http_settings), capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == []
