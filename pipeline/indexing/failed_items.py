"""Turns what stands in `failures` into items to try again, each at the address that it had. Loads no model."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from types import MappingProxyType

from pipeline.indexing.source import Source, SourceItem
from storage.catalog import Catalog, FailureRecord
from storage.errors import LeftOut, StorageError
from storage.images.backend import StoredObject
from storage.images.locate import ImageReader
from storage.records import Attributes, failure_id

_NONE: Mapping[str, Attributes] = MappingProxyType({})


def is_of_listing(failure: FailureRecord) -> bool:
    """Whether it tells of a folder that could not be read, or of a link left out: its source has to be listed again."""
    return failure.image_id.endswith("/") or failure.reason == LeftOut.reason


def forget_what_is_listed(catalog: Catalog, collection_id: int, source: Source, denied: Collection[str]) -> None:
    """Clear the failures of earlier listings of this source that this one, which was denied these ids, has not."""
    root, still = source.backend.uri(""), {failure_id(image_id) for image_id in denied}
    settled = [
        failure.image_id
        for failure in catalog.failures.list(collection_id)
        if is_of_listing(failure)
        and failure.image_id not in still
        and failure.source_uri.startswith(root)
        and failure.image_id.startswith(source.id_prefix)
        and source.may_take(failure.image_id[len(source.id_prefix) :])
    ]
    catalog.failures.clear(collection_id, settled)


def items_of(
    reader: ImageReader, failures: Iterable[FailureRecord], attributes: Mapping[str, Attributes] = _NONE
) -> Iterator[SourceItem]:
    """The images that failed, each to be read by its address as its key; attributes not given here are kept ones."""
    for failure in failures:
        try:
            etag = reader.stat(failure.source_uri).etag
        except StorageError:
            etag = failure.etag  # reading meets the same error, which is then recorded
        stored = StoredObject(failure.source_uri, failure.source_uri, etag, 0, 0.0)
        yield SourceItem(failure.image_id, stored, attributes.get(failure.image_id, failure.attributes))
