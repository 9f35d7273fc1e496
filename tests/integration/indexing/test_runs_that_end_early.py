"""Runs that are interrupted, lose the catalog or the source, and what the threads of a run share."""

import shutil
import threading

import pytest
from pictures import write_photos
from run_outcomes import outcomes_of

from pipeline.embedding_service import EmbeddingService
from pipeline.indexing.outcomes import Outcomes
from pipeline.indexing.report import IndexReport
from storage.catalog import Catalog
from storage.errors import (
    CatalogUnavailable,
    StorageError,
    StorageUnavailable,
)
from storage.images.local import LocalStorage
from visual_search.collection import ImageCollection


def test_a_missing_folder_is_an_error_and_the_run_is_recorded_as_failed(collection, tmp_path):
    with pytest.raises(StorageError):
        collection.index(tmp_path / "none")
    write_photos(tmp_path / "photos", 1)
    collection.index(tmp_path / "photos")
    assert [job.state for job in collection.catalog.jobs.list(collection.record.id, 5)] == ["finished"]


def test_an_interrupted_run_keeps_what_was_ready_and_says_so(collection, photos):
    write_photos(photos, 40)

    def interrupt(report: IndexReport) -> None:
        if report.indexed >= 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        collection.index(photos, on_progress=interrupt)
    (job,) = collection.catalog.jobs.list(collection.record.id, 5)
    assert job.state == "interrupted"
    kept = len(collection.search_service.index)
    assert 5 <= kept < 40
    assert outcomes_of(collection.index(photos)) == {"indexed": 40 - kept, "unchanged": kept}


def test_a_commit_that_fails_ends_the_run_and_what_was_ready_is_committed_after_all(collection, photos, monkeypatch):
    write_photos(photos, 40)
    commit, calls = collection.catalog.commit, []

    def locked_once(generation_id, batch):
        calls.append([one.metadata.image_id for one in batch.upserts])
        if len(calls) == 1:
            raise CatalogUnavailable("locked for 30 s")
        return commit(generation_id, batch)

    monkeypatch.setattr(collection.catalog, "commit", locked_once)
    with pytest.raises(CatalogUnavailable):
        collection.index(photos)
    assert calls[1] == calls[0], "the same once more, before what came after it"
    assert [image.image_id for image in collection.images()] == sorted({one for call in calls for one in call})
    kept = sum(map(len, calls[1:]))
    assert 0 < kept < 40
    assert outcomes_of(collection.index(photos)) == {"indexed": 40 - kept, "unchanged": kept}


def test_equal_content_is_embedded_once_also_while_its_commit_is_under_way(settings, photos, monkeypatch):
    """The first commit holds 12 different pictures; copies of 8 come while it has not ended."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # so that no more than 17 are decoded, or in the model, ahead of it
    keys = write_photos(photos, 32)
    for key in keys[:8]:
        shutil.copyfile(photos / key, photos / f"z-copy-of-{key.replace('/', '-')}")
    commit, settle, copies_seen = Catalog.commit, Outcomes.settle_by_content, threading.Event()

    def slow(catalog, generation_id, batch):
        assert copies_seen.wait(120)
        return commit(catalog, generation_id, batch)

    def watched(outcomes, chunk):
        fresh = settle(outcomes, chunk)
        if any(one.planned.item.image_id.startswith("z-copy") for one in chunk):
            copies_seen.set()
        return fresh

    monkeypatch.setattr(Catalog, "commit", slow)
    monkeypatch.setattr(Outcomes, "settle_by_content", watched)
    with ImageCollection(settings=settings.model_copy(update={"commit_images": 12})) as collection:
        assert outcomes_of(collection.index(photos)) == {"indexed": 32, "reused": 8}
        assert collection.audit(photos).clean


class _Watched(EmbeddingService):
    """The real service on `baseline`, which notes the threads that decode and compute."""

    def __init__(self) -> None:
        super().__init__("baseline")
        self.threads = set()

    def prepare(self, image):
        self.threads.add(threading.get_ident())
        return super().prepare(image)

    def embed_batch(self, batch):
        self.threads.add(threading.get_ident())
        return super().embed_batch(batch)


def test_decoding_and_the_model_are_on_no_more_threads_than_are_allowed(collection, photos, monkeypatch):
    write_photos(photos, 12)
    collection._service = service = _Watched()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert outcomes_of(collection.index(photos)) == {"indexed": 12}
    assert len(service.threads) == 1
    assert threading.get_ident() not in service.threads, "the main thread plans and settles meanwhile"


def test_a_source_that_is_down_stops_the_run_instead_of_failing_every_image(collection, photos, monkeypatch):
    write_photos(photos, 60)

    def down(self, key):
        raise StorageUnavailable("the disk does not answer")

    monkeypatch.setattr(LocalStorage, "get", down)
    with pytest.raises(StorageUnavailable):
        collection.index(photos)
    assert len(collection.failures()) < 60
    monkeypatch.undo()
    assert collection.index(photos).done == 60
    assert collection.failures() == []
