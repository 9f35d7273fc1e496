"""What runs by the clock: finds due slots of cron expressions and runs each once, however many processes try.

Knows no Redis: for each schedule a lease in SQL says who runs its present slot, for however long that takes: it is
renewed meanwhile, so it ends soon after its process does. Afterwards it is left to a note that the slot was run.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from functools import partial

from celery import Celery
from celery.schedules import ParseException, crontab

from storage.catalog import Catalog, Lease
from storage.errors import SettingsError, VisualSearchError
from storage.settings import Schedule
from workers.lease_keeper import LeaseKeeper
from workers.signs.metrics import NEXT_SLOT

RUN_SECONDS = 120.0  # a process that was killed while it ran a slot is taken for dead after so long; else it renews
GRACE_SECONDS = 600.0  # a slot missed by less, during a restart say, is made up for
RETRY_SECONDS = 60.0  # before a slot is run again whose source or database was away
_MARGIN_SECONDS = 1.0  # a slot that was run is over before the next one, also where clocks differ a little

_FIELDS = ("minute", "hour", "day_of_month", "month_of_year", "day_of_week")

_log = logging.getLogger(__name__)

_UTC_APP = Celery("visual_search_schedules", set_as_current=False)  # cron expressions ask their app for the time zone


def next_slot(cron: str, after: datetime) -> datetime:
    """The first moment behind `after` that five cron fields name, in UTC. Raises SettingsError."""
    try:
        fields = dict(zip(_FIELDS, cron.split(), strict=True))
        expression = crontab(**fields, nowfun=lambda: after, app=_UTC_APP)
        start, delta, _now = expression.remaining_delta(after)
    except (ValueError, ParseException) as error:
        raise SettingsError(f"schedule '{cron}' is no cron expression: {error}") from error
    slot: datetime = start + delta
    return slot


def schedule_name(schedule: Schedule) -> str:
    """A name that all processes with the same schedule give it."""
    return f"schedule:{hashlib.sha256(schedule.model_dump_json().encode()).hexdigest()[:16]}"


@dataclass(frozen=True)
class _Run:
    """A slot that was run by us; SQL is to know it."""

    lease: Lease
    slot: datetime
    following: datetime


@dataclass
class _Entry:
    schedule: Schedule
    slot: datetime  # the next one to run
    untold: _Run | None = None


class Scheduler:
    """Runs the slots of some schedules; call `tick` now and then. `name` tells this process from all others.

    A slot is run by one process, however long it takes. When it fails for a reason that may pass (`retryable`), or its
    process dies, it is run again until the next slot comes; one missed by more than ten minutes is left out, as cron
    does. A process that was frozen for so long that another one took the slot over goes on with it when it wakes:
    whatever an action does must bear that.
    """

    def __init__(
        self, catalog: Catalog, schedules: Sequence[Schedule], run: Callable[[Schedule], None], *, name: str
    ) -> None:
        self._catalog = catalog
        self._run = run
        self._name = name
        since = _now() - timedelta(seconds=GRACE_SECONDS)
        self._entries = [_Entry(schedule, next_slot(schedule.cron, since)) for schedule in schedules]

    def tick(self) -> None:
        """Run what is due. Raises CatalogUnavailable; what a schedule itself raises is logged."""
        for entry in self._entries:
            self._tell(entry)
            following = next_slot(entry.schedule.cron, entry.slot)
            while following <= _now():  # only the newest slot counts of those missed
                entry.slot, following = following, next_slot(entry.schedule.cron, following)
            if entry.slot <= _now():
                self._run_slot(entry, following)
            named = (entry.schedule.action, entry.schedule.collection or "", entry.schedule.source)
            NEXT_SLOT.labels(*named).set(entry.slot.timestamp())

    def _run_slot(self, entry: _Entry, following: datetime) -> None:
        """Run one slot, unless another process has it or had it; one that is to be tried again stays the next."""
        holder = f"{self._name}/{secrets.token_hex(4)}"  # of its own, so that no try takes over the one before it
        leases = self._catalog.leases
        name, was_run = schedule_name(entry.schedule), _was_run(entry.slot)
        lease = leases.acquire(name, holder, RUN_SECONDS, unless_left_to=was_run)
        if lease is None:
            return
        with LeaseKeeper(partial(leases.renew, lease), RUN_SECONDS):
            done = self._do(entry.schedule)
        if not done:
            leases.renew(replace(lease, seconds=RETRY_SECONDS))
            return
        entry.untold = _Run(lease, entry.slot, following)
        entry.slot = following
        self._tell(entry)

    def _do(self, schedule: Schedule) -> bool:
        """Do what is asked; false when that failed for a reason that may pass."""
        try:
            self._run(schedule)
        except VisualSearchError as error:
            _log.error("scheduled %s of %s: %s", schedule.action, schedule.source, error)
            return not error.retryable
        return True

    def _tell(self, entry: _Entry) -> None:
        """Tell SQL of the slot that was run last. Raises CatalogUnavailable; the next tick tells it then."""
        if entry.untold is None:
            return
        run = entry.untold
        seconds = (run.following - _now()).total_seconds() - _MARGIN_SECONDS
        if not self._catalog.leases.leave_to(run.lease, _was_run(run.slot), max(0.0, seconds)):
            _log.warning("another process took over the slot of %s and may have run it too", run.slot.isoformat())
        entry.untold = None


def _was_run(slot: datetime) -> str:
    """To whom the lease of a slot is left that was run: no process has such a name."""
    return f"run: {slot.isoformat()}"


def _now() -> datetime:
    return datetime.now(timezone.utc)
