"""Decides from the listing and the catalog alone what each listed file needs, before anything is downloaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from pipeline.indexing.source import SourceItem
from storage.attributes import same_attributes
from storage.catalog import KnownImage
from storage.records import Attributes, ImageMetadata


class Need(Enum):
    """What one listed file needs."""

    NOTHING = "unchanged"  # same source, same etag, has its vector
    METADATA = "refreshed"  # the same, but its attributes changed
    CONTENT = "content"  # must be fetched: new, changed, moved, or without a vector
    STAYS_DELETED = "deleted"  # deleted from the collection by its user


@dataclass(frozen=True)
class Planned:
    """One listed file, what the catalog knows of its id, what it needs, and the attributes that a failure kept."""

    item: SourceItem
    known: KnownImage | None
    need: Need
    kept: Attributes | None = None


def plan(
    item: SourceItem,
    known: KnownImage | None,
    failed: Mapping[str, Attributes | None],
    *,
    restore_deleted: bool = False,
) -> Planned:
    """Decide for one file. A deleted image stays deleted for its own source; another file may take its id.

    One that stands in `failed` (id to kept attributes) is looked at again even if it seems unchanged, so that its
    failure is settled.
    """
    need = _need(item, known, restore_deleted=restore_deleted)
    if item.image_id in failed and need in (Need.NOTHING, Need.METADATA):
        need = Need.CONTENT
    return Planned(item, known, need, failed.get(item.image_id))


def _need(item: SourceItem, known: KnownImage | None, *, restore_deleted: bool) -> Need:
    if known is None or known.metadata.source_uri != item.stored.uri:
        return Need.CONTENT
    if known.deleted:
        return Need.CONTENT if restore_deleted else Need.STAYS_DELETED
    if not known.has_vector or known.metadata.etag != item.stored.etag:
        return Need.CONTENT
    if item.attributes is not None and not same_attributes(known.metadata.attributes, item.attributes):
        return Need.METADATA
    return Need.NOTHING


def refreshed_metadata(planned: Planned) -> ImageMetadata:
    """Return what the catalog should hold when content and vector stay as they are."""
    if planned.known is None:
        raise ValueError("only a known image can be refreshed")
    return planned.known.metadata.model_copy(
        update={
            "source_uri": planned.item.stored.uri,
            "etag": planned.item.stored.etag,
            "attributes": attributes_of(planned),
        }
    )


def attributes_of(planned: Planned) -> Attributes:
    """The sidecar's attributes where it has a row for the image, else those of its failure, else of the catalog."""
    given = planned.item.attributes if planned.item.attributes is not None else planned.kept
    if given is not None:
        return given
    return planned.known.metadata.attributes if planned.known is not None else {}
