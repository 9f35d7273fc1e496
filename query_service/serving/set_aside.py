"""Searches that a worker has taken, but cannot answer yet: their collection is still being loaded. Knows no Redis."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

from query_service.protocol import SearchRequest
from query_service.serving.taken import Taken

_MOST_BYTES = 64 * 1024 * 1024  # of messages; what comes beyond that is refused at once
_TELL_SECONDS = 1.0  # before its time is over a search is told why nobody answers it


class SetAside:
    """Keeps searches in hand while they have time. For one thread; `taken` may be read by others."""

    def __init__(self) -> None:
        self._kept: list[tuple[Taken, SearchRequest]] = []

    @property
    def taken(self) -> list[Taken]:
        """The searches that are kept."""
        return [one for one, _ in self._kept]

    def keep(self, one: Taken, request: SearchRequest) -> bool:
        """Keep a search; False when its time is nearly over, or there is no room."""
        room = sum(len(kept.message) for kept in self.taken) + len(one.message) <= _MOST_BYTES
        if not room or _is_due(one):
            return False
        self._kept.append((one, request))
        return True

    def due(self, must_wait: Callable[[str], bool]) -> list[tuple[Taken, SearchRequest]]:
        """Give back those that can be answered now, and those that have to be told that they cannot."""
        due = [pair for pair in self._kept if _is_due(pair[0]) or not must_wait(pair[1].collection)]
        if due:
            self._kept = [pair for pair in self._kept if pair not in due]
        return due


def _is_due(one: Taken) -> bool:
    return one.ends_at - monotonic() <= _TELL_SECONDS
