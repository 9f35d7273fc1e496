"""What becomes of each listed file: settled here, committed in batches, counted once committed."""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic, perf_counter

from pipeline.embedders.base import Vectors as Vector
from pipeline.indexing.contents import ContentsInFlight
from pipeline.indexing.context import IndexingContext
from pipeline.indexing.fetch import Fetched
from pipeline.indexing.plan import Need, Planned, refreshed_metadata
from pipeline.indexing.prepare import Prepared
from pipeline.indexing.report import IndexReport
from storage.catalog import ImageFailure, IndexBatch, IndexedImage, KnownContent
from storage.errors import VisualSearchError
from storage.records import ImageMetadata

_COMMIT_SECONDS = 5.0  # a slow model still commits often enough that a kill costs little


class Outcomes:
    """Collects the outcomes of one run; `report` counts what is committed (or needs no commit)."""

    def __init__(self, context: IndexingContext, report: IndexReport) -> None:
        self.report = report
        self._context = context
        self._in_flight = ContentsInFlight()
        self._begin()

    def listed(self, planned: Planned) -> None:
        """Count one listed file."""
        self.report.listed += 1
        self.report.attributes_unused += planned.item.attributes is not None  # turned round at the end

    def settle_without_content(self, planned: Planned) -> None:
        """Settle a file whose bytes are not needed."""
        if planned.need is Need.METADATA:
            self._refresh(refreshed_metadata(planned))
        elif planned.need is Need.STAYS_DELETED:
            self.report.deleted += 1
        else:
            self.report.unchanged += 1

    def settle_by_content(self, chunk: Sequence[Fetched]) -> list[Fetched]:
        """Return each new content once; settle failures, unchanged contents and known ones."""
        new = [fetched for fetched in chunk if not self._settled_alone(fetched)]
        known = self._context.catalog.images.contents(self._context.generation.id, {fetched.sha256 for fetched in new})
        fresh = []
        for fetched in new:
            content = known.get(fetched.sha256) or self._in_flight.embedded(fetched.sha256)
            if content is not None:
                self._reuse(fetched, content)
            elif self._in_flight.claim(fetched):
                fresh.append(fetched)
        return fresh

    def _settled_alone(self, fetched: Fetched) -> bool:
        self.report.spend("fetch", fetched.seconds)
        if fetched.error is not None:
            self._fail(fetched, fetched.error)
        elif fetched.same_content:
            self._refresh(refreshed_metadata(fetched.planned))
        else:
            return False
        return True

    def embedded(self, prepared: Prepared, vector: Vector) -> None:
        """Settle an embedded image, and every equal file that waited for it."""
        if prepared.metadata is None:
            raise ValueError("only a prepared image can be embedded")
        metadata = prepared.metadata
        self._upsert("indexed", metadata, vector)
        content = KnownContent(vector, metadata.width, metadata.height, metadata.format)
        for fetched in self._in_flight.settle(metadata.sha256, content):
            self._reuse(fetched, content)

    def fail_content(self, fetched: Fetched, error: VisualSearchError) -> None:
        """Settle refused content: its file and every equal one fail with the same reason."""
        for one in (fetched, *self._in_flight.settle(fetched.sha256, None)):
            self._fail(one, error)

    def fail_folders(self, failures: Sequence[ImageFailure]) -> None:
        """Settle folders that could not be read: each counts as one listed entry that failed."""
        self.report.listed += len(failures)
        self._failures.extend(failures)
        self._counts["failed"] += len(failures)

    def commit_when_due(self) -> None:
        """Commit when enough has been collected, or the oldest has waited long enough."""
        size = sum(self._counts.values())
        waited = monotonic() - self._since >= _COMMIT_SECONDS
        if size >= self._context.options.commit_images or (size > 0 and waited):
            self.commit()

    def commit(self) -> None:
        """Write everything collected in one transaction; only then it counts in the report."""
        if any(self._counts.values()):
            started = perf_counter()
            batch = IndexBatch(upserts=self._upserts, refreshed=self._refreshed, failures=self._failures)
            self._context.commit(batch)
            self.report.spend("commit", perf_counter() - started)
            self.report.count(self._counts, [failure.reason for failure in self._failures])
            self._in_flight.committed()
        self._begin()

    def _begin(self) -> None:
        self._upserts: list[IndexedImage] = []
        self._refreshed: list[ImageMetadata] = []
        self._failures: list[ImageFailure] = []
        self._counts = {"indexed": 0, "reused": 0, "refreshed": 0, "failed": 0}
        self._since = monotonic()

    def _upsert(self, outcome: str, metadata: ImageMetadata, vector: Vector) -> None:
        self._upserts.append(IndexedImage(metadata=metadata, vector=vector))
        self._counts[outcome] += 1

    def _reuse(self, fetched: Fetched, content: KnownContent) -> None:
        metadata = fetched.metadata(content.width, content.height, content.format)
        self._upsert("reused", metadata, content.vector)

    def _refresh(self, metadata: ImageMetadata) -> None:
        self._refreshed.append(metadata)
        self._counts["refreshed"] += 1

    def _fail(self, fetched: Fetched, error: VisualSearchError) -> None:
        stored = fetched.planned.item.stored
        self._failures.append(
            ImageFailure(
                image_id=fetched.planned.item.image_id,
                source_uri=stored.uri,
                reason=error.reason,
                message=str(error),
                etag=stored.etag,
                attributes=fetched.planned.item.attributes,
            )
        )
        self._counts["failed"] += 1
