"""The SQL catalog: the one truth. SQL stands in this folder only; importing it opens nothing."""

from storage.catalog.catalog import Catalog, catalog_exists, catalog_of, catalog_place
from storage.catalog.job_records import (
    BatchItem,
    BatchResult,
    JobOptions,
    JobProgress,
    JobRequest,
    Lease,
    LeasedBatch,
    SweepReport,
    UnsentBatch,
)
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
    "BatchItem",
    "BatchResult",
    "Catalog",
    "ChangePage",
    "CollectionRecord",
    "FailureRecord",
    "Generation",
    "ImageFailure",
    "IndexBatch",
    "IndexedImage",
    "JobOptions",
    "JobProgress",
    "JobRecord",
    "JobRequest",
    "JobState",
    "KnownContent",
    "KnownImage",
    "Lease",
    "LeasedBatch",
    "PublishedFile",
    "SnapshotRecord",
    "SweepReport",
    "UnsentBatch",
    "catalog_exists",
    "catalog_of",
    "catalog_place",
]
