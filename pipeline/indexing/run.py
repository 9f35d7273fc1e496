"""Indexes one source into one generation: the steps chained, overlapped, committed in batches.

Killed at any moment it loses nothing: what is committed is skipped by the next run, the rest is done again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from functools import partial
from itertools import chain
from time import perf_counter
from typing import TypeVar

from pipeline.embedding_service import EmbeddingService
from pipeline.errors import ModelError
from pipeline.indexing.chunks import chunks, tapering_chunks
from pipeline.indexing.context import IndexingContext
from pipeline.indexing.embed import Embedded, embed
from pipeline.indexing.failed_items import forget_what_is_listed
from pipeline.indexing.fetch import Fetched, Reads, fetch
from pipeline.indexing.outcomes import Outcomes
from pipeline.indexing.overlap import Window, overlap
from pipeline.indexing.plan import Need, Planned, plan
from pipeline.indexing.prepare import Prepared, prepare
from pipeline.indexing.report import IndexReport
from pipeline.indexing.source import Source, SourceItem
from pipeline.indexing.threads import Compute, RunThreads
from storage.catalog import ImageFailure
from storage.errors import StorageDenied, StorageUnavailable, VisualSearchError

T = TypeVar("T")

_PLAN_CHUNK = 512  # ids per catalog look-up
_REUSE_CHUNK = 32  # hashes per catalog look-up: small, so that the first batch starts early
_IN_FLIGHT_BYTES = 256 * 1024 * 1024  # image files held in memory, per step
_PREPARED_BYTES = 600 * 1024  # one (3, 224, 224) float32
_GIVE_UP_AFTER_UNAVAILABLE = 25  # so many in a row mean that the source is down, not that images are bad


def index_source(context: IndexingContext, source: Source) -> IndexReport:
    """Index every listed image that needs it; one bad image is recorded and harms nothing else.

    Raises StorageError when the source cannot be listed or is down; what was done until then is committed.
    """
    denied: list[ImageFailure] = []

    def deny(image_id: str, uri: str, error: StorageDenied) -> None:
        denied.append(ImageFailure(image_id, uri, error.reason, str(error)))

    rows = len(source.attributes or ())
    report = index_items(context, source.backend, source.items(deny), sidecar_rows=rows, denied=denied)
    ids = {failure.image_id for failure in denied}
    forget_what_is_listed(context.catalog, context.generation.collection_id, source, ids)
    return report


def index_items(
    context: IndexingContext,
    reader: Reads,
    items: Iterable[SourceItem],
    *,
    sidecar_rows: int = 0,
    denied: Sequence[ImageFailure] = (),
) -> IndexReport:
    """Index given items of one store, as `index_source` does; a retry of failures names them one by one."""
    started = perf_counter()
    report = IndexReport()
    with closing(Outcomes(context, report)) as outcomes:
        try:
            with RunThreads(context.options.fetch_threads) as threads:
                _Run(context, reader, outcomes, threads).index(items)
        finally:
            outcomes.fail_folders(denied)
            outcomes.commit()  # also when interrupted: what is ready is kept
            report.attributes_unused = max(0, sidecar_rows - report.attributes_unused)
            report.seconds = perf_counter() - started
            context.on_progress(report)
    return report


class _Run:
    """The chain of one run: each method is a generator that pulls from the one before it.

    The main thread pulls, plans, looks into the catalog and settles; reading, decoding, the model and the commits have
    threads of their own, each a little ahead of whom it works for.
    """

    def __init__(self, context: IndexingContext, reader: Reads, outcomes: Outcomes, threads: RunThreads) -> None:
        self._context = context
        self._reader = reader
        self._outcomes = outcomes
        self._report = outcomes.report
        self._threads = threads

    def index(self, items: Iterable[SourceItem]) -> None:
        fresh = self._contents_to_embed(self._fetched(self._planned(items)))
        first = next(fresh, None)
        if first is None:
            return
        service = self._context.service()
        compute = self._threads.compute(service.thread_use)
        batch_size = self._context.options.batch_size or service.batch_size
        prepared = self._prepared(service, compute, chain([first], fresh), batch_size)
        for embedded in self._embedded(service, compute, tapering_chunks(prepared, batch_size, compute.use.calls)):
            self._settle(embedded)
            self._progress()

    def _planned(self, items: Iterable[SourceItem]) -> Iterator[Planned]:
        """Yield what must be fetched; the rest is settled here."""
        generation = self._context.generation
        for chunk in chunks(self._timed("list", items), _PLAN_CHUNK):
            ids = [item.image_id for item in chunk]
            known = self._context.catalog.images.known(generation.collection_id, generation.id, ids)
            failed = self._context.catalog.failures.among(generation.collection_id, ids)
            for item in chunk:
                known_image = known.get(item.image_id)
                planned = plan(item, known_image, failed, restore_deleted=self._context.options.restore_deleted)
                self._outcomes.listed(planned)
                if planned.need is Need.CONTENT:
                    yield planned
                else:
                    self._outcomes.settle_without_content(planned)
            self._progress()

    def _fetched(self, planned: Iterator[Planned]) -> Iterator[Fetched]:
        window = Window(max(_REUSE_CHUNK, 4 * self._context.options.fetch_threads), _IN_FLIGHT_BYTES)
        step = partial(fetch, self._reader)
        return overlap(self._threads.reading, step, planned, window, lambda one: one.item.stored.size_bytes)

    def _contents_to_embed(self, fetched: Iterator[Fetched]) -> Iterator[Fetched]:
        """Yield each new content once; failures, unchanged and known contents are settled here."""
        unavailable_in_a_row = 0
        for chunk in chunks(fetched, _REUSE_CHUNK):
            for one in chunk:
                unavailable_in_a_row = _count_unavailable(unavailable_in_a_row, one.error)
            yield from self._outcomes.settle_by_content(chunk)
            self._progress()

    def _prepared(
        self, service: EmbeddingService, compute: Compute, fresh: Iterator[Fetched], batch_size: int
    ) -> Iterator[Prepared]:
        """Yield what the model can take; refusals are settled here."""
        window = Window((compute.use.calls + 1) * batch_size + compute.use.decoding, _IN_FLIGHT_BYTES)
        step = partial(prepare, service)
        for one in overlap(compute.decoding, step, fresh, window, lambda new: len(new.data) + _PREPARED_BYTES):
            self._report.spend("decode", one.seconds)
            if one.error is None:
                yield one
            else:
                self._outcomes.fail_content(one.fetched, one.error)

    def _embedded(
        self, service: EmbeddingService, compute: Compute, batches: Iterator[list[Prepared]]
    ) -> Iterator[Embedded]:
        """Yield batches with their vectors; one more than the model takes at once waits, so that it never does."""
        window = Window(compute.use.calls + 1, 0)
        return overlap(compute.model, partial(embed, service), batches, window, lambda _batch: 0)

    def _settle(self, embedded: Embedded) -> None:
        self._report.spend("embed", embedded.seconds)
        for one, vector in embedded.results:
            if isinstance(vector, ModelError):
                self._outcomes.fail_content(one.fetched, vector)
            else:
                self._outcomes.embedded(one, vector)

    def _timed(self, stage: str, items: Iterable[T]) -> Iterator[T]:
        iterator = iter(items)
        while True:
            started = perf_counter()
            try:
                item = next(iterator)
            except StopIteration:
                return
            finally:
                self._report.spend(stage, perf_counter() - started)
            yield item

    def _progress(self) -> None:
        self._outcomes.commit_when_due()
        self._context.on_progress(self._report)


def _count_unavailable(so_far: int, error: VisualSearchError | None) -> int:
    """Count unanswered reads in a row; raises the last one's error when there are too many."""
    if not isinstance(error, StorageUnavailable):
        return 0
    if so_far + 1 >= _GIVE_UP_AFTER_UNAVAILABLE:
        raise error
    return so_far + 1
