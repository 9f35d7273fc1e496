"""A real HTTP server on loopback whose answers each test writes itself, hostile ones as well."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any

import pytest

Answer = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    """Looks the path up in the server's `answers`; what was asked stands in `asked`."""

    server: WebServer

    def do_GET(self) -> None:
        self.server.asked.append((self.command, self.path))
        self.server.headers_seen.append(dict(self.headers))
        answer = self.server.answers.get(self.path.partition("?")[0])
        if answer is None:
            self.reply(404)
        else:
            answer(self)

    do_HEAD = do_GET  # noqa: N815 - the name that it has there

    def reply(self, status: int, data: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002 - the name that it has there
        del format, arguments


class WebServer(ThreadingHTTPServer):
    """Serves until `close`; `stopped` is set then, so that endless answers end."""

    daemon_threads = True

    def __init__(self, family: socket.AddressFamily = socket.AF_INET, tls: ssl.SSLContext | None = None) -> None:
        self.address_family = family
        super().__init__(("::1" if family == socket.AF_INET6 else "127.0.0.1", 0), Handler)
        self.answers: dict[str, Answer] = {}
        self.asked: list[tuple[str, str]] = []
        self.headers_seen: list[dict[str, str]] = []
        self.stopped = Event()
        self.scheme = "http" if tls is None else "https"
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)
        self._thread = Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    @property
    def host_and_port(self) -> str:
        return f"127.0.0.1:{self.port}"

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"{self.scheme}://{host}:{self.port}{path}"

    def serve(self, path: str, data: bytes, **headers: str) -> str:
        """Answer this path with these bytes; returns its address."""
        told = {name.replace("_", "-"): value for name, value in headers.items()}
        self.answers[path] = lambda handler: handler.reply(200, data, told)
        return self.url(path)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away in the middle is what many of these tests are about."""
        del request, client_address

    def close(self) -> None:
        self.stopped.set()
        self.shutdown()
        self.server_close()
        self._thread.join()


@pytest.fixture
def web_server() -> Iterator[WebServer]:
    """A server on 127.0.0.1."""
    server = WebServer()
    yield server
    server.close()


def drips(first: bytes, drop: bytes, seconds: float = 0.05) -> Answer:
    """An answer that begins like this and then goes on, one drop at a time, for ever."""

    def answer(handler: Handler) -> None:
        handler.wfile.write(first)
        with suppress(OSError):
            while not handler.server.stopped.wait(seconds):
                handler.wfile.write(drop)
        handler.close_connection = True

    return answer
