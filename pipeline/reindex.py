"""Builds a generation beside the active one and switches to it; at every moment the active one stays whole.

Killed anywhere, the same call finds the unfinished generation and goes on with what it is missing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from pydantic import BaseModel

from pipeline.errors import GateFailed, ReindexIncomplete
from pipeline.evaluate import ModelEvaluator
from pipeline.evaluate.dataset import load_ground_truth
from pipeline.indexing.context import IndexingContext
from pipeline.indexing.report import IndexReport
from pipeline.indexing.run import index_items
from pipeline.indexing.source import SourceItem
from pipeline.replica import IndexReplica
from pipeline.search import NearestNeighborSearch
from storage.catalog import Catalog, Generation, IndexBatch
from storage.errors import GenerationIncomplete, GenerationReplaced
from storage.images.backend import StoredObject
from storage.images.locate import ImageReader
from storage.records import ImageMetadata

_REBUILD_TRIES = 20  # each copies what came during the one before: far fewer every time


@dataclass(frozen=True)
class Gate:
    """Switch only if `metric` on the ground truth does not drop by more than `max_drop` (0.01 is one point)."""

    ground_truth: Path
    metric: str = "recall@10"
    max_drop: float = 0.0


class GateReport(BaseModel):
    """What the gate measured on the active generation and on the new one."""

    metric: str
    active: float
    new: float
    max_drop: float

    @property
    def passed(self) -> bool:
        """Whether the new generation may become active."""
        return self.new >= self.active - self.max_drop


class ReindexReport(BaseModel):
    """What a reindex did: vectors made and copied, images that failed, the gate, and whether it switched."""

    generation_id: int
    embedded: int = 0
    reused: int = 0
    copied: int = 0
    failed: int = 0
    gate: GateReport | None = None
    switched: bool = False


def fill_from_images(context: IndexingContext, reader: ImageReader) -> IndexReport:
    """Embed every live image that the context's generation is missing, also those that come meanwhile.

    An image that fails is recorded in `failures` and tried once. Returns the sum of all rounds.
    """
    total = IndexReport()
    tried: set[tuple[str, str]] = set()  # ids with their content: a newer one has its own try
    context = replace(context, sink=partial(_commit_vectors, context))
    while True:
        before = len(tried)
        report = index_items(context, reader, _missing_items(context, tried))
        total.count(
            {name: getattr(report, name) for name in ("listed", "indexed", "reused", "refreshed", "failed")}, []
        )
        total.seconds += report.seconds
        if len(tried) == before:
            return total


def _commit_vectors(context: IndexingContext, batch: IndexBatch) -> None:
    context.catalog.commit(context.generation.id, replace(batch, vectors_only=True))


def _missing_items(context: IndexingContext, tried: set[tuple[str, str]]) -> Iterator[SourceItem]:
    for image in context.catalog.lifecycle.missing(context.generation.id):
        if (image.image_id, image.sha256) not in tried:
            tried.add((image.image_id, image.sha256))
            yield by_address(image)


def by_address(image: ImageMetadata) -> SourceItem:
    """An image of the catalog as something to be read where it was recorded; its attributes stay."""
    return SourceItem(image.image_id, StoredObject(image.source_uri, image.source_uri, image.etag, image.bytes, 0.0))


def fill_from_vectors(catalog: Catalog, source: Generation, target: Generation) -> int:
    """Copy every vector of the source that the target is missing; return how many. Raises ValueError across models."""
    if source.model != target.model:
        raise ValueError("vectors can only be copied between generations of one model")
    copied, after = 0, ""
    while ids := catalog.lifecycle.copy_vectors(source.id, target.id, after=after):
        copied, after = copied + len(ids), ids[-1]
    return copied


def rebuild_from_vectors(catalog: Catalog, active: Generation) -> ReindexReport:
    """Make the generation anew from its stored vectors and switch to it; images that it lacks stay lacking.

    Raises ReindexIncomplete when images come faster than they are copied, GenerationReplaced when searches use
    another generation by now.
    """
    target = catalog.lifecycle.begin(active.collection_id, active.model, rebuild=True)
    report = ReindexReport(generation_id=target.id)
    for tries_left in reversed(range(_REBUILD_TRIES)):
        report.copied += fill_from_vectors(catalog, active, target)
        try:
            catalog.lifecycle.replace(active.id, target.id)
        except GenerationIncomplete as error:  # images came since the last page was copied
            if not tries_left:
                raise ReindexIncomplete(f"{error}: the active generation stays") from error
        else:
            report.switched = True
            break
    return report


def measure_gate(catalog: Catalog, active: Generation, new: Generation, gate: Gate) -> GateReport:
    """Measure both generations on the gate's ground truth. Raises EvaluationError, GateFailed for an unknown metric."""
    scores = [_measure(catalog, generation, gate) for generation in (active, new)]
    return GateReport(metric=gate.metric, active=scores[0], new=scores[1], max_drop=gate.max_drop)


def _measure(catalog: Catalog, generation: Generation, gate: Gate) -> float:
    replica = IndexReplica(catalog, generation)
    replica.catch_up()
    _name, _, cut = gate.metric.partition("@")
    k_values = [int(cut)] if cut.isdigit() and int(cut) > 0 else [10]
    result = ModelEvaluator(NearestNeighborSearch(replica.index), k_values=k_values).evaluate(
        load_ground_truth(gate.ground_truth)
    )
    if gate.metric not in result.means:
        raise GateFailed(f"no measure '{gate.metric}'; there are {', '.join(sorted(result.means))} (any K)")
    return result.means[gate.metric]


def switch(catalog: Catalog, report: ReindexReport, active: Generation, gate: Gate | None) -> ReindexReport:
    """Pass the gate and switch. Raises GateFailed or ReindexIncomplete; the active generation then stays.

    A gate counts only while searches use the generation that it measured.
    """
    target = next(one for one in catalog.generations.list(active.collection_id) if one.id == report.generation_id)
    if gate is not None:
        report.gate = measure_gate(catalog, active, target, gate)
        if not report.gate.passed:
            raise GateFailed(
                f"{gate.metric} would go from {report.gate.active:.4f} to {report.gate.new:.4f}, more than "
                f"{gate.max_drop} down: the active generation stays; the new one is kept as number {target.id}"
            )
    try:
        catalog.lifecycle.activate(target.id, replacing=None if report.gate is None else active.id)
    except GenerationReplaced as error:
        raise GateFailed(f"another generation than the measured one was activated meanwhile: {error}") from error
    except GenerationIncomplete as error:
        raise ReindexIncomplete(
            f"{error}: the active generation stays. `failures list` says why; after mending them run the same "
            "command again, or `generations activate` it as it is with --allow-missing"
        ) from error
    report.switched = True
    return report
