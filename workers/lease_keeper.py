"""Keeps a batch's lease alive on a thread of its own while the batch is worked on."""

from __future__ import annotations

import logging
from threading import Event, Thread
from types import TracebackType

from storage.catalog import Catalog, LeasedBatch
from storage.errors import CatalogUnavailable
from workers.logs import about

_LOG = logging.getLogger(__name__)

_RENEWALS_PER_LEASE = 3  # two may fail before another worker takes the batch


class LeaseKeeper:
    """Renews while its block runs. A database that does not answer is asked again; only its no is a no."""

    def __init__(self, catalog: Catalog, leased: LeasedBatch, seconds: float) -> None:
        self._catalog = catalog
        self._leased = leased
        self._about = about(job=leased.job_id, batch=leased.id)
        self._seconds = seconds
        self._lost = False
        self._done = Event()
        self._thread = Thread(target=self._keep, name=f"lease-{leased.id}", daemon=True)

    @property
    def holds(self) -> bool:
        """Whether, as far as is known, the batch is still ours."""
        return not self._lost

    def renew(self) -> None:
        """Renew now, and so learn whether the batch is still ours; a process may have been frozen meanwhile."""
        try:
            renewed = self._catalog.batches.renew(self._leased.id, self._leased.token, self._seconds)
        except CatalogUnavailable as error:
            _LOG.warning("the lease could not be renewed yet: %s", error, extra=self._about)
            return
        if not renewed and not self._lost:
            self._lost = True
            _LOG.warning("the lease ran out and is lost; the work on the batch is dropped", extra=self._about)

    def __enter__(self) -> LeaseKeeper:  # noqa: PYI034 - typing.Self needs Python 3.11
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()

    def _keep(self) -> None:
        while self.holds and not self._done.wait(self._seconds / _RENEWALS_PER_LEASE):
            self.renew()
