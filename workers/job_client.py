"""Queued indexing from Python: submit, look, wait, cancel, try again.

Loads neither index nor model. The first job of a collection has a process of its own say which model it is.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO

from typing_extensions import Self

from pipeline.errors import InvalidQuery
from pipeline.indexing.failed_items import is_of_listing, items_of
from pipeline.indexing.file_list import FileList, open_list
from pipeline.indexing.selection import SourceSelection, source_at
from pipeline.indexing.source import SourceItem
from storage.attributes import normal_attributes
from storage.catalog import RETRY, Generation, JobOptions, JobProgress, JobRequest, catalog_of
from storage.images.allowed_sources import job_sources, readable_sources
from storage.images.backend import StorageBackend
from storage.images.keys import key_of
from storage.images.locate import ImageReader, open_source
from storage.images.uploads import kept_as_configured, open_uploads
from storage.images.web_address import is_web_address
from storage.records import Attributes, failure_id
from storage.settings import Settings, load_settings
from workers.submitting.batch_sender import BatchSender
from workers.submitting.image_lists import ImageLists
from workers.submitting.submit import Submission, digest_of_attributes, digest_of_items, generation_for

if TYPE_CHECKING:
    from workers.submitting.queued_reindex import QueuedPlan, QueuedReindex

WATCH_SECONDS = 1.0  # between two looks at a job

log = logging.getLogger(__name__)


class JobClient:
    """Submits jobs and follows them. Use it as a context manager, or call `close`.

    SQL comes first: a job whose batches cannot be sent, because Redis is away, is complete all the same, and
    the sweeper sends them later. Settings not given come from the environment and the TOML file. `create=False`
    raises CatalogUnavailable where nothing was ever stored.
    """

    def __init__(self, settings: Settings | None = None, *, create: bool = True) -> None:
        self.settings = settings or load_settings()
        self.catalog = catalog_of(self.settings, create=create)
        self._sender = BatchSender(self.catalog, self.settings)
        self._submission = Submission(self.catalog, self._sender.send)
        self._allowed = job_sources(self.settings)
        self._lists = ImageLists(self.settings, self._allowed)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections to SQL and Redis; jobs go on without this object."""
        self._sender.close()
        self.catalog.close()

    def submit(  # noqa: PLR0913 - the keywords of a public call
        self,
        address: str | Path,
        selection: SourceSelection | None = None,
        *,
        collection: str | None = None,
        batch_images: int | None = None,
        priority: int = 0,
        mirror: bool = False,
        restore_deleted: bool = False,
    ) -> JobProgress:
        """Queue the indexing of a folder or s3://bucket/prefix; returns when all of it is listed and in SQL.

        What is unchanged is settled at once. The same request again goes on with its unfinished job, where the
        listing was broken off. A larger `priority` (0 to 9) goes first; `mirror` removes images recorded from
        this source that it no longer lists. Raises SourceNotAllowed, StorageError, SidecarError, ModelMismatch.
        """
        chosen = selection or SourceSelection()
        source = source_at(address, chosen, self.settings.max_image_bytes, self._allowed)
        options = JobOptions(
            include=source.include,
            exclude=source.exclude,
            id_prefix=source.id_prefix,
            attributes_sha256=digest_of_attributes(source.attributes),
            batch_images=batch_images or self.settings.batch_images,
            mirror=mirror,
            restore_deleted=restore_deleted,
        )
        generation = generation_for(self.catalog, collection or self.settings.collection, self.settings)
        address = source.backend.uri("")
        request = JobRequest(generation.collection_id, generation.id, "index", address, options, priority)
        return self._submission.source(request, generation, source)

    def submit_list(  # noqa: PLR0913 - the keywords of a public call
        self,
        list_file: str | Path | BinaryIO,
        source: str | Path | None = None,
        selection: SourceSelection | None = None,
        *,
        collection: str | None = None,
        priority: int = 0,
        restore_deleted: bool = False,
    ) -> JobProgress:
        """Queue the images that a text file names, one a line (see `FileList`); `-` reads standard input.

        Relative lines are below `source`; without it, below the working folder, unless `job_sources` is set. A line
        that names no image is recorded in the failures with its reason. The same list again goes on with its
        unfinished job. `include` and `exclude` do not apply. Raises StorageError, SidecarError, ModelMismatch,
        InvalidQuery, OSError when the list cannot be read.
        """
        if source is None and not self._allowed.roots:
            source = "."
        with open_list(list_file) as lines:
            named = self._lists.named(lines, source, selection or SourceSelection())
            return self._submit_named(named, collection, priority, restore_deleted=restore_deleted)

    def submit_urls(
        self,
        urls: Sequence[str],
        id_prefix: str = "",
        *,
        collection: str | None = None,
        priority: int = 0,
        restore_deleted: bool = False,
    ) -> JobProgress:
        """Queue pictures by http(s) addresses of the hosts in `url_hosts`, and nothing else; see `FileList` for ids.

        An address that cannot be used is recorded in the failures with its reason. Raises ModelMismatch, InvalidQuery.
        """
        if wrong := [url for url in urls if not is_web_address(url) or "\n" in url or "\r" in url]:
            raise InvalidQuery(f"{len(wrong)} of {len(urls)} texts are no http(s) addresses of one line")
        lines = BytesIO("\n".join(urls).encode("utf-8", "backslashreplace"))
        named = self._lists.named(lines, None, SourceSelection(id_prefix))
        return self._submit_named(named, collection, priority, restore_deleted=restore_deleted)

    def _submit_named(
        self, named: FileList, collection: str | None, priority: int, *, restore_deleted: bool
    ) -> JobProgress:
        generation = generation_for(self.catalog, collection or self.settings.collection, self.settings)
        request = self._lists.request(named, generation, priority, restore_deleted=restore_deleted)
        begun = self.catalog.jobs.unfinished(request)
        placed = named.named(begun.listed_until if begun else "")
        return self._submission.placed(request, generation, placed, sidecar_rows=len(named.attributes or ()))

    def submit_uploads(
        self,
        images: Mapping[str, bytes],
        *,
        collection: str | None = None,
        attributes: Mapping[str, Attributes] | None = None,
        store: str | Path | None = None,
        priority: int = 0,
    ) -> JobProgress:
        """Store these pictures (image id to encoded bytes), then queue them; the id becomes the key.

        `attributes` holds those of some or all of the images, by id; each picture is read from `images` once.
        They are kept in `store`, or else where `uploads_address` says, which all workers must be able to read. Raises
        StorageError, and queues nothing, when one cannot be stored (UploadsUnusable where that setting is at fault);
        InvalidAttribute.
        """
        name = collection or self.settings.collection
        generation = generation_for(self.catalog, name, self.settings)
        given = {image_id: normal_attributes(of_image) for image_id, of_image in (attributes or {}).items()}
        with kept_as_configured() if store is None else nullcontext():
            backend = self._upload_store(name, store)
            items = [
                SourceItem(image_id, backend.put(key_of(image_id), data), given.get(image_id))
                for image_id, data in images.items()
            ]
        options = JobOptions(  # who uploads an image wants to have it
            restore_deleted=True, attributes_sha256=digest_of_attributes(attributes)
        )
        request = JobRequest(generation.collection_id, generation.id, "upload", backend.uri(""), options, priority)
        return self._submit_items(request, generation, items)

    def _upload_store(self, collection: str, store: str | Path | None) -> StorageBackend:
        if store is not None:
            self._allowed.check(store)
            return open_source(store, max_bytes=self.settings.max_image_bytes)
        return open_uploads(self.settings, collection)

    def retry_failed(self, job_id: int | None = None, *, collection: str | None = None) -> Sequence[JobProgress]:
        """Queue every image that stands in `failures` again, as one job: those of one job, if it is named.

        Attributes that a sidecar gave them are still known. One whose file is gone keeps its place, with the reason
        `not_found`: its disk may not be mounted; `images delete` forgets it. Folders and links that could not be read
        are left to a new `submit`. Returns nothing when there is nothing to try. Raises UnknownCollection, UnknownJob.
        """
        name = collection or self.settings.collection
        if job_id is None:
            collection_id, among = self.catalog.collections.get(name).id, None
        else:
            collection_id = self.catalog.jobs.get(job_id).job.collection_id
            among = frozenset(map(failure_id, self.catalog.batches.image_ids(job_id)))
        failures = [
            failure
            for failure in self.catalog.failures.list(collection_id)
            if not is_of_listing(failure) and (among is None or failure.image_id in among)
        ]
        generation = self.catalog.generations.active(collection_id)
        if generation is None or not failures:  # without a generation nothing was ever committed, no failure either
            return []
        reader = ImageReader(self.settings.max_image_bytes, readable_sources(self.settings))
        items = list(items_of(reader, failures))
        request = JobRequest(collection_id, generation.id, RETRY, "failures")
        return [self._submit_items(request, generation, items)]

    def _submit_items(self, request: JobRequest, generation: Generation, items: Sequence[SourceItem]) -> JobProgress:
        options = replace(request.options, items_sha256=digest_of_items(items), batch_images=self.settings.batch_images)
        placed = ((item.image_id, item) for item in sorted(items, key=lambda item: item.image_id))
        return self._submission.placed(replace(request, options=options), generation, placed)

    def reindex(self, plan: QueuedPlan, *, collection: str | None = None) -> QueuedReindex:
        """Begin, or take up, a change of the model by the workers; call `run` or `submit` of what is returned.

        Raises UnknownCollection, InvalidQuery, ModelUnavailable, UnsupportedModel.
        """
        from workers.submitting.queued_reindex import (
            QueuedReindex,  # its gate needs FAISS, which submitting does without
        )

        return QueuedReindex(self._submission, self.settings, collection or self.settings.collection, plan)

    def get(self, job_id: int) -> JobProgress:
        """How far a job is. Raises UnknownJob."""
        return self.catalog.jobs.get(job_id)

    def list(self, *, collection: str | None = None, limit: int = 20) -> Sequence[JobProgress]:
        """The newest jobs and embedded runs first; of all collections unless one is named."""
        collection_id = self.catalog.collections.get(collection).id if collection is not None else None
        return [self.catalog.jobs.get(job.id) for job in self.catalog.jobs.list(collection_id, limit)]

    def watch(self, job_id: int, *, seconds: float = WATCH_SECONDS) -> Iterator[JobProgress]:
        """Yield how far a job is, now and then, until nothing more will come. Raises UnknownJob."""
        while True:
            progress = self.catalog.jobs.get(job_id)
            yield progress
            if progress.is_over:
                return
            time.sleep(seconds)

    def cancel(self, job_id: int) -> JobProgress:
        """Cancel a job: what no worker has yet is dropped, what one works on still counts. Raises UnknownJob."""
        self.catalog.jobs.cancel(job_id)
        return self.catalog.jobs.get(job_id)
