"""Bytes that no decent client sends: each gets a clear refusal or a closed connection, and the service goes on."""

from __future__ import annotations

import logging
import random
import socket
import threading
import time
from collections.abc import Iterator

import httpx
import pytest
from http_api import add_probes, http_service
from raw_http import ask, connect, head, read, send_all

from query_service.http import body_limit, server
from query_service.http.app import create_app
from query_service.http.listening import listen
from storage.settings import Settings

MOST = 10_000  # bytes of a body
HEAD_SECONDS = 2.0  # with less, a busy machine would cut off decent clients too
CHUNK = b"400\r\n" + b"x" * 1024 + b"\r\n"


@pytest.fixture(scope="module")
def port(valkey_server, tmp_path_factory) -> Iterator[int]:
    """The real server in a thread of this process, with little patience."""
    settings = Settings(
        data_dir=tmp_path_factory.mktemp("served"), model="baseline", redis_url=valkey_server.url, http_port=0,
        max_upload_bytes=MOST, requests_per_minute=0,
    )  # fmt: skip
    stop = threading.Event()
    with pytest.MonkeyPatch.context() as patch, http_service(settings) as service:
        patch.setattr(server, "HEAD_SECONDS", HEAD_SECONDS)
        patch.setattr(body_limit, "LINGER_SECONDS", 0.5)
        app = create_app(service)
        add_probes(app)
        sockets = listen(settings)
        port = sockets[0].getsockname()[1]
        thread = threading.Thread(target=server.serve, args=(app, sockets, stop))
        thread.start()
        yield port
        stop.set()
        thread.join(60)
        assert not thread.is_alive()


@pytest.fixture(autouse=True)
def _goes_on(port, caplog) -> Iterator[None]:
    yield
    assert [one.getMessage() for one in caplog.records if one.levelno >= logging.ERROR] == []
    assert httpx.get(f"http://127.0.0.1:{port}/healthz", timeout=120).status_code == 200


def test_a_body_that_is_declared_too_large_is_refused_before_it_is_sent(port):
    with connect(port) as connection:
        send_all(connection, head("POST /v1/probe/body", f"Content-Length: {MOST + 1}"))
        reply = read(connection, until_closed=False)
        assert reply.status == 413
        assert "connection: close" in reply.text.lower()


def test_who_waits_for_leave_to_send_gets_the_refusal_instead(port):
    with connect(port) as connection:
        send_all(connection, head("POST /v1/probe/body", f"Content-Length: {MOST + 1}", "Expect: 100-continue"))
        assert read(connection, until_closed=False).status == 413
    with connect(port) as connection:
        send_all(connection, head("POST /v1/probe/body", "Content-Length: 2", "Expect: 100-continue"))
        assert read(connection, until_closed=False).status == 100


def test_a_body_of_the_largest_size_is_taken(port):
    assert httpx.post(f"http://127.0.0.1:{port}/v1/probe/body", content=b"x" * MOST, timeout=120).json() == {
        "bytes": MOST
    }


def test_an_endless_chunked_body_is_refused_and_the_connection_closed(port):
    begin = head("POST /v1/probe/body", "Transfer-Encoding: chunked")
    reply = ask(port, begin, *[CHUNK] * 500)
    assert (reply.status, reply.closed) == (413, True)
    assert reply.body["error"]["reason"] == "body_too_large"


def test_an_endless_body_that_nobody_reads_is_cut_off(port):
    begin = head("GET /healthz", "Transfer-Encoding: chunked")
    reply = ask(port, begin, *[CHUNK] * 500)
    assert (reply.status, reply.closed) == (200, True)


def test_a_client_that_sends_all_before_it_reads_sees_the_refusal(port):
    """As browsers do: a closed connection would hide the reply."""
    url = f"http://127.0.0.1:{port}/v1/probe/body"
    assert httpx.post(url, content=b"x" * (MOST + 5000), timeout=120).status_code == 413
    assert httpx.post(url, content=(b"x" * 1000 for _ in range(15)), timeout=120).status_code == 413
    assert httpx.post(f"http://127.0.0.1:{port}/v1/no-such", content=b"x" * MOST, timeout=120).status_code == 404


def test_a_small_body_that_nobody_reads_does_not_cost_the_connection(port):
    one = head("POST /v1/no-such", "Content-Length: 2") + b"{}"
    reply = ask(port, one * 3, head("GET /healthz", "Connection: close"))
    assert reply.text.count("HTTP/1.1 404") == 3
    assert reply.text.count("HTTP/1.1 200") == 1


def test_a_head_that_drips_in_is_cut_off(port):
    with connect(port) as connection:
        started = time.monotonic()
        for one in b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: " + b"a" * 100:
            try:
                connection.sendall(bytes([one]))
            except OSError:
                break
            time.sleep(0.02)
        assert read(connection).closed
        assert time.monotonic() - started >= HEAD_SECONDS * 0.9


def test_a_connection_that_says_nothing_is_closed(port):
    with connect(port) as connection:
        reply = read(connection)
    assert (reply.text, reply.closed) == ("", True)


def test_the_next_request_of_a_kept_connection_may_not_drip_either(port):
    with connect(port) as connection:
        send_all(connection, head("GET /healthz"))
        assert read(connection, until_closed=False).status == 200
        send_all(connection, b"GET /hea")
        assert read(connection).closed


@pytest.mark.parametrize(
    "sent",
    [
        head("GET /healthz", "X-Long: " + "a" * 1_000_000),
        head("GET /healthz", *[f"X-{number}: {'b' * 100}" for number in range(10_000)]),
        head("GET /" + "a" * 1_000_000),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 64,
        b"GET /healthz\r\n\r\n",
        b"GET /healthz HTTP/9.9\r\n\r\n",
        b"\r\n" * 10 + b"nonsense\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\n\r\n",
        head("GET /healthz", "Host: evil.example"),
        head("POST /v1/probe/body", "Content-Length: -1"),
        head("POST /v1/probe/body", "Content-Length: 1", "Content-Length: 2"),
        head("POST /v1/probe/body", "Content-Length: 99999999999999999999999999"),
        head("POST /v1/probe/body", "Transfer-Encoding: chunked, gzip"),
        head("POST /v1/probe/body", "Transfer-Encoding: chunked") + b"zz\r\n",
        head("POST /v1/probe/body", "Transfer-Encoding: chunked") + b"-5\r\n",
        head("GET /healthz", "X-Bad: a\0b"),
        head("GET /health z"),
        head("GET http://evil.example/healthz"),
        head("GET /caf\xe9"),
    ],
    ids=[
        "huge header", "many headers", "huge address", "TLS", "no version", "version", "nonsense", "no host",
        "two hosts", "negative length", "two lengths", "endless length", "encodings", "broken chunk", "negative chunk",
        "zero byte", "space", "absolute address", "not ascii",
    ],
)  # fmt: skip
def test_broken_requests_are_refused(port, sent):
    reply = ask(port, sent, silence=1.0)
    assert reply.status in (0, 400, 404, 403, 413, 501)
    assert reply.closed or reply.status
    assert "Traceback" not in reply.text


def test_noise_is_refused(port):
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    whole = head("POST /v1/probe/body?a=b", "Content-Type: application/json", "Transfer-Encoding: chunked") + CHUNK
    for _ in range(60):
        noisy = bytearray(whole)
        for _ in range(chance.randint(1, 8)):
            noisy[chance.randrange(len(noisy))] = chance.randrange(256)
        with connect(port) as connection:
            send_all(connection, bytes(noisy[: chance.randint(1, len(noisy))]))
            connection.shutdown(socket.SHUT_WR)
            assert read(connection).status in (0, 200, 400, 403, 404, 405, 408, 413, 501)


@pytest.mark.parametrize(
    "path",
    ["/static/..%2fservice_place.py", "/static/../app.py", "/%2e%2e/%2e%2e/etc/passwd", "//etc/passwd", "/static/%00"],
)
def test_paths_that_climb_lead_nowhere(port, path):
    assert ask(port, head(f"GET {path}", "Connection: close")).status == 404


@pytest.mark.parametrize("method", ["CONNECT", "TRACE", "PROPFIND", "x-" + "y" * 5000])
def test_unknown_methods_are_refused(port, method):
    assert ask(port, head(f"{method} /healthz", "Connection: close")).status in (400, 404, 405)


def test_an_upgrade_to_websockets_is_ignored(port):
    headers = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: aaaa")
    with connect(port) as connection:
        send_all(connection, head("GET /healthz", *headers))
        assert read(connection, until_closed=False).status == 200


def test_pipelined_requests_are_answered_one_after_the_other(port):
    reply = ask(port, head("GET /healthz") * 50, head("GET /no-such", "Connection: close"))
    assert reply.text.count("HTTP/1.1 200") == 50
    assert reply.text.count("HTTP/1.1 404") == 1


def test_a_client_that_leaves_in_the_middle_of_its_body_harms_nobody(port, caplog):
    for _ in range(20):
        with connect(port) as connection:
            send_all(connection, head("POST /v1/probe/body", "Content-Length: 5000"), b"x" * 10)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # reset, not close
    time.sleep(0.2)
    assert "error " not in caplog.text


def test_many_idle_connections_do_not_keep_others_out(port):
    idle = [connect(port) for _ in range(200)]
    try:
        assert httpx.get(f"http://127.0.0.1:{port}/healthz", timeout=120).status_code == 200
    finally:
        for one in idle:
            one.close()
