"""Remembers which web servers do not answer, so that a list does not wait for each of their pictures."""

from __future__ import annotations

from threading import Lock
from time import monotonic

from storage.errors import HostUnavailable
from storage.images.web_address import WebAddress

_FAILED_IN_A_ROW = 5  # pictures, each tried several times
_PAUSE_SECONDS = 30.0  # then the next picture tries again


class HostOutages:
    """For half a minute after five pictures in a row failed, further ones of that host fail at once. Thread-safe."""

    def __init__(self) -> None:
        self._failures: dict[str, int] = {}
        self._until: dict[str, float] = {}
        self._lock = Lock()

    def check(self, address: WebAddress) -> None:
        """Raise HostUnavailable during such a pause."""
        with self._lock:
            if monotonic() < self._until.get(address.site, 0.0):
                raise HostUnavailable(f"{address}: {address.site} failed {_FAILED_IN_A_ROW} times in a row just now")

    def failed(self, address: WebAddress) -> None:
        """Count a picture that could not be had for the server's fault."""
        with self._lock:
            self._failures[address.site] = self._failures.get(address.site, 0) + 1
            if self._failures[address.site] >= _FAILED_IN_A_ROW:
                self._until[address.site] = monotonic() + _PAUSE_SECONDS

    def answered(self, address: WebAddress) -> None:
        """Forget all failures of a server that answered."""
        with self._lock:
            self._failures.pop(address.site, None)
            self._until.pop(address.site, None)
