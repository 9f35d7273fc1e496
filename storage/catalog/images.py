"""Images of a collection: look up, list, filter, delete, set attributes. Deleted ones stay known, unseen."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence

from sqlalchemy import ColumnElement, Connection, Select, func, select

from storage.attributes import normal_attributes, same_attributes
from storage.catalog import tables
from storage.catalog.contents import known_contents
from storage.catalog.database.clock import now, shared_now
from storage.catalog.database.engine import Database
from storage.catalog.database.statements import CHUNK, as_list, chunks, one_of
from storage.catalog.filters_sql import filter_condition
from storage.catalog.image_rows import image_metadata, write_images
from storage.catalog.records import KnownContent, KnownImage, ShownImage
from storage.catalog.vectors.tombstones import delete_images
from storage.errors import UnknownImageId
from storage.filters import Filter
from storage.records import Attributes, ImageMetadata

_IMAGES = tables.images.c
_VECTORS = tables.vectors.c

# Every search asks this. As text, because SQLAlchemy's work on a statement takes several times as long as this one.
_SHOWN = {
    "sqlite": """
        SELECT image_id, source_uri, attributes FROM images
        WHERE collection_id = ? AND image_id IN (SELECT value FROM json_each(?)) AND deleted_at IS NULL
    """,
    "postgresql": """
        SELECT image_id, source_uri, attributes FROM images
        WHERE collection_id = %s AND image_id = ANY(%s) AND deleted_at IS NULL
    """,
}


class Images:
    """Reads and changes the images of collections; vectors come in by `Catalog.commit` only."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def known(self, collection_id: int, generation_id: int, image_ids: Collection[str]) -> dict[str, KnownImage]:
        """What the catalog has of these ids, deleted images included; unknown ids are left out."""
        has_vector = (_VECTORS.vector.is_not(None) & _VECTORS.sha256.is_not_distinct_from(_IMAGES.sha256)).label("ok")
        joined = tables.images.outerjoin(
            tables.vectors,
            (_VECTORS.generation_id == generation_id) & (_VECTORS.image_id == _IMAGES.image_id),
        )
        found: dict[str, KnownImage] = {}
        for ids in chunks(image_ids):
            with self._database.read() as connection:
                among = _among(connection, collection_id, ids)
                statement = select(tables.images, has_vector).select_from(joined).where(*among)
                for row in connection.execute(statement).mappings():
                    known = KnownImage(image_metadata(row), row["deleted_at"] is not None, bool(row["ok"]))
                    found[known.metadata.image_id] = known
        return found

    def contents(self, generation_id: int, hashes: Collection[str]) -> dict[str, KnownContent]:
        """The vectors that contents with these sha256 have in the generation already, under whatever id."""
        with self._database.read() as connection:
            return known_contents(connection, generation_id, hashes)

    def get(self, collection_id: int, image_id: str) -> ImageMetadata:
        """Return one live image. Raises UnknownImageId."""
        found = self.get_many(collection_id, [image_id])
        if image_id not in found:
            raise UnknownImageId(f"the collection holds no image {image_id!r}")
        return found[image_id]

    def get_many(self, collection_id: int, image_ids: Collection[str]) -> dict[str, ImageMetadata]:
        """The live images among these ids."""
        with self._database.read() as connection:
            return _live_among(connection, collection_id, image_ids)

    def shown(self, collection_id: int, image_ids: Collection[str]) -> dict[str, ShownImage]:
        """Address and attributes of the live images among these ids, in a fifth of the time of `get_many`."""
        dialect = self._database.dialect
        found: dict[str, ShownImage] = {}
        for ids in chunks(image_ids):
            rows = self._database.rows(_SHOWN[dialect], (collection_id, as_list(dialect, ids)))
            for image_id, uri, attributes in rows:
                known = json.loads(attributes) if isinstance(attributes, str) else attributes  # SQLite keeps text
                found[image_id] = ShownImage(uri, known)
        return found

    def count(self, collection_id: int, *, prefix: str = "", filter: Filter | None = None) -> int:  # noqa: A002
        """How many live images there are, whose id has the prefix and that match the filter."""
        statement = select(func.count()).select_from(tables.images)
        with self._database.read() as connection:
            return connection.execute(statement.where(*_live(collection_id, prefix, filter))).scalar_one()

    def matching_ids(self, collection_id: int, filter: Filter) -> set[str]:  # noqa: A002
        """The ids of all live images that match the filter, exactly. Raises InvalidFilter when too large."""
        statement = select(_IMAGES.image_id).where(*_live(collection_id, "", filter))
        with self._database.read() as connection:
            return set(connection.scalars(statement))

    def delete(self, collection_id: int, image_ids: Sequence[str]) -> int:
        """Delete images, with tombstones in every open generation, all or nothing; return how many lived."""
        with self._database.write() as connection:
            return delete_images(connection, collection_id, image_ids, shared_now(connection))

    def set_attributes(self, collection_id: int, attributes: Mapping[str, Attributes]) -> int:
        """Replace the attributes of live images; ids that are none are skipped. Returns how many changed.

        Raises InvalidAttribute, and then changes nothing.
        """
        wanted = {image_id: normal_attributes(of_image) for image_id, of_image in attributes.items()}
        with self._database.write() as connection:
            live = _live_among(connection, collection_id, sorted(wanted), lock=True)  # rows are written back whole
            changed = [
                image.model_copy(update={"attributes": wanted[image_id]})
                for image_id, image in live.items()
                if not same_attributes(image.attributes, wanted[image_id])
            ]
            write_images(connection, collection_id, changed, now())
        return len(changed)

    def list(
        self,
        collection_id: int,
        *,
        prefix: str = "",
        after: str = "",
        limit: int | None = None,
        filter: Filter | None = None,  # noqa: A002 - the word that everybody looks for
    ) -> Iterator[ImageMetadata]:
        """Yield live images by id, from behind `after`, page by page: no transaction stays open between."""
        statement = select(tables.images).where(*_live(collection_id, prefix, filter)).order_by(_IMAGES.image_id)
        left = limit
        while left is None or left > 0:
            size = CHUNK if left is None else min(CHUNK, left)
            page = self._page(statement.where(_IMAGES.image_id > after).limit(size))
            yield from page
            if len(page) < size:
                return
            after = page[-1].image_id
            left = None if left is None else left - size

    def _page(self, statement: Select[tuple[object, ...]]) -> Sequence[ImageMetadata]:
        with self._database.read() as connection:
            return [image_metadata(row) for row in connection.execute(statement).mappings()]


def _among(connection: Connection, collection_id: int, image_ids: Sequence[str]) -> tuple[ColumnElement[bool], ...]:
    return (_IMAGES.collection_id == collection_id, one_of(connection, _IMAGES.image_id, image_ids))


def _live_among(
    connection: Connection, collection_id: int, image_ids: Collection[str], *, lock: bool = False
) -> dict[str, ImageMetadata]:
    """The live images among these; `lock` them, in the order of the ids given, against every other writer."""
    found: dict[str, ImageMetadata] = {}
    for ids in chunks(image_ids):
        statement = select(tables.images).where(*_among(connection, collection_id, ids), _IMAGES.deleted_at.is_(None))
        if lock:
            statement = statement.order_by(_IMAGES.image_id).with_for_update(key_share=True)
        for row in connection.execute(statement).mappings():
            found[row["image_id"]] = image_metadata(row)
    return found


def _live(collection_id: int, prefix: str, filter_: Filter | None) -> list[ColumnElement[bool]]:
    conditions = [_IMAGES.collection_id == collection_id, _IMAGES.deleted_at.is_(None)]
    if prefix:
        conditions.append(_IMAGES.image_id >= prefix)
        end = _behind(prefix)
        conditions += [] if end is None else [_IMAGES.image_id < end]
    if filter_ is not None:
        conditions.append(filter_condition(filter_, collection_id))
    return conditions


def _behind(prefix: str) -> str | None:
    """The first text behind all that begin with the prefix: unlike LIKE exact in case, and by the index."""
    for position in reversed(range(len(prefix))):
        code = ord(prefix[position]) + 1
        if code <= 0x10FFFF:
            following = 0xE000 if 0xD800 <= code <= 0xDFFF else code  # surrogates are no characters
            return prefix[:position] + chr(following)
    return None
