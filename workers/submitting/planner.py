"""Lists a source into a job: what needs no content is settled at once, the rest is cut into batches.

Page by page, each committed before it is sent: killed anywhere, the same request goes on behind the last page,
and memory stays flat however long the listing is. Knows the catalog, but no queue: `send` is given to it.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import chain

from pipeline.indexing.chunks import chunks
from pipeline.indexing.plan import Need, Planned, plan, refreshed_metadata
from pipeline.indexing.source import Source, SourceItem
from storage.catalog import BatchItem, Catalog, Generation, ImageFailure, IndexBatch, JobRecord
from storage.errors import InvalidKey
from storage.records import ImageMetadata

Placed = tuple[str, SourceItem | ImageFailure]  # where it stands in its listing, and what stands there
ATTRIBUTES_USED = "attributes_used"  # count of a job: images that had a row in the attributes file

_PLAN_CHUNK = 512  # ids per catalog look-up
_PAGE_IMAGES = 4096  # per commit: 32 batches of 128, about 1 MB of references

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Planner:
    """Plans one job. `send` gets the ids of batches that are committed; a batch that it cannot send is not lost."""

    catalog: Catalog
    generation: Generation
    job: JobRecord
    send: Callable[[Sequence[int]], object]

    def add(self, items: Iterable[SourceItem]) -> None:
        """Add everything behind the job's last committed page; the items come in the order of their keys.

        Raises JobClosed when the job was cancelled or another process goes on with its listing, and whatever the
        listing raises; what was added until then stays.
        """
        self.add_placed((item.stored.key, item) for item in items)

    def add_placed(self, placed: Iterable[Placed]) -> None:
        """The same for items that come in the order of the places given with them, texts that grow.

        In place of an item there may be a failure: that of a place where no image can be.
        """
        after = self.job.listed_until
        batch_images = int(self.job.options["batch_images"])
        page_images = batch_images * max(1, _PAGE_IMAGES // batch_images)
        rest = (one for one in placed if not after or one[0] > after)
        stands_at = after
        for page in chunks(rest, page_images):
            stands_at = self._add_page(page, batch_images, stands_at)

    def _add_page(self, page: Sequence[Placed], batch_images: int, after: str) -> str:
        counts: Counter[str] = Counter(listed=len(page))
        refreshed: list[ImageMetadata] = []
        to_embed: list[BatchItem] = []
        failures = [one for _place, one in page if isinstance(one, ImageFailure)]
        named = [one for _place, one in page if isinstance(one, SourceItem)]
        items, others, repeated = _once_each(named)
        counts.update({name: number for name, number in (("failed", len(failures)), ("unchanged", repeated)) if number})
        if used := sum(item.attributes is not None for item in named):
            counts[ATTRIBUTES_USED] = used
        for planned in self._planned(items):
            if planned.need is Need.CONTENT:
                to_embed.append(_reference(planned.item))
                continue
            counts[planned.need.value] += 1
            if planned.need is Need.METADATA:
                refreshed.append(refreshed_metadata(planned))
        if refreshed or failures:  # first, and harmless when done twice: a page that is added counts them as committed
            self.catalog.commit(self.generation.id, IndexBatch(refreshed=refreshed, failures=failures))
        end = page[-1][0]
        batches = [*chunks(to_embed, batch_images), *([_reference(item)] for item in others)]
        settled = [_reference_of(failure) for failure in failures]
        ids = self.catalog.jobs.add_batches(
            self.job.id, batches, listed_until=end, counts=counts, after=after, settled=settled
        )
        self.send(ids)
        return end

    def _planned(self, page: Sequence[SourceItem]) -> Iterator[Planned]:
        restore_deleted = bool(self.job.options["restore_deleted"])
        for chunk in chunks(page, _PLAN_CHUNK):
            ids = [item.image_id for item in chunk]
            known = self.catalog.images.known(self.generation.collection_id, self.generation.id, ids)
            failed = self.catalog.failures.among(self.generation.collection_id, ids)
            for item in chunk:
                yield plan(item, known.get(item.image_id), failed, restore_deleted=restore_deleted)


def _once_each(items: Sequence[SourceItem]) -> tuple[list[SourceItem], list[SourceItem], int]:
    """Items of different ids, for no batch takes an id twice; other files with such an id; how many came again."""
    first: dict[str, SourceItem] = {}
    others: dict[tuple[str, str], SourceItem] = {}
    for item in items:
        if first.setdefault(item.image_id, item).stored.uri != item.stored.uri:
            others[item.image_id, item.stored.uri] = item
    return list(first.values()), list(others.values()), len(items) - len(first) - len(others)


def remove_gone(catalog: Catalog, job: JobRecord, source: Source) -> int:
    """Remove images that were recorded from this source and that it does not list any more; return how many.

    Only images that the source's selection takes, and none of a folder that may not be read. What seems gone is looked
    for once more: meanwhile it may have come, and been indexed by another job. A source that lists nothing removes
    nothing: far more often than emptied on purpose, it is a disk that is not mounted. Raises JobClosed.
    """
    seen = _gone(catalog, job, source)
    if seen:
        seen = _gone_still(seen, source)
    return sum(catalog.jobs.remove_gone(job.id, dict(part)) for part in chunks(seen.items(), _PLAN_CHUNK))


def _gone(catalog: Catalog, job: JobRecord, source: Source) -> dict[str, datetime]:
    """Ids of what is recorded and not listed, with the time of their last change."""
    unread: list[str] = []
    items = source.items(lambda image_id, _uri, _error: unread.append(image_id[len(source.id_prefix) :]))
    first = next(items, None)
    if first is None:
        return _nothing_is_gone(source)
    recorded = catalog.images.list(job.collection_id, prefix=source.id_prefix)
    unlisted = _unlisted(recorded, chain([first], items), source, unread)
    return {image.image_id: image.updated_at for image in unlisted if image.updated_at is not None}


def _gone_still(seen: Mapping[str, datetime], source: Source) -> dict[str, datetime]:
    """Those that a second listing, begun after they were seen, does not have either."""
    unread: list[str] = []
    listed: set[str] = set()
    empty = True
    for item in source.items(lambda image_id, _uri, _error: unread.append(image_id)):
        empty = False
        if item.image_id in seen:
            listed.add(item.image_id)
    if empty:
        return _nothing_is_gone(source)
    closed = tuple(one for one in unread if one.endswith("/"))
    return {one: when for one, when in seen.items() if one not in listed and not one.startswith(closed)}


def _nothing_is_gone(source: Source) -> dict[str, datetime]:
    log.warning("%s lists no image: nothing is removed from the collection", source.backend.uri(""))
    return {}


def _unlisted(
    recorded: Iterator[ImageMetadata], items: Iterator[SourceItem], source: Source, unread: Sequence[str]
) -> Iterator[ImageMetadata]:
    """Walk both in their one order, by key: what is recorded and neither listed nor in a folder told in `unread`."""
    listed = next(items, None)
    for image in recorded:
        key = image.image_id[len(source.id_prefix) :]
        if not _is_of(image, key, source):
            continue
        while listed is not None and listed.stored.key < key:
            listed = next(items, None)
        missing = listed is None or listed.stored.key != key
        if missing and not key.startswith(tuple(one for one in unread if one.endswith("/"))):
            yield image


def _is_of(image: ImageMetadata, key: str, source: Source) -> bool:
    """Whether the image was recorded from this source under this id; others may share its prefix."""
    if not key or not image.source_uri.startswith(source.backend.uri("")) or not source.takes(key):
        return False
    try:
        return source.backend.uri(key) == image.source_uri
    except InvalidKey:
        return False


def _reference(item: SourceItem) -> BatchItem:
    stored = item.stored
    return BatchItem(item.image_id, stored.key, stored.uri, stored.etag, stored.size_bytes, item.attributes)


def _reference_of(failure: ImageFailure) -> BatchItem:
    uri = failure.source_uri
    return BatchItem(failure.image_id, uri, uri, failure.etag, 0, failure.attributes)
