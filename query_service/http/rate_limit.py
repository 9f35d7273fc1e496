"""How many requests each caller may make: a bucket of tokens for each, in bounded memory. Knows no HTTP.

Ours and not a library's: the in-memory stores of those we looked at start a thread or keep a time for each request.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from time import monotonic

MOST_CALLERS = 10_000  # of whom something is remembered, about 150 bytes each; who asked longest ago is forgotten
_MINUTE_SECONDS = 60.0


class RateLimit:
    """A minute's worth of requests may be made at once, after that as many as come back with time.

    Used from one event loop. For each caller one number is kept: when the bucket would be full again.
    """

    def __init__(self, per_minute: int, clock: Callable[[], float] = monotonic) -> None:
        self._per_minute = per_minute  # 0: no limit
        self._clock = clock
        self._full_at: OrderedDict[str, float] = OrderedDict()

    def wait_seconds(self, caller: str, cost: float = 1.0) -> int:
        """0, and the request is counted; or, not counted, the whole seconds after which it would be allowed."""
        if not self._per_minute:
            return 0
        now = self._clock()
        full_at = max(now, self._full_at.get(caller, now)) + cost * _MINUTE_SECONDS / self._per_minute
        too_early = full_at - now - _MINUTE_SECONDS
        if too_early > 1e-6:  # what floats lose
            return math.ceil(too_early)
        self._full_at[caller] = full_at
        self._full_at.move_to_end(caller)
        if len(self._full_at) > MOST_CALLERS:
            self._full_at.popitem(last=False)
        return 0
