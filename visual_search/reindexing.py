"""Changing a collection's model, or rebuilding its generation, without interrupting searches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pipeline.decode import DecodeLimits
from pipeline.embedding_service import EmbeddingService
from pipeline.errors import InvalidQuery
from pipeline.indexing.context import IndexingContext, IndexOptions
from pipeline.indexing.report import IndexReport
from pipeline.reindex import Gate, ReindexReport, fill_from_images, fill_from_vectors, switch
from storage.catalog import Generation
from storage.records import ModelIdentity
from visual_search.collection import ImageCollection

Progress = Callable[[IndexReport], None]


@dataclass(frozen=True)
class ReindexPlan:
    """What to build: a generation of another model from the images, or (model None) of the same from its vectors."""

    model: str | None
    gate: Gate | None = None
    switch: bool = True


def reindex(collection: ImageCollection, plan: ReindexPlan, on_progress: Progress | None = None) -> ReindexReport:
    """Build the new generation and switch to it; the active one answers until then and stays on standby after.

    Interrupted, the same call carries on. Raises GateFailed, ReindexIncomplete (images without a vector would
    vanish from searches), ModelUnavailable; the active generation is then as it was.
    """
    active = active_generation(collection)
    if plan.model is None:
        report = _rebuild(collection, active, on_progress)
    else:
        report = _embed_anew(collection, active, plan.model, on_progress)
    return switch(collection.catalog, report, active, plan.gate) if plan.switch else report


def roll_back(collection: ImageCollection, on_progress: Progress | None = None) -> ReindexReport:
    """Go back to the generation that was active before, after embedding with its model what came since.

    Raises UnknownGeneration when there is none, ReindexIncomplete when some image cannot be embedded.
    """
    active = active_generation(collection)
    target = collection.catalog.lifecycle.previous(collection.record.id)
    report = ReindexReport(generation_id=target.id)
    if collection.catalog.lifecycle.missing_count(target.id):
        _fill(collection, target, lambda: _load(collection, target.model.name, target.model), report, on_progress)
    return switch(collection.catalog, report, active, None)


def active_generation(collection: ImageCollection) -> Generation:
    """The active generation. Raises InvalidQuery while the collection is empty."""
    generation = collection.generation
    if generation is None:
        raise InvalidQuery(f"collection '{collection.name}' is empty: run `visual-search index FOLDER` first")
    return generation


def _rebuild(collection: ImageCollection, active: Generation, on_progress: Progress | None) -> ReindexReport:
    target = collection.catalog.lifecycle.begin(collection.record.id, active.model, rebuild=True)
    report = ReindexReport(generation_id=target.id)
    report.copied = fill_from_vectors(collection.catalog, active, target)
    if collection.catalog.lifecycle.missing_count(target.id):  # images that came meanwhile, or had no vector before
        _fill(collection, target, lambda: collection.embedding_service, report, on_progress)
    return report


def _embed_anew(
    collection: ImageCollection, active: Generation, model: str, on_progress: Progress | None
) -> ReindexReport:
    service = _load(collection, model)
    if service.identity == active.model:
        raise InvalidQuery(f"the collection is of {active.model} already; --rebuild makes its generation anew")
    target = collection.catalog.lifecycle.begin(collection.record.id, service.identity)
    report = ReindexReport(generation_id=target.id)
    _fill(collection, target, lambda: service, report, on_progress)
    return report


def _fill(
    collection: ImageCollection,
    target: Generation,
    service: Callable[[], EmbeddingService],
    report: ReindexReport,
    on_progress: Progress | None,
) -> None:
    settings = collection.settings
    options = IndexOptions(
        batch_size=settings.batch_size, fetch_threads=settings.fetch_threads, commit_images=settings.commit_images
    )
    show = on_progress or (lambda _report: None)
    context = IndexingContext(collection.catalog, target, service, options, show)
    filled = fill_from_images(context, collection.reader())
    report.embedded, report.reused, report.failed = filled.indexed, filled.reused, filled.failed


def _load(collection: ImageCollection, model: str, like: ModelIdentity | None = None) -> EmbeddingService:
    settings = collection.settings
    limits = DecodeLimits(max_bytes=settings.max_image_bytes, max_pixels=settings.max_image_pixels)
    return EmbeddingService(
        model,
        device=settings.device,
        dtype=settings.dtype,
        batch_size=settings.batch_size,
        backend=settings.backend,
        decoding=settings.decoding,
        like=like,
        limits=limits,
        children=collection.children,
    )
