"""Runs a role of ours that kills itself at a named place: before or after the n-th call of a method, or at a picture.

Usage: role_with_failpoint.py MODULE [--at MODULE:CLASS.METHOD --when before|after --nth N] [--fired FILE]
       [--poison BYTES] [--decode-seconds S] [ARGUMENTS]
The product holds no failpoints: the method is wrapped here, in the process that is to die.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import itertools
import os
import runpy
import signal
import sys
import time
from pathlib import Path
from typing import Any


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def kill_at(place: str, when: str, nth: int, fired: Path | None = None) -> None:
    """Wrap `module:Class.method`, or `module:function`, so that its n-th call is this process's last.

    `fired` gets a line then: an armed failpoint that is never reached is no fault.
    """

    def die_here() -> None:
        if fired is not None:
            with fired.open("a") as file:
                file.write(f"failpoint: {when} {place.split(':')[1]}\n")
        _die()

    module_name, _, path = place.partition(":")
    owner: Any = importlib.import_module(module_name)
    *classes, name = path.split(".")
    for part in classes:
        owner = getattr(owner, part)
    original = getattr(owner, name)
    calls = itertools.count(1)

    @functools.wraps(original)
    def wrapped(*arguments: Any, **keywords: Any) -> Any:
        last = next(calls) == nth
        if last and when == "before":
            die_here()
        result = original(*arguments, **keywords)
        if last:
            die_here()
        return result

    setattr(owner, name, wrapped)


def decode_slowly(seconds: float, marker: bytes | None) -> None:
    """Each picture takes so long, that a job lasts until faults hit it.

    One whose bytes end with the marker kills the process that decodes it, as a bug in a decoder would.
    """
    import pipeline.embedding_service as service

    original = service.decode_image

    def decode(data: bytes, *arguments: Any, **keywords: Any) -> Any:
        time.sleep(seconds)
        if marker and data.endswith(marker):
            _die()
        return original(data, *arguments, **keywords)

    service.decode_image = decode  # type: ignore[assignment]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("module")
    parser.add_argument("--at")
    parser.add_argument("--when", choices=["before", "after"], default="before")
    parser.add_argument("--nth", type=int, default=1)
    parser.add_argument("--fired", type=Path)
    parser.add_argument("--poison")
    parser.add_argument("--decode-seconds", type=float, default=0.0)
    arguments, rest = parser.parse_known_args()
    if arguments.at:
        kill_at(arguments.at, arguments.when, arguments.nth, arguments.fired)
    if arguments.poison or arguments.decode_seconds:
        decode_slowly(arguments.decode_seconds, arguments.poison.encode() if arguments.poison else None)
    sys.argv = [arguments.module, *rest]
    # a role that was imported for its failpoint is run as it stands; runpy would load a second copy without it
    if arguments.module in sys.modules:
        sys.exit(sys.modules[arguments.module].main())
    runpy.run_module(arguments.module, run_name="__main__")


if __name__ == "__main__":
    main()
