"""The root of every error of this project, and the errors that the keeping side raises.

VisualSearchError
├── SettingsError
├── InvalidFilter
├── InvalidImageId
├── StorageError
│   ├── InvalidKey
│   ├── ImageNotFound
│   ├── ImageTooLarge
│   ├── StorageDenied
│   ├── SourceNotAllowed
│   ├── UploadsUnusable
│   ├── StorageUnavailable      (a retry can help)
│   └── HostUnavailable         (a retry can help)
├── BackupError
├── VectorIndexError
│   ├── InvalidVector
│   ├── DuplicateImageId
│   ├── UnknownImageId
│   └── IndexFileError
├── CatalogError
│   ├── CatalogUnavailable      (a retry can help)
│   ├── SchemaMismatch
│   ├── UnknownCollection
│   ├── InvalidCollectionName
│   ├── InvalidAttribute
│   ├── GenerationClosed
│   ├── GenerationIncomplete
│   ├── GenerationReplaced
│   ├── ContentChanged
│   ├── UnknownGeneration
│   └── ModelMismatch
└── pipeline.errors.PipelineError …
"""

from typing import ClassVar


class VisualSearchError(Exception):
    """The root: catching it catches every error this project raises on purpose."""

    reason: ClassVar[str] = "error"  # stable code, recorded in `failures` and shown in JSON
    retryable: ClassVar[bool] = False  # whether the same call may succeed later without any change


class SettingsError(VisualSearchError):
    """Raised by the settings: a value is missing or cannot be used. A retry cannot help."""

    reason = "invalid_settings"


class InvalidFilter(VisualSearchError):
    """Raised when reading a filter: the text is none, or the filter is too large. A retry cannot help."""

    reason = "invalid_filter"


class InvalidImageId(VisualSearchError):
    """Raised while indexing: the image id is empty, too long or holds control characters. A retry cannot help."""

    reason = "invalid_id"


class StorageError(VisualSearchError):
    """Raised by image storage: the root of what can go wrong with stored images."""

    reason = "storage_error"


class InvalidKey(StorageError):
    """Raised by image storage: the key leaves the root or is no valid name. A retry cannot help."""

    reason = "invalid_key"


class ImageNotFound(StorageError):
    """Raised by image storage: nothing is stored under this key. A retry cannot help."""

    reason = "not_found"


class ImageTooLarge(StorageError):
    """Raised by image storage: the file is larger than the cap on bytes. A retry cannot help."""

    reason = "too_large"


class StorageDenied(StorageError):
    """Raised by image storage: permission is missing, or the entry is no regular file. A retry cannot help."""

    reason = "access_denied"


class LeftOut(StorageDenied):
    """Told by a listing: a link that leads out of its folder or to nothing, or no regular file. No retry helps."""

    reason = "left_out"


class SourceNotAllowed(StorageError):
    """Raised for a source or picture outside of `job_sources`: the setting allows no reading there. No retry helps."""

    reason = "source_not_allowed"


class StorageUnavailable(StorageError):
    """Raised by image storage: the disk or the S3 endpoint failed or did not answer. A retry can help."""

    reason = "storage_unavailable"
    retryable = True


class UploadsUnusable(StorageError):
    """Raised when keeping an upload: the place that `uploads_address` names is missing or refuses. No retry helps."""

    reason = "uploads_unusable"


class ImageUnreachable(StorageError):
    """Raised when showing an indexed image: its bucket is gone, or the service may not read it. No retry helps."""

    reason = "image_unreachable"


class HostUnavailable(StorageError):
    """Raised when fetching from an http(s) address: its server failed or did not answer. A retry can help."""

    reason = "host_unavailable"
    retryable = True


class BackupError(VisualSearchError):
    """Raised by backups: the folder is in the way, holds none, or is damaged. A retry cannot help."""

    reason = "backup"


class VectorIndexError(VisualSearchError):
    """Raised by the vector index: the root of what can go wrong with vectors."""

    reason = "index_error"


class InvalidVector(VectorIndexError):
    """Raised by the vector index: wrong shape or dtype, not finite, or not of unit length. A retry cannot help."""

    reason = "invalid_vector"


class DuplicateImageId(VectorIndexError):
    """Raised by the vector index: the id is there already, or twice in one call. Use upsert to replace."""

    reason = "duplicate_id"


class UnknownImageId(VectorIndexError):
    """Raised by index and catalog: no image has this id. A retry cannot help."""

    reason = "unknown_id"


class SnapshotDamaged(VectorIndexError):
    """Raised when a snapshot is published whose index rests on files that changed meanwhile. Load the index anew."""

    reason = "snapshot_damaged"


class IndexFileError(VectorIndexError):
    """Raised when loading a saved index: missing, damaged, foreign, or of another model. Rebuild it instead."""

    reason = "index_file"


class CatalogError(VisualSearchError):
    """Raised by the SQL catalog: the root of what can go wrong with it."""

    reason = "catalog_error"


class CatalogUnavailable(CatalogError):
    """Raised by the SQL catalog: the database cannot be opened, is locked or went away. A retry can help."""

    reason = "catalog_unavailable"
    retryable = True


class SchemaMismatch(CatalogError):
    """Raised when opening the catalog: its schema is older or newer than this program. Migrate or upgrade."""

    reason = "schema_mismatch"


class UnknownCollection(CatalogError):
    """Raised by the SQL catalog: no collection has this name. A retry cannot help."""

    reason = "unknown_collection"


class InvalidCollectionName(CatalogError):
    """Raised when making a collection: the name is none of a-z, 0-9, - and _. A retry cannot help."""

    reason = "invalid_collection_name"


class InvalidAttribute(CatalogError):
    """Raised before storing attributes: a name or value that cannot be filtered exactly. No retry helps."""

    reason = "invalid_attribute"


class GenerationClosed(CatalogError):
    """Raised by the SQL catalog: no such generation, or it is retired and takes no more commits."""

    reason = "generation_closed"


class GenerationIncomplete(CatalogError):
    """Raised when switching to a generation that lacks vectors of live images. Fill it first (`reindex`)."""

    reason = "generation_incomplete"


class GenerationReplaced(CatalogError):
    """Raised when switching in place of a generation that searches do not use any more. Run the command again."""

    reason = "generation_replaced"


class ContentChanged(CatalogError):
    """Recorded by a reindex: the file is another picture than the one that was indexed. Sync its source first."""

    reason = "content_changed"


class UnknownGeneration(CatalogError):
    """Raised when a generation is named that is not there. A retry cannot help."""

    reason = "unknown_generation"


class ModelMismatch(CatalogError):
    """Raised when vectors of two models would mix in one generation. Use another collection or reindex."""

    reason = "model_mismatch"


class UnknownJob(CatalogError):
    """Raised by the SQL catalog: there is no job with this number. A retry cannot help."""

    reason = "unknown_job"


class JobClosed(CatalogError):
    """Raised when adding to a job that was cancelled, has finished, or is listed by another process by now."""

    reason = "job_closed"


class LeaseLost(CatalogError):
    """Raised when writing under a lease that another process holds by now: stop, and apply for it again."""

    reason = "lease_lost"
