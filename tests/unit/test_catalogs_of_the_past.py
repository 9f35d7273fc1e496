"""A catalog that any earlier version wrote is migrated forward and goes on: searched, added to, deleted from."""

import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from pictures import jpeg

from storage.catalog import schema
from storage.settings import Settings
from visual_search import ImageCollection
from visual_search.collection import Query

DUMPS = Path(__file__).parents[1] / "data" / "catalogs"
LIVE = [f"{number}.jpg" for number in range(5)]


@pytest.fixture(params=schema.REVISIONS)
def settings(request, tmp_path):
    """A data folder as the program of that schema left it."""
    settings = Settings(data_dir=tmp_path / "home", model="baseline")
    settings.data_dir.mkdir()
    with closing(sqlite3.connect(settings.catalog_path)) as connection:
        connection.executescript((DUMPS / f"{request.param}.sql").read_text())
        assert connection.execute("SELECT version_num FROM catalog_version").fetchall() == [(request.param,)]
    return settings


def _stored(settings):
    with closing(sqlite3.connect(settings.catalog_path)) as connection:
        rows = connection.execute("SELECT image_id, vector FROM vectors WHERE vector IS NOT NULL").fetchall()
    return {image_id: np.frombuffer(vector, "<f4").astype(np.float64) for image_id, vector in rows}


def test_there_is_a_dump_of_every_schema():
    assert sorted(path.stem for path in DUMPS.glob("*.sql")) == sorted(schema.REVISIONS)


def test_everything_is_there_and_searches_answer_from_the_vectors_of_then(settings):
    vectors = _stored(settings)
    assert sorted(vectors) == LIVE
    with ImageCollection(settings=settings, create=False) as collection:
        assert [image.image_id for image in collection.images()] == LIVE
        assert [(one.image_id, one.reason) for one in collection.failures()] == [("broken.jpg", "corrupt")]
        for image_id in LIVE:
            found = collection.search(Query(image_id=image_id)).results
            assert [one.image_id for one in found] == sorted(
                (other for other in LIVE if other != image_id),
                key=lambda other: ((vectors[other] - vectors[image_id]) ** 2).sum(),
            )
    with closing(sqlite3.connect(settings.catalog_path)) as connection:
        assert connection.execute("SELECT version_num FROM catalog_version").fetchall() == [(schema.REVISIONS[-1],)]


def test_it_is_added_to_and_deleted_from(settings, tmp_path):
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "new.jpg").write_bytes(jpeg(800))
    with ImageCollection(settings=settings, create=False) as collection:
        assert collection.index(tmp_path / "more").indexed == 1
        assert collection.delete_images(["0.jpg"]) == 1
        assert [image.image_id for image in collection.images()] == [*LIVE[1:], "new.jpg"]
        assert len(collection.search(Query(image_id="new.jpg")).results) == 4
