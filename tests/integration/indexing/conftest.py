"""What tests of indexing share: an empty folder for photos, and a collection that indexes with `baseline`."""

import pytest

from storage.settings import Settings
from visual_search.collection import ImageCollection


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    return folder


@pytest.fixture
def settings(tmp_path):
    return Settings(data_dir=tmp_path / "data", model="baseline", fetch_threads=3, batch_size=4, commit_images=5)


@pytest.fixture
def collection(settings):
    with ImageCollection(settings=settings) as opened:
        yield opened
