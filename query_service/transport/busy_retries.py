"""Which searches are to be sent once more because the queue was full, and after which pause. Knows no connection."""

from __future__ import annotations

import random
from collections.abc import Sequence
from time import monotonic

from pipeline.errors import InvalidQuery
from query_service.errors import ServiceBusy
from query_service.protocol import SearchRequest
from query_service.transport.exchange import Outcome

_FIRST_PAUSE_SECONDS = 0.05  # a batch takes about as long; it doubles, and chance spreads those that wait together


class BusyRetries:
    """The tries of searches that go together. Their time runs from now on: no try makes it longer."""

    def __init__(self, requests: Sequence[SearchRequest], retries: int) -> None:
        if retries < 0:
            raise InvalidQuery(f"busy_retries is at least 0, got {retries}")
        started = monotonic()
        self._requests = list(requests)
        self._ends = [started + request.timeout_seconds for request in requests]
        self._pauses = [_FIRST_PAUSE_SECONDS * 2**attempt for attempt in reversed(range(retries))]

    def again(self, outcomes: Sequence[Outcome]) -> tuple[float, dict[int, SearchRequest]]:
        """Seconds to wait, and what to send then, by its place among the requests; nothing when it is over."""
        busy = [place for place, outcome in enumerate(outcomes) if isinstance(outcome, ServiceBusy)]
        if not busy or not self._pauses:
            return 0.0, {}
        pause = self._pauses.pop() * random.uniform(0.5, 1.5)  # noqa: S311 - no secret
        at = monotonic() + pause
        left = {place: self._ends[place] - at for place in busy if self._ends[place] > at}
        again = {
            place: self._requests[place].model_copy(update={"timeout_seconds": seconds})
            for place, seconds in left.items()
        }
        return (pause, again) if again else (0.0, {})
