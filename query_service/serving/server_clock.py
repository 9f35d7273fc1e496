"""The server's clock, as this process's own has to be read to agree with it. Knows no server and no search.

An answer that names the server's moment says that it lay between our question and its arrival. Either may be late by
seconds: the server may have stalled before that moment, and we may have been frozen after it. What all answers allow
together is as exact as the quickest of them (as in Marzullo, 1984).
"""

from __future__ import annotations

from math import inf

_DRIFT = 0.001  # seconds that two clocks may part in a second; those that are kept by NTP part by half of that


class ServerClock:
    """Bounds of the difference between both clocks, in seconds; `monotonic` is ours."""

    def __init__(self) -> None:
        self._least, self._most = -inf, inf  # of the server's clock minus ours
        self._known_at = 0.0

    def looked(self, asked: float, moment: float, told: float) -> None:
        """The server's clock showed `moment` at some time between `asked` and `told` of ours."""
        parted = _DRIFT * (told - asked)
        least, most = moment - told - parted, moment - asked + parted
        parted = _DRIFT * (told - self._known_at)
        both = max(least, self._least - parted), min(most, self._most + parted)
        if both[0] <= both[1]:  # else one of the clocks was set, or ours stood still: what was known is worth nothing
            least, most = both
        self._least, self._most, self._known_at = least, most, told

    @property
    def unsure_seconds(self) -> float:
        """How exact `ours` is."""
        return self._most - self._least

    def ours(self, moment: float) -> float:
        """What our clock shows when the server's shows this; rather too early, by `unsure_seconds` at most."""
        return moment - self._most
