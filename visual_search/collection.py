"""The embedded mode: one object for a collection in a data folder; index, search, evaluate, audit, no server."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from pipeline.audit import AuditReport, audit_source
from pipeline.indexing.context import IndexingContext, IndexOptions
from pipeline.indexing.report import IndexReport
from pipeline.indexing.retry import RetryReport, retry_failures
from pipeline.indexing.run import index_source
from pipeline.indexing.selection import SourceSelection, source_at
from pipeline.indexing.sidecar import read_sidecar
from pipeline.indexing.source import Source
from storage.catalog import FailureRecord, JobState
from storage.filters import Filter
from storage.images.allowed_sources import own_sources
from storage.images.locate import ImageReader
from storage.records import ImageMetadata
from visual_search.query import Query
from visual_search.searched_collection import SearchedCollection
from workers.machine.run_owners import PROCESS, end_dead_runs, this_process

__all__ = ["ImageCollection", "Query"]

Progress = Callable[[IndexReport], None]


class ImageCollection(SearchedCollection):
    """A collection of indexed images: SQL (SQLite, PostgreSQL) holds the truth, this object the index in memory.

    Use it as a context manager, or call `close`. Settings not given come from the environment and the TOML file
    (docs/configuration.md). `create=False` raises UnknownCollection instead of making a new collection.
    """

    # -- indexing ---------------------------------------------------------------------------------------------

    def index(
        self,
        address: str | Path,
        selection: SourceSelection | None = None,
        *,
        restore_deleted: bool = False,
        on_progress: Progress | None = None,
    ) -> IndexReport:
        """Index a folder or s3://bucket/prefix; what is unchanged is skipped, one bad image fails alone.

        Stopped at any moment, the same call resumes. Raises StorageError when the source cannot be listed.
        """
        source = self.source(address, selection)
        options = {
            "include": list(source.include),
            "exclude": list(source.exclude),
            "id_prefix": source.id_prefix,
            PROCESS: this_process(),
        }
        end_dead_runs(self.catalog, self.record.id)
        job_id = self.catalog.jobs.start(self.record.id, "index", source.backend.uri(""), options)
        report = IndexReport()

        def note(progress: IndexReport) -> None:
            nonlocal report
            report = progress
            if on_progress is not None:
                on_progress(progress)

        state: JobState = "failed"
        try:
            context = self._context(IndexOptions(restore_deleted=restore_deleted), note)
            report = index_source(context, source)
            state = "finished"
        except KeyboardInterrupt:
            state = "interrupted"
            raise
        finally:
            self.catalog.jobs.finish(job_id, state, report.counts())
        return report

    def source(self, address: str | Path, selection: SourceSelection | None = None) -> Source:
        """The source at that address, as `index` and `audit` see it."""
        return source_at(address, selection or SourceSelection(), self.settings.max_image_bytes)

    def retry_failures(
        self, on_progress: Progress | None = None, attributes_file: str | Path | None = None
    ) -> RetryReport:
        """Try again every image that stands in `failures`, with the attributes of a sidecar if one is given."""
        attributes = read_sidecar(Path(attributes_file)) if attributes_file is not None else None
        context = self._context(IndexOptions(), on_progress or (lambda _report: None))
        return retry_failures(context, self.reader(), attributes)

    def _context(self, options: IndexOptions, on_progress: Progress) -> IndexingContext:
        generation = self._generation_or_new()
        return IndexingContext(
            catalog=self.catalog,
            generation=generation,
            service=lambda: self._service_for(generation),
            options=IndexOptions(
                batch_size=self.settings.batch_size,
                fetch_threads=self.settings.fetch_threads,
                commit_images=self.settings.commit_images,
                restore_deleted=options.restore_deleted,
            ),
            on_progress=on_progress,
        )

    # -- what is there ----------------------------------------------------------------------------------------

    def images(
        self, *, prefix: str = "", filter_: Filter | None = None, limit: int | None = None
    ) -> Iterator[ImageMetadata]:
        """Iterate over the indexed images in the order of their ids."""
        return self.catalog.images.list(self.record.id, prefix=prefix, filter=filter_, limit=limit)

    def image(self, image_id: str) -> ImageMetadata:
        """What is known of one image. Raises UnknownImageId."""
        return self.catalog.images.get(self.record.id, image_id)

    def delete_images(self, image_ids: Sequence[str]) -> int:
        """Take images out of the collection (their files stay); a later `index` leaves them out. Returns how many."""
        return self.catalog.images.delete(self.record.id, image_ids)

    def failures(self) -> list[FailureRecord]:
        """Every image that could not be indexed, with its reason."""
        return self.catalog.failures.list(self.record.id)

    def reader(self) -> ImageReader:
        """Reads the original files of indexed images by their source URI."""
        return ImageReader(self.settings.max_image_bytes, own_sources(self.settings))

    def audit(self, address: str | Path, selection: SourceSelection | None = None) -> AuditReport:
        """Compare a source with catalog, vectors and index: what is missing, and why."""
        return audit_source(
            self.catalog,
            self._searched(),
            self.source(address, selection),
            lambda: self._caught_up().index,
        )
