"""The beat: runs the schedules of the settings: syncs, audits, rebuilds, prunes. `python -m workers.beat` starts it.

Two of them do no harm: SQL decides which one runs a slot (see `workers.schedules`). Redis is not needed to decide
what is due, so wiping it loses no slot; lost batches are not its business but the aggregator's.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from threading import Event

from pipeline.audit import AuditReport, audit_source
from pipeline.indexing.selection import SourceSelection, source_at
from pipeline.replica import IndexReplica
from storage.catalog import Catalog, JobState, catalog_of
from storage.errors import CatalogUnavailable, UnknownCollection
from storage.images.allowed_sources import job_sources
from storage.settings import Schedule, Settings
from storage.snapshots import snapshots_of
from storage.vector_index import VectorIndex
from workers import upkeep
from workers.errors import WorkerError
from workers.job_client import JobClient
from workers.machine.role_process import run_role
from workers.machine.run_owners import PROCESS, end_dead_runs, this_process
from workers.schedules import Scheduler
from workers.servers import connect_redis
from workers.signs.heartbeat import Heartbeat
from workers.signs.local_signs import LocalSigns
from workers.signs.metrics import SCHEDULED

ROLE = "beat"

_TICK_SECONDS = 5.0  # how late a slot may begin
_LISTED_FINDINGS = 20  # of an unclean audit, in the log; `visual-search audit` shows them all

_FINISHED, _FAILED = "finished", "failed"

_log = logging.getLogger(__name__)


def run_schedule(settings: Settings, schedule: Schedule) -> None:
    """Do what one schedule asks for. Raises VisualSearchError."""
    outcome = _FAILED
    try:
        _ACTIONS[schedule.action](settings, schedule)
        outcome = _FINISHED
    finally:
        SCHEDULED.labels(schedule.action, outcome).inc()


def sync(settings: Settings, schedule: Schedule) -> None:
    """Submit the source as a job: what is unchanged is settled at once, the workers do the rest."""
    with JobClient(settings) as client:
        progress = client.submit(
            schedule.source, _selection(schedule), collection=schedule.collection, mirror=schedule.mirror
        )
    _log.info("scheduled sync of %s is job %d: %d images listed", schedule.source, progress.job.id, progress.listed)


def audit(settings: Settings, schedule: Schedule) -> AuditReport:
    """Compare the source with catalog, vectors and index; the job list keeps how it ended.

    Raises StorageError, and UnknownCollection while nothing is indexed.
    """
    with catalog_of(settings) as catalog:
        collection = catalog.collections.get(schedule.collection or settings.collection)
        end_dead_runs(catalog, collection.id)
        options = _selection_json(schedule) | {PROCESS: this_process()}
        job_id = catalog.jobs.start(collection.id, "audit", schedule.source, options)
        state: JobState = "failed"
        counts: dict[str, int] = {}
        try:
            report = _audit_report(settings, schedule, catalog, collection.id)
            counts = {"listed": report.listed, "indexed": report.indexed, **report.by_problem()}
            state = "finished" if report.clean else "failed"
        finally:
            catalog.jobs.finish(job_id, state, counts)
    _tell(report, schedule)
    return report


def _audit_report(settings: Settings, schedule: Schedule, catalog: Catalog, collection_id: int) -> AuditReport:
    generation = catalog.generations.active(collection_id)
    if generation is None:
        raise UnknownCollection(f"nothing is indexed from {schedule.source} yet: there is nothing to audit")
    source = source_at(schedule.source, _selection(schedule), settings.max_image_bytes, job_sources(settings))
    replica = IndexReplica.boot(catalog, generation, snapshots_of(settings, catalog))

    def caught_up() -> VectorIndex:
        replica.catch_up()
        return replica.index

    return audit_source(catalog, generation, source, caught_up)


def _tell(report: AuditReport, schedule: Schedule) -> None:
    if report.clean:
        _log.info("scheduled audit of %s is clean: %d images listed", schedule.source, report.listed)
        return
    _log.error("scheduled audit of %s is not clean: %s", schedule.source, report.by_problem())
    for finding in report.findings[:_LISTED_FINDINGS]:
        _log.error("%s: %s: %s", finding.problem, finding.image_id, finding.detail)


def _selection(schedule: Schedule) -> SourceSelection:
    return SourceSelection(schedule.id_prefix, schedule.include, schedule.exclude)


def _selection_json(schedule: Schedule) -> dict[str, object]:
    return {
        "id_prefix": schedule.id_prefix,
        "include": list(schedule.include),
        "exclude": list(schedule.exclude),
    }


_ACTIONS: Mapping[str, Callable[[Settings, Schedule], object]] = {
    "sync": sync,
    "audit": audit,
    "rebuild": upkeep.rebuild,
    "prune": upkeep.prune,
}


def run_beat(settings: Settings, stop: Event) -> None:
    """Run the schedules until told to stop. Raises CatalogError and SettingsError when it cannot start."""
    name = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
    with catalog_of(settings) as catalog, _heartbeat(settings) as heartbeat:

        def run(schedule: Schedule) -> None:
            try:
                run_schedule(settings, schedule)
            finally:
                heartbeat.progress(done=1)

        scheduler = Scheduler(catalog, settings.schedules, run, name=name)
        for schedule in settings.schedules:  # a counter that begins to be with its first event shows no increase by it
            for outcome in (_FINISHED, _FAILED):
                SCHEDULED.labels(schedule.action, outcome)
        _log.info("ready: %d schedules", len(settings.schedules))
        while not stop.wait(_TICK_SECONDS):
            try:
                scheduler.tick()
            except CatalogUnavailable as error:
                _log.warning("schedules wait for the database: %s", error)


@contextmanager
def _heartbeat(settings: Settings) -> Iterator[Heartbeat]:
    """For `status` and probes. Schedules run without Redis: one that is away at the start costs `status` alone."""
    signs = LocalSigns(settings)
    try:
        client = connect_redis(settings)
    except WorkerError as error:
        _log.warning("`status` will not show this process, schedules run all the same: %s", error)
        with Heartbeat(None, ROLE, signs=signs) as heartbeat:
            yield heartbeat
        return
    with client, Heartbeat(client, ROLE, signs=signs) as heartbeat:
        yield heartbeat


def main() -> int:
    """Start with the settings of the environment and the TOML file; SIGTERM ends it after the running action."""
    return run_role(ROLE, run_beat)


if __name__ == "__main__":
    sys.exit(main())
