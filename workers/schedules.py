"""What runs by the clock: finds due slots of cron expressions and runs each once, however many processes try.

Knows no Redis: for each schedule a lease in SQL says who runs its present slot; afterwards it is held until just
before the next one, so that a second process, or the same one after a restart, finds the slot taken.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone

from celery import Celery
from celery.schedules import ParseException, crontab

from storage.catalog import Catalog
from storage.errors import SettingsError, VisualSearchError
from storage.settings import Schedule
from workers.metrics import NEXT_SLOT

RUN_SECONDS = 600.0  # a process that was killed while it ran a slot is taken for dead after so long
GRACE_SECONDS = 600.0  # a slot missed by less, during a restart say, is made up for
RETRY_SECONDS = 60.0  # before a slot is run again whose source or database was away
_MARGIN_SECONDS = 1.0  # a lease ends before the next slot, also where clocks differ a little

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


@dataclass
class _Entry:
    schedule: Schedule
    slot: datetime  # the next one to run


class Scheduler:
    """Runs the slots of some schedules; call `tick` now and then. `name` tells this process from all others.

    A slot is run by one process. When it fails for a reason that may pass (`retryable`), or its process dies, it
    is run again until the next slot comes; one missed by more than ten minutes is left out, as cron does.
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
            following = next_slot(entry.schedule.cron, entry.slot)
            while following <= _now():  # only the newest slot counts of those missed
                entry.slot, following = following, next_slot(entry.schedule.cron, following)
            if entry.slot <= _now() and self._run_slot(entry, following):
                entry.slot = following
            named = (entry.schedule.action, entry.schedule.collection or "", entry.schedule.source)
            NEXT_SLOT.labels(*named).set(entry.slot.timestamp())

    def _run_slot(self, entry: _Entry, following: datetime) -> bool:
        """Run one slot; false when another process has it, or when it is to be tried again."""
        holder = f"{self._name}/{secrets.token_hex(4)}"  # of its own, so that no try takes over the one before it
        lease = self._catalog.leases.acquire(schedule_name(entry.schedule), holder, RUN_SECONDS)
        if lease is None:
            return False
        try:
            self._run(entry.schedule)
        except VisualSearchError as error:
            _log.error("scheduled %s of %s: %s", entry.schedule.action, entry.schedule.source, error)
            if error.retryable:
                self._catalog.leases.renew(replace(lease, seconds=RETRY_SECONDS))
                return False
        until = (following - _now()).total_seconds() - _MARGIN_SECONDS
        self._catalog.leases.renew(replace(lease, seconds=max(0.0, until)))
        return True


def _now() -> datetime:
    return datetime.now(timezone.utc)
