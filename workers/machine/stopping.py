"""Whether this process was told to stop, and how long ago."""

from __future__ import annotations

from time import monotonic

GRACE_SECONDS = 8.0  # containers are killed 10 s after SIGTERM


class StopRequest:
    """Set by a signal handler, asked by the work: finish within the grace period, or give the work back."""

    def __init__(self, grace_seconds: float = GRACE_SECONDS) -> None:
        self._grace_seconds = grace_seconds
        self._asked_at: float | None = None

    def ask(self) -> None:
        """Note the first request; later ones do not lengthen the grace period."""
        if self._asked_at is None:
            self._asked_at = monotonic()

    @property
    def asked(self) -> bool:
        """Whether no new work is to begin."""
        return self._asked_at is not None

    @property
    def overdue(self) -> bool:
        """Whether work in progress is to be given back now."""
        return self._asked_at is not None and monotonic() - self._asked_at >= self._grace_seconds
