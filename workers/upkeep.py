"""What schedules do with a collection itself: make its generation anew, drop generations that nobody goes back to.

Each run stands in the job list. Knows no clock: `workers.schedules` says when.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from pipeline.reindex import rebuild_from_vectors
from storage.catalog import Catalog, CollectionRecord, JobState, catalog_of
from storage.errors import UnknownCollection
from storage.settings import Schedule, Settings
from storage.snapshots import prune_generations, snapshots_of
from workers.machine.run_owners import PROCESS, end_dead_runs, this_process

KEPT_STANDBY = 1  # generations on standby that a scheduled prune keeps: a rollback stays possible

_log = logging.getLogger(__name__)

_Counts = dict[str, int]


def rebuild(settings: Settings, schedule: Schedule) -> None:
    """Make the active generation anew from its stored vectors and switch to it; needs no model and no source.

    Raises UnknownCollection while nothing is indexed, ReindexIncomplete when images come faster than they are copied.
    """
    _as_job(settings, schedule, _rebuild)


def prune(settings: Settings, schedule: Schedule) -> None:
    """Retire generations on standby except the newest one, which a rollback goes back to.

    Their snapshots go with them. Unfinished ones stay: a reindex may be at work on them. Raises UnknownCollection.
    """

    def run(catalog: Catalog, collection: CollectionRecord) -> _Counts:
        pruned = prune_generations(catalog, snapshots_of(settings, catalog), collection.id, keep=KEPT_STANDBY)
        return {"pruned": len(pruned)}

    _as_job(settings, schedule, run)


def _as_job(settings: Settings, schedule: Schedule, run: Callable[[Catalog, CollectionRecord], _Counts]) -> None:
    with catalog_of(settings) as catalog:
        collection = catalog.collections.get(schedule.collection or settings.collection)
        end_dead_runs(catalog, collection.id)
        job_id = catalog.jobs.start(collection.id, schedule.action, "stored vectors", {PROCESS: this_process()})
        state: JobState = "failed"
        counts: _Counts = {}
        try:
            counts = run(catalog, collection)
            state = "finished"
        finally:
            catalog.jobs.finish(job_id, state, counts)
    said = ", ".join(f"{number} {name}" for name, number in counts.items())
    _log.info("scheduled %s of collection '%s': %s", schedule.action, collection.name, said)


def _rebuild(catalog: Catalog, collection: CollectionRecord) -> _Counts:
    active = catalog.generations.active(collection.id)
    if active is None:
        raise UnknownCollection(f"collection '{collection.name}' is empty: there is nothing to rebuild")
    return {"copied": rebuild_from_vectors(catalog, active).copied}
