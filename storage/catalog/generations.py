"""Generations: all vectors of a collection by one model, and the row lock that orders their changes."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from sqlalchemy import Connection, Row, select, update

from storage.catalog import tables
from storage.catalog.database.clock import now
from storage.catalog.database.engine import Database
from storage.catalog.database.statements import insert_new
from storage.catalog.records import CollectionRecord, Generation, GenerationState
from storage.errors import GenerationClosed, ModelMismatch, UnknownCollection
from storage.records import ModelIdentity

_GENERATIONS = tables.generations.c
_COLLECTIONS = tables.collections.c


class Generations:
    """Reads generations and makes the first one of a collection."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def active(self, collection_id: int) -> Generation | None:
        """The generation that searches use; None while the collection has no vectors and no model."""
        with self._database.read() as connection:
            return active_generation(connection, collection_id)

    def all_active(self) -> list[tuple[CollectionRecord, Generation]]:
        """Every collection that can be searched, with its active generation as it is now; two small statements."""
        with self._database.read() as connection:
            collections = connection.execute(select(tables.collections)).mappings().all()
            # by the ids just read: of a collection that switches between the two statements the old one is seen
            active = [row["active_generation_id"] for row in collections if row["active_generation_id"] is not None]
            rows = connection.execute(select(tables.generations).where(_GENERATIONS.id.in_(active)))
            generations = {row.id: _generation(row) for row in rows}
        return [
            (CollectionRecord(**row), generations[row["active_generation_id"]])
            for row in collections
            if row["active_generation_id"] in generations
        ]

    def ensure_active(self, collection_id: int, identity: ModelIdentity) -> Generation:
        """Return the active generation of this model; the first model that comes becomes the collection's.

        Raises ModelMismatch when the collection belongs to another model, UnknownCollection.
        """
        generation = self.active(collection_id)
        if generation is None:
            generation = self._make_first(collection_id, identity)
        if generation.model != identity:
            raise ModelMismatch(_mismatch(generation.model, identity))
        return generation

    def _make_first(self, collection_id: int, identity: ModelIdentity) -> Generation:
        with self._database.write() as connection:
            locked = connection.execute(
                select(_COLLECTIONS.id).where(_COLLECTIONS.id == collection_id).with_for_update()
            ).one_or_none()
            if locked is None:
                raise UnknownCollection(f"there is no collection number {collection_id}")
            generation = active_generation(connection, collection_id)  # another process may have been first
            return generation or _insert_active(connection, collection_id, identity)

    def get(self, generation_id: int) -> Generation:
        """One generation as it is now. Raises GenerationClosed when there is none."""
        with self._database.read() as connection:
            return find_generation(connection, generation_id)

    def list(self, collection_id: int) -> list[Generation]:
        """Every generation of the collection, oldest first."""
        statement = (
            select(tables.generations).where(_GENERATIONS.collection_id == collection_id).order_by(_GENERATIONS.id)
        )
        with self._database.read() as connection:
            return [_generation(row) for row in connection.execute(statement)]


def find_generation(connection: Connection, generation_id: int) -> Generation:
    """Read one generation. Raises GenerationClosed when there is none."""
    row = connection.execute(select(tables.generations).where(_GENERATIONS.id == generation_id)).one_or_none()
    return _existing(row, generation_id)


def lock_generation(connection: Connection, generation_id: int) -> Generation:
    """Lock the row of a generation. Raises GenerationClosed when it is unknown or takes no commits."""
    row = connection.execute(
        select(tables.generations).where(_GENERATIONS.id == generation_id).with_for_update(key_share=True)
    ).one_or_none()
    generation = _existing(row, generation_id)
    if generation.state == "retired":
        raise GenerationClosed(f"generation {generation_id} ({generation.model}) is retired: it takes no commits")
    return generation


def lock_open_generations(connection: Connection, collection_id: int) -> list[Generation]:
    """Lock every generation that takes commits, by id: writers that lock several never wait in a circle."""
    statement = (
        select(tables.generations)
        .where(_GENERATIONS.collection_id == collection_id, _GENERATIONS.state != "retired")
        .order_by(_GENERATIONS.id)
        .with_for_update(key_share=True)
    )
    return [_generation(row) for row in connection.execute(statement)]


def lock_generations(connection: Connection, generation_ids: Collection[int]) -> dict[int, Generation]:
    """Lock these generations by id, retired ones too; unknown ones are left out."""
    statement = select(tables.generations).where(_GENERATIONS.id.in_(generation_ids)).order_by(_GENERATIONS.id)
    return {row.id: _generation(row) for row in connection.execute(statement.with_for_update(key_share=True))}


def take_sequence_numbers(connection: Connection, generation_id: int, count: int) -> range:
    """Take the feed's next numbers: the row stays locked until commit, so their order is commit order."""
    connection.execute(
        update(tables.generations)
        .where(_GENERATIONS.id == generation_id)
        .values(last_seq=_GENERATIONS.last_seq + count)
    )
    last = connection.execute(select(_GENERATIONS.last_seq).where(_GENERATIONS.id == generation_id)).scalar_one()
    return range(last - count + 1, last + 1)


def active_generation(connection: Connection, collection_id: int) -> Generation | None:
    """The generation that searches use, as the caller's transaction sees it."""
    statement = (
        select(tables.generations)
        .join(tables.collections, _COLLECTIONS.active_generation_id == _GENERATIONS.id)
        .where(_COLLECTIONS.id == collection_id)
    )
    row = connection.execute(statement).one_or_none()
    return None if row is None else _generation(row)


def insert_generation(
    connection: Connection, collection_id: int, identity: ModelIdentity, state: GenerationState
) -> int:
    """Insert an empty generation; return its number."""
    values = {
        "collection_id": collection_id,
        "model_name": identity.name,
        "model_revision": identity.revision,
        "weights_fingerprint": identity.weights_fingerprint,
        "preprocessing_fingerprint": identity.preprocessing_fingerprint,
        "dimension": identity.dimension,
        "state": state,
        "last_seq": 0,
        "created_at": now(),
    }
    return insert_new(connection, tables.generations, values)


def _insert_active(connection: Connection, collection_id: int, identity: ModelIdentity) -> Generation:
    generation_id = insert_generation(connection, collection_id, identity, "active")
    connection.execute(
        update(tables.collections).where(_COLLECTIONS.id == collection_id).values(active_generation_id=generation_id)
    )
    return find_generation(connection, generation_id)


def _existing(row: Row[Any] | None, generation_id: int) -> Generation:
    if row is None:
        raise GenerationClosed(f"there is no generation {generation_id}")
    return _generation(row)


def _generation(row: Row[Any]) -> Generation:
    return Generation(
        id=row.id,
        collection_id=row.collection_id,
        model=ModelIdentity(
            name=row.model_name,
            revision=row.model_revision,
            weights_fingerprint=row.weights_fingerprint,
            preprocessing_fingerprint=row.preprocessing_fingerprint,
            dimension=row.dimension,
        ),
        state=row.state,
        last_seq=row.last_seq,
        created_at=row.created_at,
        replaced_at=row.replaced_at,
    )


def _mismatch(active: ModelIdentity, wanted: ModelIdentity) -> str:
    differing = [name for name in ModelIdentity.model_fields if getattr(active, name) != getattr(wanted, name)]
    return (
        f"the collection holds vectors of {active}, not of {wanted} (they differ in {', '.join(differing)}): "
        "vectors of two models cannot be compared. Use the first model, choose another --collection, or change the "
        "model with `visual-search reindex`"
    )
