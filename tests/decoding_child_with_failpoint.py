"""A decoding child whose decoder fails as a bug in it would, at pictures that end with a certain word."""

from __future__ import annotations

import os
import signal
import socket
from typing import Any

import pipeline.decoding_child as child
from pipeline.decode import DecodedImage, decode_image


def _decode(data: bytes, *arguments: Any, **keywords: Any) -> DecodedImage:
    if data.endswith(b"CRASH"):
        os.kill(os.getpid(), signal.SIGSEGV)
    while data.endswith(b"LOOP"):
        pass
    if data.endswith(b"HOARD"):
        hoard = []
        while True:
            hoard.append(bytearray(1024 * 1024))
    if data.endswith(b"FILES"):
        _say_what_can_be_opened()
    return decode_image(data, *arguments, **keywords)


def _say_what_can_be_opened() -> None:
    opened = []
    for name, opens in {
        "file": lambda: open(os.devnull),  # noqa: PTH123, SIM115
        "socket": socket.socket,
        "password": lambda: os.environ["VISUAL_SEARCH_DATABASE_URL"],
    }.items():
        try:
            opens()
        except (OSError, KeyError):
            continue
        opened.append(name)
    raise child.CorruptImage(f"opened: {opened}")


child.decode_image = _decode
child.main()
