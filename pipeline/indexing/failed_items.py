"""Turns what stands in `failures` into items to try again, each at the address that it had. Loads no model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType

from pipeline.indexing.source import SourceItem
from storage.catalog import FailureRecord
from storage.errors import StorageError
from storage.images.backend import StoredObject
from storage.images.locate import ImageReader
from storage.records import Attributes

_NONE: Mapping[str, Attributes] = MappingProxyType({})


def is_folder(failure: FailureRecord) -> bool:
    """Whether it tells of a folder that could not be read: that has to be listed again."""
    return failure.image_id.endswith("/")


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
