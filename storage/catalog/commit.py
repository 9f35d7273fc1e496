"""The one way vectors enter the catalog: a batch in one transaction, its changes in commit order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Connection, select

from storage.attributes import storable_text
from storage.catalog import tables
from storage.catalog.database.clock import now, shared_now
from storage.catalog.database.engine import Database
from storage.catalog.database.many_rows import insert_or_update
from storage.catalog.database.statements import one_of
from storage.catalog.failures import clear_failures
from storage.catalog.generations import (
    find_generation,
    lock_generation,
    lock_open_generations,
    take_sequence_numbers,
)
from storage.catalog.image_rows import write_images
from storage.catalog.records import Generation, ImageFailure, IndexBatch, IndexedImage
from storage.catalog.vectors.added_vectors import fitting
from storage.catalog.vectors.tombstones import delete_images
from storage.catalog.vectors.vector_bytes import pack_vectors
from storage.errors import DuplicateImageId, GenerationClosed
from storage.records import Attributes, ImageMetadata, failure_id


def commit_batch(database: Database, generation_id: int, batch: IndexBatch) -> int:
    """Write the batch in a transaction of its own; return the generation's newest sequence number."""
    with database.write() as connection:
        if batch.vectors_only:
            generation = lock_generation(connection, generation_id)  # first: a deletion waits for it
            batch = fitting(connection, generation.collection_id, batch).batch
        return write_batch(connection, generation_id, batch)


def write_batch(connection: Connection, generation_id: int, batch: IndexBatch) -> int:
    """Write the batch within the caller's transaction; return the generation's newest sequence number.

    In this order: removals, upserts and refreshes (which clear their images' failures), failures. Vectors alone
    (`vectors_only`) are those that `fitting` left. Raises GenerationClosed also for new images of a generation
    that another one has replaced: searches would not find them.
    """
    _check_ids(batch)
    moment = now()
    generation = _lock(connection, generation_id, removes=bool(batch.removed))
    collection_id = generation.collection_id
    if generation.state == "standby" and batch.upserts and not batch.vectors_only:
        raise GenerationClosed(
            f"searches use another generation than {generation_id} ({generation.model}) by now: "
            "what is committed stays; run the same command again for the rest"
        )
    if batch.removed:
        delete_images(connection, collection_id, batch.removed, shared_now(connection))
    written = [*(image.metadata for image in batch.upserts), *batch.refreshed]
    if not batch.vectors_only and (batch.refreshed or batch.keeps_attributes):
        written = _as_rows_are_now(connection, collection_id, batch)
    if not batch.vectors_only:
        write_images(connection, collection_id, written, moment)
    clear_failures(connection, collection_id, [image.image_id for image in written])
    _write_vectors(connection, generation, batch.upserts)
    _write_failures(connection, collection_id, batch.failures, moment)
    return find_generation(connection, generation_id).last_seq


def _check_ids(batch: IndexBatch) -> None:
    ids = [image.metadata.image_id for image in batch.upserts]
    ids += [image.image_id for image in batch.refreshed]
    ids += batch.removed
    if len(set(ids)) < len(ids):
        twice = Counter(ids).most_common(1)[0][0]
        raise DuplicateImageId(f"image id {twice!r} stands twice in one batch: which one is meant?")


def _lock(connection: Connection, generation_id: int, *, removes: bool) -> Generation:
    if removes:  # touches every open generation: all locks first, in their one order
        lock_open_generations(connection, find_generation(connection, generation_id).collection_id)
    return lock_generation(connection, generation_id)


def _as_rows_are_now(connection: Connection, collection_id: int, batch: IndexBatch) -> list[ImageMetadata]:
    """What to write of upserts and refreshes, which were planned some time ago; locks the rows that are there.

    A refresh has no vector: it cannot bring back what was deleted meanwhile, nor is it of other content's row.
    """
    upserts = [image.metadata for image in batch.upserts]
    live = _lock_live(connection, collection_id, [image.image_id for image in (*upserts, *batch.refreshed)])
    keeps = live.keys() & batch.keeps_attributes
    refreshed = [one for one in batch.refreshed if one.image_id in live and live[one.image_id][0] == one.sha256]
    return [
        one.model_copy(update={"attributes": live[one.image_id][1]}) if one.image_id in keeps else one
        for one in (*upserts, *refreshed)
    ]


def _lock_live(
    connection: Connection, collection_id: int, image_ids: Sequence[str]
) -> dict[str, tuple[str, Attributes]]:
    """Lock the known images among these, in the order of all writers; sha256 and attributes of each live one."""
    columns = tables.images.c
    here = (columns.collection_id == collection_id, one_of(connection, columns.image_id, image_ids))
    statement = select(columns.image_id, columns.sha256, columns.attributes, columns.deleted_at).where(*here)
    rows = connection.execute(statement.order_by(columns.image_id).with_for_update(key_share=True))
    return {image_id: (sha256, attributes) for image_id, sha256, attributes, deleted_at in rows if not deleted_at}


def _write_vectors(connection: Connection, generation: Generation, upserts: Sequence[IndexedImage]) -> None:
    if not upserts:
        return
    ids = [image.metadata.image_id for image in upserts]
    columns = {
        "generation_id": generation.id,
        "image_id": ids,
        "seq": list(take_sequence_numbers(connection, generation.id, len(upserts))),
        "sha256": [image.metadata.sha256 for image in upserts],
        "vector": pack_vectors([image.vector for image in upserts], ids, generation.model.dimension),
    }
    insert_or_update(connection, tables.vectors, columns, ["seq", "sha256", "vector"])


def _write_failures(
    connection: Connection, collection_id: int, failures: Sequence[ImageFailure], moment: datetime
) -> None:
    columns = {
        "collection_id": collection_id,
        "image_id": [failure_id(_writable(failure.image_id)) for failure in failures],
        "source_uri": [_writable(failure.source_uri) for failure in failures],
        "etag": [_writable(failure.etag) for failure in failures],
        "reason": [failure.reason for failure in failures],
        "message": [_writable(failure.message) for failure in failures],
        "attempts": 1,
        "first_at": moment,
        "last_at": moment,
        "attributes": [failure.attributes for failure in failures],
    }
    updated = ["source_uri", "etag", "reason", "message", "last_at", "attributes"]
    insert_or_update(connection, tables.failures, columns, updated, increase=["attempts"])


def _writable(text: str) -> str:
    """The text as every database takes it: a failure must never be lost because of its own odd file name."""
    return text if storable_text(text) else text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")
