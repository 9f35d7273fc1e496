"""The embedded mode: one object for a collection in a data folder; index, search, evaluate, audit, no server."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from typing_extensions import Self

from pipeline.audit import AuditReport, audit_source
from pipeline.decode import DecodeLimits
from pipeline.decoding_children import children_of
from pipeline.embedders.base import Vectors
from pipeline.embedders.checkpoint import canonical_name
from pipeline.embedding_service import EmbeddingService, ImageInput
from pipeline.errors import InvalidQuery
from pipeline.evaluate import EvaluationResult, evaluate_model
from pipeline.indexing.context import IndexingContext, IndexOptions
from pipeline.indexing.report import IndexReport
from pipeline.indexing.retry import RetryReport, retry_failures
from pipeline.indexing.run import index_source
from pipeline.indexing.selection import SourceSelection, source_at
from pipeline.indexing.sidecar import read_sidecar
from pipeline.indexing.source import Source
from pipeline.pages import PageQuestion
from pipeline.replica import IndexReplica
from pipeline.rerank import RerankOptions
from pipeline.rerank.explanation import Explanation
from pipeline.results import SearchResults
from pipeline.search import NearestNeighborSearch
from storage.catalog import (
    CollectionRecord,
    FailureRecord,
    Generation,
    JobState,
    catalog_exists,
    catalog_of,
    catalog_place,
)
from storage.errors import ModelMismatch, StorageError, UnknownCollection
from storage.filters import Filter
from storage.images.allowed_sources import own_sources
from storage.images.locate import ImageReader
from storage.records import ImageMetadata
from storage.settings import Settings, load_settings
from storage.snapshots import snapshots_of
from workers.run_owners import PROCESS, end_dead_runs, this_process

Progress = Callable[[IndexReport], None]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Query:
    """What to look for: exactly one of an image, a stored image's id, or words."""

    image: ImageInput | None = field(default=None, repr=False)
    image_id: str | None = None
    text: str | None = None

    def __post_init__(self) -> None:
        if sum(part is not None for part in (self.image, self.image_id, self.text)) != 1:
            raise InvalidQuery("ask with exactly one of: an image, an image id, a text")


class ImageCollection:
    """A collection of indexed images: SQL (SQLite, PostgreSQL) holds the truth, this object the index in memory.

    Use it as a context manager, or call `close`. Settings not given come from the environment and the TOML file
    (docs/configuration.md). `create=False` raises UnknownCollection instead of making a new collection.
    """

    def __init__(self, name: str | None = None, *, settings: Settings | None = None, create: bool = True) -> None:
        self.settings = settings or load_settings()
        self.name = name or self.settings.collection
        if not create and not catalog_exists(self.settings):
            raise UnknownCollection(
                f"nothing is indexed in {catalog_place(self.settings)} yet: "
                "run `visual-search index FOLDER`, or name another --data-dir"
            )
        self.catalog = catalog_of(self.settings)
        try:
            self.record: CollectionRecord = (
                self.catalog.collections.ensure(self.name) if create else self.catalog.collections.get(self.name)
            )
        except Exception:
            self.catalog.close()
            raise
        self._replica: IndexReplica | None = None
        self._service: EmbeddingService | None = None
        self.children = children_of(self.settings)  # in which pictures are decoded, if the settings ask for it

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the catalog, end decoding processes; the object is done."""
        if self.children is not None:
            self.children.close()
        self.catalog.close()

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

    # -- the model --------------------------------------------------------------------------------------------

    @property
    def generation(self) -> Generation | None:
        """The active generation, None while the collection is empty and no model is bound to it."""
        return self.catalog.generations.active(self.record.id)

    @property
    def embedding_service(self) -> EmbeddingService:
        """The model of this collection, loaded at first use. Raises ModelMismatch when its files changed."""
        return self._service_for(self.generation)

    def check_model(self, name: str) -> None:
        """Raise ModelMismatch when the collection holds vectors of another model than this one."""
        generation = self.generation
        if generation is not None and canonical_name(name) != generation.model.name:
            raise ModelMismatch(
                f"collection '{self.name}' holds vectors of {generation.model}, not of '{name}': vectors of two "
                "models cannot be compared. Leave --model out, index into another --collection, or change the "
                "model of this one with `visual-search reindex --model`"
            )

    def _service_for(self, generation: Generation | None) -> EmbeddingService:
        """The model of a generation (None: of the settings); checked at each use, for generations may switch."""
        if self._service is None or (generation is not None and self._service.identity != generation.model):
            self._service = self._load_service(generation)
        return self._service

    def _load_service(self, generation: Generation | None) -> EmbeddingService:
        name = generation.model.name if generation is not None else self.settings.model
        service = EmbeddingService(
            name,
            device=self.settings.device,
            dtype=self.settings.dtype,
            batch_size=self.settings.batch_size,
            backend=self.settings.backend,
            decoding=self.settings.decoding,
            like=generation.model if generation is not None else None,
            limits=DecodeLimits(max_bytes=self.settings.max_image_bytes, max_pixels=self.settings.max_image_pixels),
            children=self.children,
        )
        if generation is not None and generation.model != service.identity:
            raise ModelMismatch(
                f"collection '{self.name}' holds vectors of {generation.model}, but '{name}' is now "
                f"{service.identity}: restore that checkpoint, or index into another --collection"
            )
        return service

    def _generation_or_new(self) -> Generation:
        generation = self.generation
        if generation is None:
            return self.catalog.generations.ensure_active(self.record.id, self._service_for(None).identity)
        return generation

    # -- searching --------------------------------------------------------------------------------------------

    @property
    def search_service(self) -> NearestNeighborSearch:
        """Exact search over everything committed until now. Raises InvalidQuery while nothing is indexed."""
        return self._search_in(self._caught_up())

    def _search_in(self, replica: IndexReplica) -> NearestNeighborSearch:
        return NearestNeighborSearch(
            replica.index,
            metadata=lambda ids: self.catalog.images.shown(self.record.id, ids),
        )

    def _caught_up(self) -> IndexReplica:
        generation = self._searched()
        if self._replica is None or self._replica.generation.id != generation.id:
            self._replica = self._booted(generation)
        self._replica.catch_up()
        return self._replica

    def _booted(self, generation: Generation) -> IndexReplica:
        """From the newest snapshot where the workers publish some, which saves time and memory; else from SQL."""
        if self.catalog.snapshots.newest(generation.id) is not None:
            try:
                return IndexReplica.boot(self.catalog, generation, snapshots_of(self.settings, self.catalog))
            except StorageError as error:
                _log.warning("the index is made without a snapshot: %s", error)
        return IndexReplica(self.catalog, generation)

    def _searched(self) -> Generation:
        generation = self.generation
        if generation is None:
            raise InvalidQuery(f"collection '{self.name}' is empty: run `visual-search index FOLDER` first")
        return generation

    def search(self, query: Query, options: RerankOptions | None = None) -> SearchResults:
        """Answer one query, reranked; pages are full while anything matches. See RerankOptions."""
        return self._answer(query, options or RerankOptions(), explain=False)[0]

    def explain(self, query: Query, options: RerankOptions | None = None) -> tuple[SearchResults, Explanation]:
        """Answer as `search` does, and tell what each rerank step did to each result."""
        results, explanation = self._answer(query, options or RerankOptions(), explain=True)
        assert explanation is not None  # noqa: S101 - it was asked for
        return results, explanation

    def _answer(
        self, query: Query, options: RerankOptions, *, explain: bool
    ) -> tuple[SearchResults, Explanation | None]:
        replica = self._caught_up()  # its generation is the one that is asked, whatever is switched to meanwhile
        vector, query_id = self._query_vector(query, replica)
        only = None if options.filter is None else self.catalog.images.matching_ids(self.record.id, options.filter)
        exclude = frozenset() if query.image_id is None else frozenset((query.image_id,))
        question = PageQuestion(vector, options, only=only, only_matches_filter=True, exclude=exclude, explain=explain)
        return self._search_in(replica).answer(question, query_id)

    def _query_vector(self, query: Query, replica: IndexReplica) -> tuple[Vectors, str]:
        """The query as (dimension,) float32 of unit length, and its name."""
        if query.image_id is not None:
            return replica.index.reconstruct(query.image_id), query.image_id
        if query.text is not None:
            return self._service_for(replica.generation).embed_text(query.text), query.text
        assert query.image is not None  # noqa: S101 - Query checks it
        name = str(query.image) if isinstance(query.image, (str, Path)) else "image"
        return self._service_for(replica.generation).embed_image(query.image), name

    def evaluate(
        self,
        dataset_path: str | Path,
        k_values: Sequence[int] = (1, 5, 10, 20),
        output_path: Path | None = None,
    ) -> EvaluationResult:
        """Measure the collection on a ground truth file. Raises EvaluationError when it is broken."""
        return evaluate_model(
            search_service=self.search_service,
            dataset_path=dataset_path,
            k_values=k_values,
            output_path=output_path,
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
