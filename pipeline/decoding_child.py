"""The program of a decoding child: decodes what comes through the socket at standard input, under limits of its own.

Knows no settings, no files and no models. Everything is loaded, and every format tried once, before the limits are
set: afterwards nothing can be opened any more, neither a file nor a connection.

Usage: python -m pipeline.decoding_child MEMORY_BYTES CPU_SECONDS
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import resource
import signal
import socket
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.AvifImagePlugin import SUPPORTED as AVIF_SUPPORTED

from pipeline.decode import DecodeLimits, decode_image, is_large
from pipeline.decoding_messages import (
    DONE,
    FIRST_REFUSAL,
    LARGE,
    READY,
    REFUSALS,
    Reply,
    Request,
    bands,
    receive_request,
    send_reply,
)
from pipeline.errors import CorruptImage, DecodeError, DecodeOutOfMemory
from pipeline.picture_formats import FORMATS
from pipeline.pictures import Picture, size_of

_STANDARD_STREAMS = 3
_NO_NEW_PRIVILEGES = 38  # PR_SET_NO_NEW_PRIVS, prctl(2)


def main() -> None:
    """Serve until the parent closes its end or is gone."""
    memory_bytes, cpu_seconds = int(sys.argv[1]), float(sys.argv[2])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, whose end is ours
    with socket.socket(fileno=0) as channel:
        _try_every_format()
        _limit(memory_bytes)
        channel.sendall(READY)
        while (request := receive_request(channel)) is not None:
            _limit_cpu(cpu_seconds)
            _answer(channel, request)
            del request


def _answer(channel: socket.socket, request: Request) -> None:
    limits = DecodeLimits(len(request.data), request.max_pixels)
    if not request.alone and is_large(request.data, limits):
        send_reply(channel, Reply(LARGE))
        return
    try:
        decoded = decode_image(request.data, limits, at_least=request.at_least)
    except DecodeError as refusal:
        is_memory = isinstance(refusal.__cause__, MemoryError)
        kind = DecodeOutOfMemory if is_memory else type(refusal)
        status = FIRST_REFUSAL + REFUSALS.index(kind if kind in REFUSALS else CorruptImage)
        send_reply(channel, Reply(status, message=str(refusal)))
        return
    width, height = size_of(decoded.pixels)
    send_reply(channel, Reply(DONE, (width, height), (decoded.width, decoded.height), decoded.format))
    for top, bottom in bands(width, height):
        channel.sendall(_rows(decoded.pixels, top, bottom))


def _rows(picture: Picture, top: int, bottom: int) -> bytes:
    if isinstance(picture, np.ndarray):
        return picture[top:bottom].tobytes()
    whole = (top, bottom) == (0, picture.height)
    return (picture if whole else picture.crop((0, top, picture.width, bottom))).tobytes()


def _try_every_format() -> None:
    """Decoders and what they import are loaded at their first use; later nothing can be."""
    for name in FORMATS if AVIF_SUPPORTED else FORMATS - {"AVIF"}:
        buffer = BytesIO()
        exif = Image.Exif()
        exif[0x0112] = 6  # orientation
        Image.new("RGB", (16, 16), "red").save(buffer, format=name, exif=exif)
        decode_image(buffer.getvalue(), at_least=(4, 4))
    with contextlib.suppress(DecodeError):
        decode_image(b"\x89PNG\r\n\x1a\n")


def _limit(memory_bytes: int) -> None:
    """Memory beyond what is taken now, no further file or connection, no writing, no core dump, no new privileges."""
    if sys.platform == "linux":
        taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (taken + memory_bytes, taken + memory_bytes))
        ctypes.CDLL(None).prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (_STANDARD_STREAMS, _STANDARD_STREAMS))


def _limit_cpu(seconds: float) -> None:
    """Let the system end us (SIGXCPU) when this picture takes longer, also when no parent is left to do it."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    used = usage.ru_utime + usage.ru_stime
    _soft, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(used + seconds) + 1, hard))


if __name__ == "__main__":
    main()
