"""The SQL catalog: the one truth. SQL stands in this folder only; importing it opens nothing."""

from storage.catalog.catalog import Catalog
from storage.catalog.records import (
    ChangePage,
    CollectionRecord,
    FailureRecord,
    Generation,
    ImageFailure,
    IndexBatch,
    IndexedImage,
    JobRecord,
    JobState,
    KnownContent,
    KnownImage,
    SnapshotRecord,
)
from storage.catalog.snapshots import PublishedFile

__all__ = [
    "Catalog",
    "ChangePage",
    "CollectionRecord",
    "FailureRecord",
    "Generation",
    "ImageFailure",
    "IndexBatch",
    "IndexedImage",
    "JobRecord",
    "JobState",
    "KnownContent",
    "KnownImage",
    "PublishedFile",
    "SnapshotRecord",
]
