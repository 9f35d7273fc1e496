"""What an embed worker does with one batch: lease, embed, hand over. Knows no Celery; nothing here writes vectors."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from enum import Enum
from functools import partial
from itertools import chain
from time import perf_counter, sleep

from pipeline.errors import DecoderUnavailable, ModelError
from pipeline.indexing.context import IndexingContext, IndexOptions
from pipeline.indexing.fetch import Reads
from pipeline.indexing.report import IndexReport
from pipeline.indexing.run import index_items
from pipeline.indexing.source import SourceItem
from storage.catalog import BatchItem, BatchResult, Catalog, ImageFailure, IndexBatch, LeasedBatch
from storage.errors import ModelMismatch, StorageError, StorageUnavailable
from storage.images.allowed_sources import AllowedReader, readable_sources
from storage.images.backend import StoredObject
from storage.images.locate import ImageReader, open_source
from storage.settings import Settings
from workers.errors import BatchInterrupted, RedisUnavailable, RedisUnusable
from workers.lease_keeper import LeaseKeeper
from workers.machine.logs import about
from workers.machine.stopping import StopRequest
from workers.models import LoadedModels
from workers.result_stream import ResultStream
from workers.signs.heartbeat import Heartbeat
from workers.signs.metrics import ATTEMPTS, BATCHES, IMAGES, STAGE_SECONDS

_LOG = logging.getLogger(__name__)

_STAGES = {"fetch", "decode", "embed"}  # of a batch, as its report has them; "list" and "commit" are none here
_REDIS_PAUSE_SECONDS = 0.5  # between attempts to hand over while Redis is away

# The batch is none the worse: another worker, or this one later, can do it. Its attempt is not counted.
_NOT_THE_BATCHS_FAULT = (
    StorageUnavailable,
    BatchInterrupted,
    ModelMismatch,
    ModelError,
    DecoderUnavailable,
    RedisUnusable,
)


class Outcome(Enum):
    """What became of one message."""

    HANDED_OVER = "handed over"
    GIVEN_BACK = "given back"
    SKIPPED = "skipped"  # done, cancelled, or another worker's


class BatchEmbedder:
    """Embeds batches one after the other with models that stay loaded. Made once per process, closed by nobody.

    It owns none of its parts. An error that is none of ours leaves `embed` with the lease in place: once that has
    run out, the sweeper counts the attempt, and splits a batch that keeps failing down to the guilty image.
    """

    def __init__(
        self, settings: Settings, catalog: Catalog, stream: ResultStream, heartbeat: Heartbeat, stop: StopRequest
    ) -> None:
        self._settings = settings
        self._catalog = catalog
        self._stream = stream
        self._heartbeat = heartbeat
        self._stop = stop
        self._models = LoadedModels(settings)
        self._allowed = readable_sources(settings)

    def embed(self, batch_id: int) -> Outcome:
        """Do one batch. Raises CatalogUnavailable when it cannot even be leased; the sweeper sends it again."""
        seconds = self._settings.lease_seconds
        leased = self._catalog.batches.lease(
            batch_id, self._heartbeat.process, seconds, max_attempts=self._settings.max_attempts
        )
        if leased is None:
            _LOG.info("nothing to do: done, cancelled or with another worker", extra=about(batch=batch_id))
            return self._counted(Outcome.SKIPPED)
        this = about(job=leased.job_id, batch=leased.id, generation=leased.generation.id)
        _LOG.info("took %d images, attempt %d", len(leased.items), leased.attempts, extra=this)
        ATTEMPTS.observe(leased.attempts)
        started = perf_counter()
        self._heartbeat.progress(doing=f"job {leased.job_id}, batch {leased.id}")
        renew = partial(self._catalog.batches.renew, leased.id, leased.token, seconds)
        with LeaseKeeper(renew, seconds, about(job=leased.job_id, batch=leased.id)) as keeper:
            try:
                result = self._result(leased, keeper)
                with STAGE_SECONDS.labels("hand_over").time():
                    self._hand_over(result, keeper)
            except _NOT_THE_BATCHS_FAULT as error:
                self._catalog.batches.give_back(leased.id, leased.token)
                _LOG.warning("given back: %s", error, extra=this)
                self._heartbeat.progress(doing="", trouble=f"gave back batch {leased.id}: {error}")
                return self._counted(Outcome.GIVEN_BACK)
        self._heartbeat.progress(done=len(leased.items), doing="", trouble="")
        _tell(result, this, perf_counter() - started)
        return self._counted(Outcome.HANDED_OVER)

    def _counted(self, outcome: Outcome) -> Outcome:
        BATCHES.labels(outcome.name.lower()).inc()
        return outcome

    def _result(self, leased: LeasedBatch, keeper: LeaseKeeper) -> BatchResult:
        try:
            backend = self._reader(leased)
        except StorageUnavailable:
            raise
        except StorageError as error:  # no such folder or bucket here: another attempt would end the same
            return _all_failed(leased, error)
        parts: list[IndexBatch] = []
        context = IndexingContext(
            catalog=self._catalog,
            generation=leased.generation,
            service=partial(self._models.get, leased.generation.model),
            options=IndexOptions(
                batch_size=self._settings.batch_size,
                fetch_threads=self._settings.fetch_threads,
                commit_images=len(leased.items) + 1,
                restore_deleted=leased.restore_deleted,
            ),
            on_progress=partial(self._note, keeper),
            sink=parts.append,
        )
        report = index_items(context, backend, [_source_item(item) for item in leased.items])
        for stage in _STAGES & report.stage_seconds.keys():
            STAGE_SECONDS.labels(stage).observe(report.stage_seconds[stage])
        if 1 < len(leased.items) == report.failures_by_reason.get(StorageUnavailable.reason, 0):
            raise StorageUnavailable(f"not one image of {leased.source} could be read")
        return BatchResult(leased.id, leased.generation.id, merged(parts), _outcome_counts(report))

    def _reader(self, leased: LeasedBatch) -> Reads:
        if leased.by_address:
            return ImageReader(self._settings.max_image_bytes, self._allowed)
        return AllowedReader(open_source(leased.source, max_bytes=self._settings.max_image_bytes), self._allowed)

    def _note(self, keeper: LeaseKeeper, report: IndexReport) -> None:
        """Called by the running batch every few images: the place to leave it. Raises BatchInterrupted."""
        del report
        self._heartbeat.progress()
        if not keeper.holds:
            raise BatchInterrupted("another worker may have it by now")
        if self._stop.overdue:
            raise BatchInterrupted("this worker was told to stop")

    def _hand_over(self, result: BatchResult, keeper: LeaseKeeper) -> None:
        """Publish, however long the stream is full or Redis away, unless told to stop. Raises BatchInterrupted."""
        keeper.renew()
        while True:
            if not self._may_wait(keeper):
                raise BatchInterrupted("stopped, or the lease was lost, before it could be handed over")
            try:
                self._stream.publish(result, keep_waiting=partial(self._may_wait, keeper))
            except RedisUnavailable as error:
                _LOG.warning("batch %d waits to be handed over: %s", result.batch_id, error)
                sleep(_REDIS_PAUSE_SECONDS)
            else:
                return

    def _may_wait(self, keeper: LeaseKeeper) -> bool:
        return keeper.holds and not self._stop.overdue


def _tell(result: BatchResult, this: dict[str, object], seconds: float) -> None:
    """Log and count what came of a batch; each failed image has a line with its reason."""
    counts = {name: number for name, number in result.counts.items() if number}
    for name, number in counts.items():
        IMAGES.labels(name).inc(number)
    for failure in result.batch.failures:
        failed = about(image=failure.image_id, reason=failure.reason)
        _LOG.info("image failed: %s", failure.message, extra={**this, **failed})
    shown = ", ".join(f"{name} {number}" for name, number in counts.items())
    _LOG.info("%d images in %.2f s (%s)", sum(counts.values()), seconds, shown, extra=this)


def _source_item(item: BatchItem) -> SourceItem:
    stored = StoredObject(key=item.key, uri=item.uri, etag=item.etag, size_bytes=item.size_bytes, modified_at=0.0)
    return SourceItem(item.image_id, stored, item.attributes)


def merged(parts: Sequence[IndexBatch]) -> IndexBatch:
    """One batch out of several: a slow model's outcomes come every few seconds."""
    return IndexBatch(
        upserts=list(chain.from_iterable(part.upserts for part in parts)),
        refreshed=list(chain.from_iterable(part.refreshed for part in parts)),
        failures=list(chain.from_iterable(part.failures for part in parts)),
        removed=list(chain.from_iterable(part.removed for part in parts)),
    )


def _outcome_counts(report: IndexReport) -> dict[str, int]:
    """How many images had which outcome; they were counted as listed when the job listed them."""
    return {name: number for name, number in report.counts().items() if name != "listed"}


def _all_failed(leased: LeasedBatch, error: StorageError) -> BatchResult:
    failures = [
        ImageFailure(item.image_id, item.uri, error.reason, str(error), item.etag, item.attributes)
        for item in leased.items
    ]
    return BatchResult(leased.id, leased.generation.id, IndexBatch(failures=failures), {"failed": len(failures)})
