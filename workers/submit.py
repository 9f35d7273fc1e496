"""Turns a request into a job: the generation it belongs to, its entry in SQL, its listing. Loads no index.

Every step commits to SQL before anything is sent, and any of it may be done again: the same request finds its
unfinished job and goes on with it.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from pipeline.embedders.checkpoint import canonical_name
from pipeline.indexing.source import Source, SourceItem
from storage.catalog import Catalog, Generation, JobProgress, JobRecord, JobRequest
from storage.errors import JobClosed, ModelMismatch, StorageError
from storage.records import Attributes, ModelIdentity
from storage.settings import Settings
from workers.planner import Planner, remove_gone

Send = Callable[[Sequence[int], int], object]  # batch ids and their job's priority

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Submission:
    """What it takes to enter jobs: the catalog, and what sends the ids of committed batches to the workers."""

    catalog: Catalog
    send: Send

    def source(self, request: JobRequest, generation: Generation, source: Source) -> JobProgress:
        """Enter or take up the job that indexes a source. Raises StorageError when it cannot be listed."""
        job = self._open(request)
        if job.state == "listing":
            self._list(job, generation, source.items(), source if request.options.mirror else None)
        return self.catalog.jobs.get(job.id)

    def items(self, request: JobRequest, generation: Generation, items: Iterable[SourceItem]) -> JobProgress:
        """Enter or take up the job that indexes these items of one store, which come in the order of their keys."""
        job = self._open(request)
        if job.state == "listing":
            self._list(job, generation, items, None)
        return self.catalog.jobs.get(job.id)

    def _open(self, request: JobRequest) -> JobRecord:
        job, created = self.catalog.jobs.open(request)
        if not created:
            log.info("job %d does this already (%s): no second one is made", job.id, job.state)
        return job

    def _list(
        self, job: JobRecord, generation: Generation, items: Iterable[SourceItem], mirrored: Source | None
    ) -> None:
        planner = Planner(self.catalog, generation, job, lambda ids: self.send(ids, job.priority))
        try:
            planner.add(items)
            removed = remove_gone(self.catalog, job.collection_id, mirrored) if mirrored is not None else 0
            self.catalog.jobs.listing_done(job.id, {"removed": removed} if removed else {})
        except JobClosed as stopped:
            log.warning("%s", stopped)
        except StorageError:
            if not self.catalog.jobs.get(job.id).listed:  # nothing to resume: let no empty job stand there
                self.catalog.jobs.finish(job.id, "failed", {})
            raise


def generation_for(catalog: Catalog, collection: str, settings: Settings) -> Generation:
    """The generation that a job for this collection adds to; the first job of a collection makes it.

    Raises ModelMismatch when the settings name another model than the collection has.
    """
    record = catalog.collections.ensure(collection)
    generation = catalog.generations.active(record.id)
    if generation is None:
        return catalog.generations.ensure_active(record.id, _identity(settings))
    if "model" in settings.model_fields_set and canonical_name(settings.model) != generation.model.name:
        raise ModelMismatch(
            f"collection '{collection}' holds vectors of {generation.model}, not of '{settings.model}': vectors of "
            "two models cannot be compared. Name no model, or another --collection"
        )
    return generation


def _identity(settings: Settings) -> ModelIdentity:
    """Which model this is, in every detail: only loading it tells."""
    from pipeline.embedders.registry import load_embedder

    log.warning("the collection is new: loading the model %s once, to record which one it is", settings.model)
    return load_embedder(settings.model, device=settings.device, dtype=settings.dtype).identity


def digest_of_items(items: Sequence[SourceItem]) -> str:
    """A sha256 that two lists share when they name the same images in the same state."""
    return _digest([[item.image_id, item.stored.uri, item.stored.etag] for item in items])


def digest_of_attributes(attributes: Mapping[str, Attributes] | None) -> str:
    """A sha256 of a sidecar's content; empty without one."""
    return "" if attributes is None else _digest(attributes)


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
