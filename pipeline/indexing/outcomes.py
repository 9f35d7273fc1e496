"""What becomes of each listed file: settled here, committed in batches, counted once committed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from time import monotonic

from pipeline.embedders.base import Vectors as Vector
from pipeline.indexing.commits import BackgroundCommits
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


@dataclass(frozen=True)
class _Collected:
    """Outcomes that go into one transaction."""

    upserts: list[IndexedImage] = field(default_factory=list)
    refreshed: list[ImageMetadata] = field(default_factory=list)
    failures: list[ImageFailure] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    keeps_attributes: set[str] = field(default_factory=set)

    @property
    def size(self) -> int:
        return self.counts.total()

    @property
    def batch(self) -> IndexBatch:
        return IndexBatch(self.upserts, self.refreshed, self.failures, keeps_attributes=self.keeps_attributes)


class Outcomes:
    """Collects the outcomes of one run; `report` counts what is committed (or needs no commit).

    For one thread, which calls `close` in the end.
    """

    def __init__(self, context: IndexingContext, report: IndexReport) -> None:
        self.report = report
        self._context = context
        self._in_flight = ContentsInFlight()
        self._collected, self._since = _Collected(), monotonic()
        self._commits = BackgroundCommits(lambda collected: context.commit(collected.batch), self._committed)

    def listed(self, planned: Planned) -> None:
        """Count one listed file."""
        self.report.listed += 1
        self.report.attributes_unused += planned.item.attributes is not None  # turned round at the end

    def settle_without_content(self, planned: Planned) -> None:
        """Settle a file whose bytes are not needed."""
        if planned.need is Need.METADATA:
            self._refresh(planned)
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
            self._refresh(fetched.planned)
        else:
            return False
        return True

    def embedded(self, prepared: Prepared, vector: Vector) -> None:
        """Settle an embedded image, and every equal file that waited for it."""
        if prepared.metadata is None:
            raise ValueError("only a prepared image can be embedded")
        metadata = prepared.metadata
        self._upsert("indexed", prepared.fetched.planned, metadata, vector)
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
        self._collected.failures.extend(failures)
        self._collected.counts["failed"] += len(failures)

    def commit_when_due(self) -> None:
        """Begin a commit when enough has been collected, or the oldest has waited long enough.

        It goes on meanwhile, on a thread of its own; only when the one before has not ended is it waited for.
        """
        self._commits.look()
        waited = monotonic() - self._since >= _COMMIT_SECONDS
        if self._collected.size >= self._context.options.commit_images or (self._collected.size > 0 and waited):
            self._begin_commit()

    def commit(self) -> None:
        """Write everything collected; when this returns it is in safe hands, and counted in the report."""
        if self._collected.size > 0:
            self._begin_commit()
        self._commits.wait()

    def close(self) -> None:
        """End the thread that commits; what was collected since the last commit is dropped."""
        self._commits.close()

    def _begin_commit(self) -> None:
        self._commits.hand_over(self._collected)
        self._in_flight.handed_over()
        self._collected, self._since = _Collected(), monotonic()

    def _committed(self, collected: _Collected, seconds: float) -> None:
        self.report.spend("commit", seconds)
        self.report.count(collected.counts, [failure.reason for failure in collected.failures])
        self._in_flight.committed()

    def _upsert(self, outcome: str, planned: Planned, metadata: ImageMetadata, vector: Vector) -> None:
        self._keep_attributes(planned)
        self._collected.upserts.append(IndexedImage(metadata=metadata, vector=vector))
        self._collected.counts[outcome] += 1

    def _reuse(self, fetched: Fetched, content: KnownContent) -> None:
        metadata = fetched.metadata(content.width, content.height, content.format)
        self._upsert("reused", fetched.planned, metadata, content.vector)

    def _keep_attributes(self, planned: Planned) -> None:
        """Nobody gives the image any: what the catalog has by the time of the commit stays."""
        if planned.item.attributes is None and planned.kept is None:
            self._collected.keeps_attributes.add(planned.item.image_id)

    def _refresh(self, planned: Planned) -> None:
        self._keep_attributes(planned)
        self._collected.refreshed.append(refreshed_metadata(planned))
        self._collected.counts["refreshed"] += 1

    def _fail(self, fetched: Fetched, error: VisualSearchError) -> None:
        stored = fetched.planned.item.stored
        self._collected.failures.append(
            ImageFailure(
                image_id=fetched.planned.item.image_id,
                source_uri=stored.uri,
                reason=error.reason,
                message=str(error),
                etag=stored.etag,
                attributes=fetched.planned.item.attributes,
            )
        )
        self._collected.counts["failed"] += 1
