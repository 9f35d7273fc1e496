"""Tries again what stands in `failures`, each from the address that it had."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel

from pipeline.indexing.context import IndexingContext
from pipeline.indexing.failed_items import is_of_listing, items_of
from pipeline.indexing.run import index_items
from storage.images.locate import ImageReader
from storage.records import Attributes


class RetryReport(BaseModel):
    """What a retry did. `folders` and links were left out when their source was listed; only `index` looks again."""

    retried: int = 0
    indexed: int = 0
    failed: int = 0
    folders: int = 0


def retry_failures(
    context: IndexingContext, reader: ImageReader, attributes: Mapping[str, Attributes] | None = None
) -> RetryReport:
    """Index again every recorded failure. One whose file is gone keeps its place, with the reason `not_found`.

    Attributes given here by id replace those that the failures kept.
    (Gone may mean that a disk is not mounted; a failure is forgotten only when its user says so.)
    """
    failures = context.catalog.failures.list(context.generation.collection_id)
    images = [failure for failure in failures if not is_of_listing(failure)]
    run = index_items(context, reader, items_of(reader, images, attributes or {}))
    return RetryReport(
        retried=run.listed,
        indexed=run.indexed + run.reused + run.refreshed,
        failed=run.failed,
        folders=len(failures) - len(images),
    )
