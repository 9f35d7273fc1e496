"""The life of a generation: begun beside the active one, filled, switched to in one update, pruned.

States: `building` is being filled, `active` answers searches, `standby` was active before and can be again (it is
kept in step with deletions, not with new images), `retired` takes no commits and its vectors are gone.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timezone

from sqlalchemy import ColumnElement, Connection, Select, and_, delete, func, select, update

from storage.catalog import tables
from storage.catalog.database.clock import shared_now
from storage.catalog.database.engine import Database
from storage.catalog.database.many_rows import insert_or_update
from storage.catalog.database.statements import CHUNK, READS_VECTORS, one_of
from storage.catalog.generations import (
    find_generation,
    insert_generation,
    lock_generation,
    lock_open_generations,
    take_sequence_numbers,
)
from storage.catalog.image_rows import image_metadata
from storage.catalog.records import Generation
from storage.errors import GenerationIncomplete, GenerationReplaced, UnknownGeneration
from storage.records import ImageMetadata, ModelIdentity

_GENERATIONS = tables.generations.c
_COLLECTIONS = tables.collections.c
_IMAGES = tables.images.c
_VECTORS = tables.vectors.c

_LONG_AGO = datetime.min.replace(tzinfo=timezone.utc)
_COPY_ROWS = 1024  # vectors per transaction of a copy: 2 MiB at 512-d, so that other writers wait briefly


class Lifecycle:
    """Builds, switches and prunes the generations of a collection."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def begin(self, collection_id: int, identity: ModelIdentity, *, rebuild: bool = False) -> Generation:
        """Return the generation to fill with this model's vectors: one begun or left before, else a new one.

        With `rebuild` a generation on standby is passed over: a rebuild is to be new.
        """
        with self._database.write() as connection:
            found = [one for one in lock_open_generations(connection, collection_id) if one.model == identity]
            states = ("building",) if rebuild else ("building", "standby")
            for generation in reversed(found):
                if generation.state in states:
                    return generation
            return find_generation(connection, insert_generation(connection, collection_id, identity, "building"))

    def missing(self, generation_id: int, *, after: str = "") -> Iterator[ImageMetadata]:
        """Yield live images whose present content has no vector in the generation, by id, page by page.

        Those whose id stands behind `after`, that is.
        """
        with self._database.read() as connection:
            collection_id = find_generation(connection, generation_id).collection_id
        while True:
            statement = _missing(collection_id, generation_id).where(_IMAGES.image_id > after)
            with self._database.read() as connection:
                rows = connection.execute(statement.order_by(_IMAGES.image_id).limit(CHUNK)).mappings().all()
            yield from (image_metadata(row) for row in rows)
            if len(rows) < CHUNK:
                return
            after = rows[-1]["image_id"]

    def missing_count(self, generation_id: int) -> int:
        """How many images `missing` would yield."""
        with self._database.read() as connection:
            return _count_missing(connection, find_generation(connection, generation_id))

    def copy_vectors(self, from_generation_id: int, to_generation_id: int, *, after: str = "") -> list[str]:
        """Copy one page of vectors that the target is missing, by id from behind `after`; return the ids copied."""
        with self._database.write() as connection:
            target = lock_generation(connection, to_generation_id)
            page = _copyable(target, from_generation_id).where(_IMAGES.image_id > after).limit(_COPY_ROWS)
            ids = list(connection.scalars(page))
            statement = select(_VECTORS.image_id, _VECTORS.sha256, _VECTORS.vector).where(
                _VECTORS.generation_id == from_generation_id, one_of(connection, _VECTORS.image_id, ids)
            )
            rows = connection.execute(statement.execution_options(**READS_VECTORS)).all()
            if rows:
                image_ids, hashes, vectors = map(list, zip(*rows, strict=True))
                columns = {
                    "generation_id": target.id,
                    "image_id": image_ids,
                    "seq": list(take_sequence_numbers(connection, target.id, len(rows))),
                    "sha256": hashes,
                    "vector": vectors,
                }
                insert_or_update(connection, tables.vectors, columns, ["seq", "sha256", "vector"])
            return ids

    def activate(self, generation_id: int, *, missing_allowed: int = 0, replacing: int | None = None) -> Generation:
        """Switch the collection to a generation, in one transaction; the active one goes on standby.

        Raises GenerationIncomplete when more images than allowed would vanish from searches, GenerationClosed
        when its vectors are gone, GenerationReplaced when searches use another one than `replacing` by now.
        """
        with self._database.write() as connection:
            generation = _lock_for_switch(connection, generation_id, replacing)
            _check_complete(generation, _count_missing(connection, generation), missing_allowed)
            return _switch(connection, generation)

    def replace(self, active_id: int, rebuilt_id: int) -> Generation:
        """Switch to a generation that has every vector that the active one has; what that lacks, it may lack too.

        Raises GenerationIncomplete, GenerationClosed and GenerationReplaced as `activate` does.
        """
        with self._database.write() as connection:
            generation = _lock_for_switch(connection, rebuilt_id, active_id)
            lost = select(func.count()).select_from(_copyable(generation, active_id).subquery())
            _check_complete(generation, connection.execute(lost).scalar_one(), 0)
            return _switch(connection, generation)

    def previous(self, collection_id: int) -> Generation:
        """The generation that was active before this one: what a rollback goes back to. Raises UnknownGeneration."""
        statement = select(_GENERATIONS.id).where(
            _GENERATIONS.collection_id == collection_id, _GENERATIONS.state == "standby"
        )
        with self._database.read() as connection:
            standby = [find_generation(connection, one) for one in connection.scalars(statement)]
        if not standby:
            raise UnknownGeneration("there is no earlier generation to go back to")
        return max(standby, key=_last_active)

    def prune(self, collection_id: int, *, building: bool = False, keep: int = 0) -> list[Generation]:
        """Delete the vectors of generations on standby (and, if asked, unfinished ones); return them, retired.

        The `keep` generations on standby that were active last stay: those that a rollback would go back to first.
        """
        with self._database.write() as connection:
            generations = lock_open_generations(connection, collection_id)
            standby = sorted((one for one in generations if one.state == "standby"), key=_last_active)
            chosen = standby[: max(0, len(standby) - keep)]
            chosen += [one for one in generations if building and one.state == "building"]
            for generation in chosen:
                _set_state(connection, _GENERATIONS.id == generation.id, "retired")
                connection.execute(delete(tables.snapshots).where(tables.snapshots.c.generation_id == generation.id))
                connection.execute(delete(tables.vectors).where(_VECTORS.generation_id == generation.id))
            return [find_generation(connection, one.id) for one in chosen]


def _lacks_vector(generation_id: int) -> ColumnElement[bool]:
    has_vector = select(_VECTORS.image_id).where(
        _VECTORS.generation_id == generation_id,
        _VECTORS.image_id == _IMAGES.image_id,
        _VECTORS.vector.is_not(None),
        _VECTORS.sha256.is_not_distinct_from(_IMAGES.sha256),
    )
    return ~has_vector.exists()


def _live_without_vector(collection_id: int, generation_id: int) -> ColumnElement[bool]:
    live = and_(_IMAGES.collection_id == collection_id, _IMAGES.deleted_at.is_(None))
    return and_(live, _lacks_vector(generation_id))


def _missing(collection_id: int, generation_id: int) -> Select[tuple[object, ...]]:
    return select(tables.images).where(_live_without_vector(collection_id, generation_id))


def _count_missing(connection: Connection, generation: Generation) -> int:
    statement = select(func.count()).select_from(tables.images)
    return connection.execute(
        statement.where(_live_without_vector(generation.collection_id, generation.id))
    ).scalar_one()


def _copyable(target: Generation, from_generation_id: int) -> Select[str]:
    """Ids of live images that the target is missing and the other has, of their present content."""
    return (
        select(_IMAGES.image_id)
        .where(_live_without_vector(target.collection_id, target.id), ~_lacks_vector(from_generation_id))
        .order_by(_IMAGES.image_id)
    )


def _lock_for_switch(connection: Connection, generation_id: int, replacing: int | None) -> Generation:
    """Take all locks that a switch needs, in their one order; from here on nothing of what it looks at changes."""
    collection_id = find_generation(connection, generation_id).collection_id
    of_collection = select(_COLLECTIONS.active_generation_id).where(_COLLECTIONS.id == collection_id)
    active_id = connection.scalar(of_collection.with_for_update())
    lock_open_generations(connection, collection_id)
    generation = lock_generation(connection, generation_id)
    if replacing is not None and active_id not in (replacing, generation_id):
        raise GenerationReplaced(
            f"searches use generation {active_id} by now, not {replacing}: it stays active. Run the same command again"
        )
    return generation


def _check_complete(generation: Generation, missing: int, allowed: int) -> None:
    if missing > allowed:
        raise GenerationIncomplete(
            f"generation {generation.id} ({generation.model}) has no vector for {missing} images yet"
        )


def _switch(connection: Connection, generation: Generation) -> Generation:
    if generation.state != "active":
        _set_state(connection, _was_active(generation.collection_id), "standby", replaced_at=shared_now(connection))
    _set_state(connection, _GENERATIONS.id == generation.id, "active")
    here = _COLLECTIONS.id == generation.collection_id
    connection.execute(update(tables.collections).where(here).values(active_generation_id=generation.id))
    return find_generation(connection, generation.id)


def _was_active(collection_id: int) -> ColumnElement[bool]:
    return and_(_GENERATIONS.collection_id == collection_id, _GENERATIONS.state == "active")


def _set_state(connection: Connection, chosen: ColumnElement[bool], state: str, **more: datetime) -> None:
    connection.execute(update(tables.generations).where(chosen).values(state=state, **more))


def _last_active(generation: Generation) -> tuple[datetime, int]:
    """Sorts by when they were active last; of those replaced before that was recorded, the newest counts."""
    return generation.replaced_at or _LONG_AGO, generation.id
