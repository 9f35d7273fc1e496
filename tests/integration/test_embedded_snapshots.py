"""The embedded mode starts from a snapshot that the workers published, and needs none."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest
from pictures import write_photos

from pipeline.replica import IndexReplica
from storage.settings import Settings
from storage.snapshots import snapshots_of
from visual_search.collection import ImageCollection, Query


@pytest.fixture
def published(tmp_path: Path) -> Settings:
    """Six photos, two of them alike, five of them in a snapshot."""
    settings = Settings(data_dir=tmp_path / "data", model="baseline")
    photos = tmp_path / "photos"
    photos.mkdir()
    first = write_photos(photos, 5)[0]
    with ImageCollection(settings=settings) as collection:
        collection.index(photos)
        assert collection.generation is not None
        snapshots = snapshots_of(settings, collection.catalog)
        IndexReplica.boot(collection.catalog, collection.generation, snapshots).publish(snapshots)
        shutil.copyfile(photos / first, photos / "copy.jpg")
        collection.index(photos)
    return settings


def found(settings: Settings) -> tuple[list[tuple[str, float]], int]:
    """What is nearest to the copy, and how many vectors came from no snapshot."""
    with ImageCollection(settings=settings, create=False) as collection:
        results = collection.search(Query(image_id="copy.jpg")).results
        return [(one.image_id, one.score) for one in results], collection.search_service.index.own_rows


def test_a_search_starts_from_the_snapshot_and_what_came_after_it(published: Settings) -> None:
    from_snapshot, own = found(published)
    assert own == 1
    shutil.rmtree(published.data_dir / "snapshots")
    assert found(published) == (from_snapshot, 6)
    assert len(from_snapshot) == 5


def test_a_search_needs_no_place_of_snapshots(published: Settings, caplog: pytest.LogCaptureFixture) -> None:
    wanted, _ = found(published)
    shutil.rmtree(published.data_dir / "snapshots")
    (published.data_dir / "snapshots").write_text("no folder")
    with caplog.at_level(logging.WARNING):
        assert found(published) == (wanted, 6)
    assert "without a snapshot" in caplog.text
