"""Commits what workers made of batches: many in one transaction, each batch once, under the aggregator's lease."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, select

from storage.attributes import storable_text
from storage.catalog import tables
from storage.catalog.database.clock import now
from storage.catalog.database.engine import Database
from storage.catalog.database.statements import one_of
from storage.catalog.failures import failed_among
from storage.catalog.gathered_writes import GatheredWrites
from storage.catalog.generations import active_generation, lock_generations
from storage.catalog.queued.job_records import REINDEX, UNFINISHED_BATCH, BatchResult, Lease, add_counts
from storage.catalog.queued.job_rows import (
    FinishedBatch,
    count_outcomes,
    find_job,
    finish_batches,
    lock_batches,
    lock_jobs,
    release_batch,
)
from storage.catalog.queued.leases import check_lease
from storage.catalog.records import Generation, JobRecord
from storage.catalog.vectors.added_vectors import fitting

_BATCHES = tables.job_batches.c
_IMAGES = tables.images.c

log = logging.getLogger(__name__)


def commit_results(database: Database, lease: Lease | None, results: Sequence[BatchResult]) -> list[bool]:
    """See `Catalog.commit_results`."""
    with database.write() as connection:
        if lease is not None:
            check_lease(connection, lease)
        return _Commit(connection, results).write()


class _Commit:
    """One transaction: takes all locks in their one order, then writes result after result."""

    def __init__(self, connection: Connection, results: Sequence[BatchResult]) -> None:
        self._connection = connection
        self._results = results
        self._moment = now()
        batch_ids = {result.batch_id for result in results}
        job_ids = set(connection.scalars(select(_BATCHES.job_id).where(_BATCHES.id.in_(batch_ids))))
        self._jobs = lock_jobs(connection, job_ids)
        self._open = {
            batch_id: batch
            for batch_id, batch in lock_batches(connection, batch_ids).items()
            if batch.state in UNFINISHED_BATCH
        }
        self._generations = lock_generations(connection, {result.generation_id for result in results})
        self._deleted = self._lock_images()
        self._writes = GatheredWrites(connection)
        self._finished: list[FinishedBatch] = []
        self._counts: dict[int, dict[str, int]] = {}  # by job

    def write(self) -> list[bool]:
        """Write what is to be written; return for each result whether it was."""
        written = [self._take(result) for result in self._results]
        self._writes.flush()
        finish_batches(self._connection, self._finished)
        for job_id, counts in self._counts.items():
            count_outcomes(self._connection, find_job(self._connection, job_id), counts, self._moment)
        return written

    def _take(self, result: BatchResult) -> bool:
        batch = self._open.pop(result.batch_id, None)
        if batch is None:
            log.info("batch %d: delivered again, or cancelled; nothing to commit", result.batch_id)
            return False
        generation = self._generations.get(result.generation_id)
        job = self._jobs[batch.job_id]
        if job.kind != REINDEX and generation is not None and self._was_replaced(generation):
            log.info("batch %d: searches use another generation by now; it is embedded again for that", batch.id)
            if job.state == "cancelled":
                self._finish(job, FinishedBatch(batch.id, "cancelled", {}))
            else:
                release_batch(self._connection, batch.id)
            return False
        if generation is None or generation.state == "retired":
            log.warning("batch %d: generation %d takes no commits", result.batch_id, result.generation_id)
            self._finish(job, FinishedBatch(batch.id, "cancelled", {}))
            return False
        self._writes.aim(generation.id, vectors_only=job.kind == REINDEX)
        if job.kind == REINDEX:
            kept = self._vectors_only(result, generation)
        else:
            kept = self._keeping_attributes(self._without_deleted(result, job, generation), batch, generation)
        self._writes.add(kept.batch)
        self._known[generation.collection_id] |= {image.metadata.image_id for image in kept.batch.upserts}
        self._finish(job, FinishedBatch(batch.id, "done", kept.counts))
        return True

    def _finish(self, job: JobRecord, batch: FinishedBatch) -> None:
        self._finished.append(batch)
        self._counts[job.id] = add_counts(self._counts.get(job.id, {}), batch.counts)

    def _was_replaced(self, generation: Generation) -> bool:
        """Whether another generation is active; under the generation's lock, which a switch takes too."""
        if generation.state not in ("standby", "retired"):
            return False
        active = active_generation(self._connection, generation.collection_id)
        return active is not None and active.id != generation.id

    def _vectors_only(self, result: BatchResult, generation: Generation) -> BatchResult:
        fit = fitting(self._connection, generation.collection_id, result.batch)
        counts = _moved(result.counts, "deleted", fit.gone)
        return replace(result, batch=fit.batch, counts=_moved(counts, "failed", fit.changed))

    def _without_deleted(self, result: BatchResult, job: JobRecord, generation: Generation) -> BatchResult:
        """Leave out images that were deleted after the job began: their user's word is the newer one."""
        deleted = self._deleted[generation.collection_id]
        newer = {image_id for image_id, moment in deleted.items() if moment > job.started_at}
        batch = result.batch
        kept = [image for image in batch.upserts if image.metadata.image_id not in newer]
        failures = [failure for failure in batch.failures if failure.image_id not in newer]
        dropped, unfailed = len(batch.upserts) - len(kept), len(batch.failures) - len(failures)
        if not dropped and not unfailed:
            return result
        counts = _moved(result.counts, "deleted", dropped)
        if unfailed:
            left = max(0, counts.get("failed", 0) - unfailed)
            counts |= {"failed": left, "deleted": counts["deleted"] + unfailed}
        return replace(result, batch=replace(batch, upserts=kept, failures=failures), counts=counts)

    def _keeping_attributes(self, result: BatchResult, batch: Row[Any], generation: Generation) -> BatchResult:
        """Mark the known images for which neither the job nor a failure before it gave attributes."""
        not_given = {fields["image_id"] for fields in batch.images if fields.get("attributes") is None}
        known = not_given & self._known[generation.collection_id]
        if not known:
            return result
        waiting = failed_among(self._connection, generation.collection_id, known)
        keeps = {image_id for image_id in known if waiting.get(image_id) is None}
        return replace(result, batch=replace(result.batch, keeps_attributes=keeps))

    def _lock_images(self) -> dict[int, dict[str, datetime]]:
        """Lock the known images among all outcomes, by id; say by collection which are deleted, and since when."""
        wanted: dict[int, set[str]] = defaultdict(set)
        for result in self._results:
            if result.generation_id in self._generations:
                collection_id = self._generations[result.generation_id].collection_id
                wanted[collection_id] |= {image.metadata.image_id for image in result.batch.upserts}
                wanted[collection_id] |= {image.image_id for image in result.batch.refreshed}
                failed = (failure.image_id for failure in result.batch.failures)
                wanted[collection_id] |= set(filter(storable_text, failed))
        deleted: dict[int, dict[str, datetime]] = {collection_id: {} for collection_id in wanted}
        self._known: dict[int, set[str]] = {collection_id: set() for collection_id in wanted}  # live ones
        columns = (_IMAGES.image_id, _IMAGES.deleted_at)
        for collection_id in sorted(wanted):
            among = one_of(self._connection, _IMAGES.image_id, wanted[collection_id])
            statement = select(*columns).where(_IMAGES.collection_id == collection_id, among).order_by(_IMAGES.image_id)
            rows = self._connection.execute(statement.with_for_update(key_share=True)).all()
            deleted[collection_id].update({image_id: deleted_at for image_id, deleted_at in rows if deleted_at})
            self._known[collection_id].update(image_id for image_id, deleted_at in rows if not deleted_at)
        return deleted


def _moved(counts: Mapping[str, int], outcome: str, number: int) -> dict[str, int]:
    """Count so many images as this outcome that were counted as indexed or, when there are not as many, as reused."""
    indexed = min(number, counts.get("indexed", 0))
    return {
        **counts,
        "indexed": counts.get("indexed", 0) - indexed,
        "reused": max(0, counts.get("reused", 0) - (number - indexed)),
        outcome: counts.get(outcome, 0) + number,
    }
