"""Decodes in child processes that may take so much memory and time and no more: the parent's end of it.

Children are started when they are needed, used for many pictures, and replaced when one dies or is late. They get
no environment of ours, and so no password. What a child does to itself stands in `decoding_child`.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import weakref
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import LifoQueue
from threading import Lock
from time import monotonic

import numpy as np
from PIL import Image

from pipeline.decode import DecodedImage, DecodeLimits
from pipeline.decoding_messages import (
    CHANNELS,
    FIRST_REFUSAL,
    LARGE,
    READY,
    REFUSALS,
    BrokenReply,
    Channel,
    Request,
    bands,
    fill,
    receive_reply,
    send_request,
)
from pipeline.errors import DecoderCrashed, DecoderUnavailable, DecodeTimeout, EmptyImage, TooManyBytes
from pipeline.picture_formats import FORMATS
from pipeline.pictures import Picture, as_pillow
from storage.settings import Settings, allowed_threads

_START_SECONDS = 60.0  # it takes half a second; a loaded machine ten times as long
_TRIES = 2  # a child may die of something else than its picture, as of the system's lack of memory
_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "LC_ALL": "C.UTF-8"}
_SOCKET_BYTES = 1024 * 1024
_PROGRAM = ("-m", "pipeline.decoding_child")


@dataclass(frozen=True)
class ChildLimits:
    """What one picture may take: bytes of memory beyond an idle child's (Linux only), and seconds."""

    memory_bytes: int
    seconds: float


class DecodingChildren:
    """At most so many children at once; called from any thread, it waits for a free one. `close` ends them all."""

    def __init__(self, limits: ChildLimits, most: int, program: Sequence[str] = _PROGRAM) -> None:
        if sys.platform == "win32":
            raise DecoderUnavailable("decoding in child processes needs Linux or macOS")
        self._limits = limits
        self._one_large_at_a_time = Lock()
        self._free: LifoQueue[_Child] = LifoQueue()  # the one used last is still in the caches
        children = [_Child(limits, program) for _ in range(most)]
        for child in children:
            self._free.put(child)
        self._closing = weakref.finalize(self, _end_all, children)  # also when the interpreter ends

    def close(self) -> None:
        """End all children; one that decodes is killed."""
        self._closing()

    def __call__(self, data: bytes, limits: DecodeLimits, *, at_least: tuple[int, int] | None = None) -> DecodedImage:
        """Decode as `decode_image` does, with the same errors.

        Besides, raises DecoderCrashed, DecodeTimeout or DecodeOutOfMemory for the guilty picture, and
        DecoderUnavailable when no child can be started.
        """
        if not data:
            raise EmptyImage("the file is empty")
        if len(data) > limits.max_bytes:
            raise TooManyBytes(f"{len(data):,} bytes are more than the cap of {limits.max_bytes:,}")
        decoded = self._decoded(Request(data, limits.max_pixels, at_least, alone=False))
        if decoded is None:
            with self._one_large_at_a_time:
                decoded = self._decoded(Request(data, limits.max_pixels, at_least, alone=True))
        if decoded is None:
            raise DecoderCrashed("the decoding process put the picture off twice")
        return decoded

    def _decoded(self, request: Request) -> DecodedImage | None:
        child = self._free.get()
        try:
            for left in reversed(range(_TRIES)):
                try:
                    return child.decode(request)
                except DecoderCrashed:
                    if not left:
                        raise
        finally:
            self._free.put(child)
        raise ValueError("at least one try is needed")


class _Child:
    """One process, started at its first picture and again after each death. For one thread at a time."""

    def __init__(self, limits: ChildLimits, program: Sequence[str]) -> None:
        self._limits = limits
        self._program = program
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None

    def decode(self, request: Request) -> DecodedImage | None:
        """The picture; None when it is large and was not to be decoded now."""
        channel = self._ready()
        seconds = self._limits.seconds
        try:
            timed = _Timed(channel, seconds)
            send_request(timed, request)
            return _received(timed, request)
        except TimeoutError as error:
            self.end()
            raise DecodeTimeout(f"decoding took longer than {seconds:g} s, and was stopped") from error
        except (OSError, EOFError, BrokenReply) as error:
            status = self.end()
            if status == -signal.SIGXCPU:
                raise DecodeTimeout(f"decoding took more than {seconds:g} s of CPU, and was stopped") from error
            raise DecoderCrashed(f"the decoding process {_told(status)}") from error

    def end(self) -> int:
        """Kill the process if it lives; returns its exit status, negative for a signal."""
        process, self._process = self._process, None
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()
        if process is None:
            return 0
        with suppress(subprocess.TimeoutExpired):
            return process.wait(0.2)  # one that died by itself has its own status
        process.kill()
        return process.wait()

    def _ready(self) -> socket.socket:
        if self._process is not None and self._process.poll() is not None:
            self.end()  # while it was idle: no picture's fault
        if self._channel is None:
            self._channel = self._started()
        return self._channel

    def _started(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BYTES)
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BYTES)
        limits = [str(self._limits.memory_bytes), str(self._limits.seconds)]
        environment = _ENVIRONMENT | {"PYTHONPATH": ":".join(str(Path(one).absolute()) for one in sys.path)}
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603 - our own program and numbers
                [sys.executable, *self._program, *limits],
                stdin=theirs.fileno(), stdout=subprocess.DEVNULL, env=environment, cwd="/", start_new_session=True,
            )  # fmt: skip
        ready = bytearray(len(READY))
        try:
            fill(_Timed(ours, _START_SECONDS), memoryview(ready))
        except (OSError, EOFError) as error:
            ours.close()
            raise DecoderUnavailable(f"a decoding process could not be started: it {_told(self.end())}") from error
        return ours


class _Timed:
    """A socket on which everything together ends in time; Python's own timeout is for each wait anew."""

    def __init__(self, channel: socket.socket, seconds: float) -> None:
        self._channel = channel
        self._ends = monotonic() + seconds

    def sendall(self, data: bytes, /) -> None:
        """As the socket's own. Raises TimeoutError."""
        self._channel.settimeout(self._left())
        self._channel.sendall(data)

    def recv_into(self, buffer: memoryview, /) -> int:
        """As the socket's own. Raises TimeoutError."""
        self._channel.settimeout(self._left())
        return self._channel.recv_into(buffer)

    def _left(self) -> float:
        left = self._ends - monotonic()
        if left <= 0:
            raise TimeoutError
        return left


def _received(channel: Channel, request: Request) -> DecodedImage | None:
    """The picture of a reply; None when it says that it is large. Raises BrokenReply for what cannot be one."""
    reply = receive_reply(channel)
    if reply.status == LARGE:
        return None
    if reply.status >= FIRST_REFUSAL:
        raise REFUSALS[reply.status - FIRST_REFUSAL](reply.message)
    for width, height in (reply.size, reply.file_size):
        if not 0 < width * height <= request.max_pixels:
            raise BrokenReply
    if reply.format not in FORMATS:
        raise BrokenReply
    return DecodedImage(_pixels(channel, *reply.size), *reply.file_size, reply.format)


def _pixels(channel: Channel, width: int, height: int) -> Picture:
    """What comes in one band is left as it came; more of it goes into Pillow's form, which a large picture has once."""
    large: Image.Image | None = None
    for top, bottom in bands(width, height):
        band = np.empty((bottom - top, width, CHANNELS), dtype=np.uint8)
        fill(channel, band.data.cast("B"))
        if len(band) == height:
            return band
        large = large or Image.new("RGB", (width, height))
        large.paste(as_pillow(band), (0, top))
    assert large is not None  # noqa: S101 - the height is at least 1
    return large


def _end_all(children: list[_Child]) -> None:
    for child in children:
        child.end()


def _told(status: int) -> str:
    if status >= 0:
        return f"ended with status {status}"
    return f"was killed by {signal.Signals(-status).name}"


def children_of(settings: Settings) -> DecodingChildren | None:
    """The children that the settings ask for: one for each core that may be used; None when they ask for none."""
    if not settings.decode_in_child:
        return None
    limits = ChildLimits(settings.decode_child_bytes, settings.decode_child_seconds)
    return DecodingChildren(limits, allowed_threads())
