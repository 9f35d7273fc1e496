"""What a mirror job removes: images whose files its source lists no more, unless they changed since it looked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from sqlalchemy import Connection, select, update

from storage.catalog import tables
from storage.catalog.database.clock import shared_now
from storage.catalog.database.statements import chunks, one_of
from storage.catalog.generations import lock_open_generations
from storage.catalog.queued.job_rows import count_outcomes
from storage.catalog.records import JobRecord
from storage.catalog.vectors.tombstones import delete_images

_IMAGES = tables.images.c


def remove_unlisted(connection: Connection, job: JobRecord, seen: Mapping[str, datetime]) -> int:
    """Remove these images, by id with the time of their last change, and count them to the locked job.

    One that was committed again after it was seen stays: its file is there again. A removed one whose file comes
    back later is indexed again. (After `Images.delete` it is not: that is its user's decision.)
    """
    moment = shared_now(connection)
    lock_open_generations(connection, job.collection_id)  # whoever commits one of these images waits from here on
    gone = [image_id for ids in chunks(seen) for image_id in _unchanged(connection, job, ids, seen)]
    removed = delete_images(connection, job.collection_id, gone, moment)
    for ids in chunks(gone):
        here = (_IMAGES.collection_id == job.collection_id, one_of(connection, _IMAGES.image_id, ids))
        connection.execute(update(tables.images).where(*here, _IMAGES.deleted_at == moment).values(source_uri=""))
    if removed:
        count_outcomes(connection, job, {"removed": removed}, moment)
    return removed


def _unchanged(
    connection: Connection, job: JobRecord, ids: Sequence[str], seen: Mapping[str, datetime]
) -> Sequence[str]:
    here = (_IMAGES.collection_id == job.collection_id, one_of(connection, _IMAGES.image_id, ids))
    statement = select(_IMAGES.image_id, _IMAGES.updated_at).where(*here, _IMAGES.deleted_at.is_(None))
    return [image_id for image_id, updated_at in connection.execute(statement) if updated_at == seen[image_id]]
