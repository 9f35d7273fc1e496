"""One generation's index and what was fetched for it: one thread fetches, another one applies. Knows no collection."""

from __future__ import annotations

import logging
from collections import deque

from pipeline.replica import IndexReplica
from storage.catalog import ChangePage
from workers.machine.logs import about

_FETCHED_PAGES = 64  # that may wait to be applied (128 MiB at 512-d); more are fetched once they are

_log = logging.getLogger(__name__)


class Followed:
    """A replica and what is fetched for it. Steps, not pages: each takes the index from one moment to another."""

    def __init__(self, replica: IndexReplica) -> None:
        self.replica = replica
        self.fetched_seq = replica.seq
        self.steps: deque[list[ChangePage]] = deque()  # the follower appends, the searching thread takes
        self.broken = False  # half a step may be in the index: not to be searched any more

    def fetch(self) -> None:
        """Fetch what is new, unless much waits to be applied. Raises the catalog's errors."""
        if sum(len(step) for step in list(self.steps)) < _FETCHED_PAGES:
            pages = list(self.replica.changes(self.fetched_seq))
            if pages:
                self.steps.append(pages)
                self.fetched_seq = pages[-1].last_seq

    def apply(self) -> None:
        """Apply what was fetched. Whatever goes wrong (memory, a damaged row) breaks this one alone."""
        try:
            while self.steps and not self.broken:
                for page in self.steps[0]:
                    self.replica.apply(page)
                self.steps.popleft()
        except Exception as error:  # noqa: BLE001 - only the searches of this collection have to wait
            self.broken = True
            generation = self.replica.generation.id
            _log.error("changes cannot be applied, loading anew", exc_info=error, extra=about(generation=generation))
