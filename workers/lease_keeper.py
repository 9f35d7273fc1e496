"""Keeps a lease alive on a thread of its own while something is done under it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from threading import Event, Thread
from types import MappingProxyType, TracebackType

from storage.errors import CatalogUnavailable

_LOG = logging.getLogger(__name__)

RENEWALS_PER_LEASE = 3  # two may fail before another process takes it

_NOTHING: Mapping[str, object] = MappingProxyType({})


class LeaseKeeper:
    """Renews while its block runs. A database that does not answer is asked again; only its no is a no.

    `renew` holds the lease for another `seconds`, and says whether it is still held. `about` goes to the log.
    """

    def __init__(self, renew: Callable[[], bool], seconds: float, about: Mapping[str, object] = _NOTHING) -> None:
        self._renew = renew
        self._about = about
        self._seconds = seconds
        self._lost = False
        self._done = Event()
        self._thread = Thread(target=self._keep, name="lease", daemon=True)

    @property
    def holds(self) -> bool:
        """Whether, as far as is known, the lease is still ours."""
        return not self._lost

    def renew(self) -> None:
        """Renew now, and so learn whether the lease is still ours; a process may have been frozen meanwhile."""
        try:
            renewed = self._renew()
        except CatalogUnavailable as error:
            _LOG.warning("the lease could not be renewed yet: %s", error, extra=self._about)
            return
        if not renewed and not self._lost:
            self._lost = True
            _LOG.warning("the lease ran out and is lost: another process may do the same work", extra=self._about)

    def __enter__(self) -> LeaseKeeper:  # noqa: PYI034 - typing.Self needs Python 3.11
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()

    def _keep(self) -> None:
        while self.holds and not self._done.wait(self._seconds / RENEWALS_PER_LEASE):
            self.renew()
