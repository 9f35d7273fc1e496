"""Waits at the start for servers that are away: a worker need not be started in any order. Knows no server."""

from __future__ import annotations

import logging
from collections.abc import Callable
from threading import Event
from time import monotonic
from typing import TypeVar

from storage.errors import VisualSearchError

_FIRST_PAUSE_SECONDS = 0.2
_LONGEST_PAUSE_SECONDS = 2.0
_REMIND_SECONDS = 30.0  # so that the end of a log always says what is waited for

Opened = TypeVar("Opened")

_log = logging.getLogger(__name__)


def opened_when_there(open_it: Callable[[], Opened], what: str, stop: Event) -> Opened | None:
    """What `open_it` gives, tried until it succeeds; None when told to stop before. Raises what no retry can help."""
    pause, reminded = _FIRST_PAUSE_SECONDS, -_REMIND_SECONDS
    while not stop.is_set():
        try:
            return open_it()
        except VisualSearchError as error:
            if not error.retryable:
                raise
            if monotonic() - reminded >= _REMIND_SECONDS:
                _log.warning("waiting for %s: %s", what, error)
                reminded = monotonic()
        stop.wait(pause)
        pause = min(_LONGEST_PAUSE_SECONDS, 2 * pause)
    return None
