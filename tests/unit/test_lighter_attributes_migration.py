"""Migration 0004: attributes that an older version wrote are filtered as before, and still go with their images."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from old_catalogs import address_for, catalog_at_revision

from storage.catalog import Catalog
from storage.filters import Equals, Exists, Filter, In, Range

MOMENT = "2026-01-02 03:04:05.000006+00:00"
_IMAGE = (
    "INSERT INTO images (collection_id, image_id, source_uri, etag, width, height, format, bytes, attributes,"
    f" created_at, updated_at) VALUES (1, '{{}}', '', '', 1, 1, 'PNG', 1, '{{}}', '{MOMENT}', '{MOMENT}')"
)
_ATTRIBUTE = "INSERT INTO image_attributes VALUES (1, '{}', '{}', {}, '{}', {}, {})"
ROWS = (
    f"INSERT INTO collections (name, created_at) VALUES ('photos', '{MOMENT}')",
    _IMAGE.format("a.png", '{"tags": ["red", "blue"], "year": 2020}'),
    _IMAGE.format("b.png", '{"year": 2021, "yes": true}'),
    _ATTRIBUTE.format("b.png", "year", 0, "number", "NULL", 2021),
    _ATTRIBUTE.format("b.png", "yes", 0, "boolean", "NULL", 1),
    _ATTRIBUTE.format("a.png", "tags", 1, "text", "'blue'", "NULL"),
    _ATTRIBUTE.format("a.png", "tags", 0, "text", "'red'", "NULL"),
    _ATTRIBUTE.format("a.png", "year", 0, "number", "NULL", 2020),
)


@pytest.fixture(params=["sqlite", "postgresql"])
def old_catalog(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of a catalog with schema 0003 that holds two images with attributes."""
    return catalog_at_revision("0003", ROWS, address_for(request, tmp_path))


@pytest.mark.parametrize(
    ("wanted", "ids"),
    [
        (Equals(key="tags", value="blue"), {"a.png"}),
        (Range(key="year", gte=2020), {"a.png", "b.png"}),
        (In(key="year", values=(2021, "red")), {"b.png"}),
        (In(key="yes", values=(True, 1)), {"b.png"}),
        (Exists(key="tags"), {"a.png"}),
        (Exists(key="yes"), {"b.png"}),
        (Exists(key="no"), set()),
    ],
)
def test_filters_find_what_they_found(old_catalog: str, wanted: Filter, ids: set[str]) -> None:
    with Catalog.open(old_catalog) as catalog:
        assert catalog.images.matching_ids(1, wanted) == ids


def test_attributes_can_be_replaced(old_catalog: str) -> None:
    with Catalog.open(old_catalog) as catalog:
        assert catalog.images.set_attributes(1, {"a.png": {"tags": ["green"]}}) == 1
        assert catalog.images.matching_ids(1, Exists(key="year")) == {"b.png"}
        assert catalog.images.matching_ids(1, Equals(key="tags", value="green")) == {"a.png"}


def test_attributes_still_belong_to_an_image(tmp_path: Path) -> None:
    path = tmp_path / "catalog.db"
    Catalog.open(path).close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA foreign_keys = ON")
        with pytest.raises(sqlite3.IntegrityError):
            connection.execute(_ATTRIBUTE.format("none.png", "year", 0, "number", "NULL", 2020))
        assert connection.execute("PRAGMA foreign_key_list(image_attributes)").fetchone()[6] == "CASCADE"
