"""What a process and its decoding child say to each other over a socket. Decodes nothing, starts nothing.

A request is a header and the encoded picture; a reply is a header and, in bands of rows, raw RGB pixels or a message.
The child may be under an attacker's control: whatever it says is checked, and nothing of it is code.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from pipeline.errors import (
    CorruptImage,
    DecodeError,
    DecodeOutOfMemory,
    EmptyImage,
    TooManyPixels,
    UnsupportedFormat,
)

READY = b"ready"
DONE, LARGE = 0, 1  # statuses besides the errors: decoded; so large that it should be decoded alone
REFUSALS: tuple[type[DecodeError], ...] = (
    EmptyImage,
    UnsupportedFormat,
    CorruptImage,
    TooManyPixels,
    DecodeOutOfMemory,
)
FIRST_REFUSAL = 2
MOST_MESSAGE_BYTES = 1000
CHANNELS = 3

_BAND_BYTES = 4 * 1024 * 1024
_REQUEST = struct.Struct("<QQII?")
_REPLY = struct.Struct("<BIIII8sH")


class Channel(Protocol):
    """A connected socket, or what limits its time."""

    def sendall(self, data: bytes, /) -> None:
        """Send all of it. Raises OSError."""
        ...

    def recv_into(self, buffer: memoryview, /) -> int:
        """Read some bytes; 0 when the other side is gone. Raises OSError."""
        ...


class BrokenReply(Exception):
    """Raised in the parent when a child says what no child of ours says; caught there, never shown."""


@dataclass(frozen=True)
class Request:
    """One picture to be decoded: see `decode_image`. `alone`: whether a large one may be decoded now."""

    data: bytes
    max_pixels: int
    at_least: tuple[int, int] | None
    alone: bool


@dataclass(frozen=True)
class Reply:
    """`size` is that of the pixels that follow, `file_size` the file's own; a refusal has a message in their place."""

    status: int
    size: tuple[int, int] = (0, 0)
    file_size: tuple[int, int] = (0, 0)
    format: str = ""
    message: str = ""


def send_request(channel: Channel, request: Request) -> None:
    """Send a whole picture. Raises OSError."""
    least = request.at_least or (0, 0)
    channel.sendall(_REQUEST.pack(len(request.data), request.max_pixels, *least, request.alone))
    channel.sendall(request.data)


def receive_request(channel: Channel) -> Request | None:
    """The next picture; None when the parent is gone or has no more."""
    header = bytearray(_REQUEST.size)
    if not _filled(channel, memoryview(header)):
        return None
    length, max_pixels, width, height, alone = _REQUEST.unpack(header)
    data = bytearray(length)
    if not _filled(channel, memoryview(data)):
        return None
    return Request(bytes(data), max_pixels, (width, height) if width else None, alone)


def send_reply(channel: Channel, reply: Reply) -> None:
    """Send the header, and the message if there is one. Raises OSError."""
    message = reply.message.encode("utf-8", "replace")[:MOST_MESSAGE_BYTES]
    name = reply.format.encode("ascii")
    channel.sendall(_REPLY.pack(reply.status, *reply.size, *reply.file_size, name, len(message)) + message)


def receive_reply(channel: Channel) -> Reply:
    """The header and message of a reply. Raises EOFError, OSError, BrokenReply."""
    header = bytearray(_REPLY.size)
    fill(channel, memoryview(header))
    status, width, height, file_width, file_height, name, length = _REPLY.unpack(header)
    if length > MOST_MESSAGE_BYTES or status >= FIRST_REFUSAL + len(REFUSALS):
        raise BrokenReply
    message = bytearray(length)
    fill(channel, memoryview(message))
    named = name.rstrip(b"\0").decode("ascii", "replace")
    return Reply(status, (width, height), (file_width, file_height), named, message.decode("utf-8", "replace"))


def bands(width: int, height: int) -> Iterator[tuple[int, int]]:
    """First and last row (exclusive) of the bands in which pixels are sent, so that they need not be copied whole."""
    rows = max(1, _BAND_BYTES // (CHANNELS * width))
    for top in range(0, height, rows):
        yield top, min(top + rows, height)


def fill(channel: Channel, buffer: memoryview) -> None:
    """Read until the buffer is full. Raises EOFError when the other side is gone before."""
    if not _filled(channel, buffer):
        raise EOFError


def _filled(channel: Channel, buffer: memoryview) -> bool:
    while buffer:
        count = channel.recv_into(buffer)
        if not count:
            return False
        buffer = buffer[count:]
    return True
