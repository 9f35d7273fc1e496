"""Uploaded bytes are stored, indexed and replaced."""

from __future__ import annotations

from pathlib import Path

import pytest
from pictures import jpeg
from submitted_work import ids_of, work_off

from storage.errors import InvalidKey
from storage.settings import Settings
from workers.job_client import JobClient


class TestUploads:
    def test_bytes_are_stored_and_indexed_and_replaced(self, client: JobClient, settings: Settings) -> None:
        progress = client.submit_uploads({"photo_001": jpeg(1), "a/ü.jpg": jpeg(2)})
        assert progress.listed == 2
        work_off(client.catalog)
        assert ids_of(client) == {"photo_001", "a/ü.jpg"}
        stored = settings.data_dir / "uploads" / "default" / "photo_001"
        assert stored.read_bytes() == jpeg(1)
        collection = client.catalog.collections.get("default").id
        before = client.catalog.images.get(collection, "photo_001")
        client.submit_uploads({"photo_001": jpeg(3, (64, 64))})
        work_off(client.catalog)
        after = client.catalog.images.get(collection, "photo_001")
        assert (after.source_uri, after.width) == (before.source_uri, 64)
        assert client.catalog.failures.count(collection) == 0

    def test_uploading_a_deleted_image_brings_it_back(self, client: JobClient) -> None:
        client.submit_uploads({"a": jpeg(1)})
        work_off(client.catalog)
        client.catalog.images.delete(client.catalog.collections.get("default").id, ["a"])
        client.submit_uploads({"a": jpeg(1)})
        work_off(client.catalog)
        assert ids_of(client) == {"a"}

    def test_the_same_upload_twice_is_one_job_and_another_a_second(self, client: JobClient, tmp_path: Path) -> None:
        store = tmp_path / "store"
        store.mkdir()
        first = client.submit_uploads({"a": jpeg(1)}, store=store)
        other = client.submit_uploads({"b": jpeg(1)}, store=store)
        assert first.job.id != other.job.id
        assert (store / "b").exists()

    def test_an_id_that_cannot_be_a_key_is_refused_before_anything_is_queued(self, client: JobClient) -> None:
        client.submit_uploads({"a": jpeg(1)})
        with pytest.raises(InvalidKey):
            client.submit_uploads({"a/b": jpeg(1), "": jpeg(2)})
        assert len(client.list()) == 1
