"""What of a batch fits a generation that is filled beside the active one: vectors of images as they are now.

Such a batch was planned from the catalog some time ago. Meanwhile images were deleted, got other content, another
address or other attributes; the rows of `images` are newer than the batch, so it may not change them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from sqlalchemy import Connection, select

from storage.catalog import tables
from storage.catalog.database.statements import one_of
from storage.catalog.records import ImageFailure, IndexBatch, IndexedImage
from storage.errors import ContentChanged
from storage.records import failure_id

_IMAGES = tables.images.c


@dataclass(frozen=True)
class Fitting:
    """The part of a batch that may be written, and of how many images the content `changed` or that are `gone`."""

    batch: IndexBatch
    changed: int
    gone: int


def fitting(connection: Connection, collection_id: int, batch: IndexBatch) -> Fitting:
    """Keep vectors of the content that the catalog has; the caller holds the generation's lock.

    Other content becomes a failure (`content_changed`): the source was not synced since. What was deleted is left
    out, and so is a failure at an address that the image no longer has.
    """
    ids = [image.metadata.image_id for image in batch.upserts]
    ids += [image.image_id for image in batch.refreshed]
    ids += [failure.image_id for failure in batch.failures]
    live = _live(connection, collection_id, set(ids))
    kept = [image for image in batch.upserts if image.metadata.image_id in live]
    same = [image for image in kept if live[image.metadata.image_id][0] == image.metadata.sha256]
    changed = [image for image in kept if live[image.metadata.image_id][0] != image.metadata.sha256]
    failures = [one for one in batch.failures if _still_there(one, live)]
    fit = replace(
        batch,
        upserts=same,
        refreshed=[image for image in batch.refreshed if image.image_id in live],
        failures=[*failures, *map(_content_changed, changed)],
        removed=(),
        vectors_only=True,
    )
    return Fitting(fit, len(changed), len(batch.upserts) - len(kept))


def _live(connection: Connection, collection_id: int, image_ids: Collection[str]) -> dict[str, tuple[str, str]]:
    """Of each live image among these its sha256 and its address."""
    if not image_ids:
        return {}
    here = (_IMAGES.collection_id == collection_id, one_of(connection, _IMAGES.image_id, image_ids))
    statement = select(_IMAGES.image_id, _IMAGES.sha256, _IMAGES.source_uri).where(*here, _IMAGES.deleted_at.is_(None))
    return {image_id: (sha256, source_uri) for image_id, sha256, source_uri in connection.execute(statement)}


def _still_there(failure: ImageFailure, live: Mapping[str, tuple[str, str]]) -> bool:
    _, source_uri = live.get(failure_id(failure.image_id), ("", None))
    return source_uri == failure.source_uri


def _content_changed(image: IndexedImage) -> ImageFailure:
    metadata = image.metadata
    message = "the file is not the picture that was indexed: sync its source, then reindex"
    return ImageFailure(metadata.image_id, metadata.source_uri, ContentChanged.reason, message, metadata.etag)
