"""Talking to the server byte by byte, as no well-behaved client would."""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass
from typing import Any


@dataclass
class Reply:
    """What came back until the server closed, or stopped talking: "" when nothing did."""

    text: str
    closed: bool

    @property
    def status(self) -> int:
        return int(self.text.split(" ", 2)[1]) if self.text.startswith("HTTP/") else 0

    @property
    def body(self) -> Any:
        return json.loads(self.text.partition("\r\n\r\n")[2])


def connect(port: int, seconds: float = 180.0) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=seconds)


def send_all(connection: socket.socket, *pieces: bytes) -> None:
    """Send as much as is taken: a server may close before the end."""
    try:
        for piece in pieces:
            connection.sendall(piece)
    except OSError:
        return


def read(connection: socket.socket, *, until_closed: bool = True, silence: float | None = None) -> Reply:
    """All that comes until the server closes; `silence`: or until it says no more, so many seconds after a head."""
    received = b""
    try:
        while True:
            piece = connection.recv(65536)
            if not piece:
                return Reply(received.decode("latin-1"), closed=True)
            received += piece
            if b"\r\n\r\n" in received:
                if not until_closed:
                    return Reply(received.decode("latin-1"), closed=False)
                connection.settimeout(silence or connection.gettimeout())
    except ConnectionError:
        return Reply(received.decode("latin-1"), closed=True)
    except TimeoutError:
        return Reply(received.decode("latin-1"), closed=False)


def ask(port: int, *pieces: bytes, seconds: float = 180.0, silence: float | None = None) -> Reply:
    """One connection: send these pieces, read until it is closed, or as `read` says."""
    with connect(port, seconds) as connection:
        send_all(connection, *pieces)
        return read(connection, silence=silence)


def head(line: str, *headers: str) -> bytes:
    return "\r\n".join([f"{line} HTTP/1.1", "Host: 127.0.0.1", *headers, "", ""]).encode("latin-1")
