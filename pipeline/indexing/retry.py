"""Tries again what stands in `failures`, store by store."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from pydantic import BaseModel, Field

from pipeline.indexing.context import IndexingContext
from pipeline.indexing.report import IndexReport
from pipeline.indexing.run import index_items
from pipeline.indexing.source import SourceItem
from storage.catalog import FailureRecord
from storage.errors import ImageNotFound
from storage.images.backend import StorageBackend
from storage.images.locate import open_source, split_uri


class RetryReport(BaseModel):
    """What a retry did: the run over the files that are still there, and the ids of those that are gone."""

    retried: int = 0
    indexed: int = 0
    failed: int = 0
    gone: list[str] = Field(default_factory=list)  # no file any more: dropped from `failures`


def retry_failures(context: IndexingContext, max_bytes: int) -> RetryReport:
    """Index again every recorded failure. Raises StorageError when a whole store cannot be reached."""
    catalog, collection_id = context.catalog, context.generation.collection_id
    by_store: dict[str, list[tuple[str, FailureRecord]]] = defaultdict(list)
    for failure in catalog.failures.list(collection_id):
        address, key = split_uri(failure.source_uri)
        by_store[address].append((key, failure))
    report = RetryReport()
    for address, entries in sorted(by_store.items()):
        backend = open_source(address, max_bytes=max_bytes)
        run: IndexReport = index_items(context, backend, _still_there(backend, entries, report.gone))
        report.retried += run.listed
        report.failed += run.failed
        report.indexed += run.listed - run.failed
    catalog.failures.clear(collection_id, report.gone)
    return report


def _still_there(
    backend: StorageBackend, entries: list[tuple[str, FailureRecord]], gone: list[str]
) -> Iterator[SourceItem]:
    for key, failure in entries:
        try:
            stored = backend.stat(key)
        except ImageNotFound:
            gone.append(failure.image_id)
            continue
        yield SourceItem(failure.image_id, stored)
