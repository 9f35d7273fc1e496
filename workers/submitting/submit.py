"""Turns a request into a job: the generation it belongs to, its entry in SQL, its listing. Loads no index.

Every step commits to SQL before anything is sent, and any of it may be done again: the same request finds its
unfinished job and goes on with it.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from pipeline.embedders.checkpoint import canonical_name
from pipeline.indexing.failed_items import forget_what_is_listed
from pipeline.indexing.source import Source, SourceItem
from storage.catalog import Catalog, Generation, ImageFailure, JobProgress, JobRecord, JobRequest
from storage.errors import JobClosed, LeftOut, ModelMismatch, StorageDenied, StorageError
from storage.records import Attributes
from storage.settings import Settings
from workers.submitting.model_identity import identity_of
from workers.submitting.planner import ATTRIBUTES_USED, Placed, Planner, remove_gone

ATTRIBUTES_UNUSED = "attributes_unused"  # count of a job: sidecar rows that named no listed image

Send = Callable[[Sequence[int], int], object]  # batch ids and their job's priority

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Submission:
    """What it takes to enter jobs: the catalog, and what sends the ids of committed batches to the workers."""

    catalog: Catalog
    send: Send

    def source(self, request: JobRequest, generation: Generation, source: Source) -> JobProgress:
        """Enter or take up the job that indexes a source; a folder or link that cannot be read fails alone.

        Raises StorageError when it cannot be listed.
        """
        ending = _Ending(source, [], len(source.attributes or ()))
        return self._enter(request, generation, _placed(source, ending.denied), ending)

    def placed(
        self,
        request: JobRequest,
        generation: Generation,
        placed: Iterable[Placed],
        *,
        sidecar_rows: int = 0,
    ) -> JobProgress:
        """Enter or take up the job that indexes items in the order of their places, see `Planner.add_placed`.

        `sidecar_rows`: of the attributes file, to tell at the end how many named no image.
        """
        return self._enter(request, generation, placed, _Ending(None, [], sidecar_rows))

    def _enter(
        self, request: JobRequest, generation: Generation, placed: Iterable[Placed], ending: _Ending
    ) -> JobProgress:
        job = self._open(request)
        if job.state == "listing":
            self._list(job, generation, placed, ending)
        return self.catalog.jobs.get(job.id)

    def _open(self, request: JobRequest) -> JobRecord:
        job, created = self.catalog.jobs.open(request)
        if not created:
            log.info("job %d does this already (%s): no second one is made", job.id, job.state)
        if not created and job.kind == "index" and job.state == "running":
            log.warning(
                "job %d does this already. It was listed before: what came to the source since then is not in it, "
                "submit again when it is over",
                job.id,
            )
        return job

    def _list(self, job: JobRecord, generation: Generation, placed: Iterable[Placed], ending: _Ending) -> None:
        planner = Planner(self.catalog, generation, job, lambda ids: self.send(ids, job.priority))
        try:
            planner.add_placed(placed)
            self.catalog.jobs.listing_done(job.id, self._last_counts(job, ending))
        except JobClosed as stopped:
            log.warning("%s", stopped)
        except StorageError:
            self.catalog.jobs.abandon(job.id)  # nothing to resume: let no empty job stand there
            raise

    def _last_counts(self, job: JobRecord, ending: _Ending) -> dict[str, int]:
        """What only the end of a listing can tell."""
        counts = {}
        if ending.source is not None:
            forget_what_is_listed(self.catalog, job.collection_id, ending.source, ending.denied)
            if job.options.get("mirror"):
                remove_gone(self.catalog, job, ending.source)  # which counts them
        if ending.sidecar_rows:
            used = self.catalog.jobs.get(job.id).job.counts.get(ATTRIBUTES_USED, 0)
            counts[ATTRIBUTES_UNUSED] = max(0, ending.sidecar_rows - used)
        return {name: number for name, number in counts.items() if number}


@dataclass(frozen=True)
class _Ending:
    """What is to be done when a listing is complete: of a whole source, and of what was denied in it by then."""

    source: Source | None
    denied: list[str]  # ids, filled by the listing
    sidecar_rows: int


def _placed(source: Source, denied: list[str]) -> Iterator[Placed]:
    """The source in key order, what cannot be read among it as failures; their ids go to `denied` too."""
    told: list[Placed] = []

    def deny(image_id: str, uri: str, error: StorageDenied) -> None:
        denied.append(image_id)
        key = image_id[len(source.id_prefix) :]
        place = key.removesuffix("/") if isinstance(error, LeftOut) else key  # a link stands where its name does
        told.append((place, ImageFailure(image_id, uri, error.reason, str(error))))

    for item in source.items(deny):
        yield from told
        told.clear()
        yield item.stored.key, item
    yield from told


def generation_for(catalog: Catalog, collection: str, settings: Settings) -> Generation:
    """The generation that a job for this collection adds to; the first job of a collection makes it.

    Raises ModelMismatch when the settings name another model than the collection has.
    """
    record = catalog.collections.ensure(collection)
    generation = catalog.generations.active(record.id)
    if generation is None:
        level = logging.INFO if settings.model == "baseline" else logging.WARNING  # that takes seconds
        log.log(level, "the collection is new: the model %s is loaded once, to record which one it is", settings.model)
        return catalog.generations.ensure_active(record.id, identity_of(settings.model, settings))
    if "model" in settings.model_fields_set and canonical_name(settings.model) != generation.model.name:
        raise ModelMismatch(
            f"collection '{collection}' holds vectors of {generation.model}, not of '{settings.model}': vectors of "
            "two models cannot be compared. Name no model, or another --collection"
        )
    return generation


def digest_of_items(items: Sequence[SourceItem]) -> str:
    """A sha256 that two lists share when they name the same images in the same state."""
    return _digest([[item.image_id, item.stored.uri, item.stored.etag] for item in items])


def digest_of_attributes(attributes: Mapping[str, Attributes] | None) -> str:
    """A sha256 of a sidecar's content; empty without one."""
    return "" if attributes is None else _digest(attributes)


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
