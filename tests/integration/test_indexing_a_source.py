"""Indexing a folder (and a bucket) into a collection with `baseline`: outcomes, resume, failures, audit."""

import os
import shutil
import threading

import numpy as np
import pytest
from checkpoints import save_tiny_clip
from closed_folders import close_folder
from pictures import jpeg, write_photos

from pipeline.embedding_service import EmbeddingService
from pipeline.errors import InvalidQuery, ModelError
from pipeline.indexing.outcomes import Outcomes
from pipeline.indexing.report import IndexReport
from pipeline.indexing.selection import SourceSelection
from storage.catalog import Catalog, IndexBatch
from storage.errors import (
    CatalogUnavailable,
    ModelMismatch,
    StorageError,
    StorageUnavailable,
    UnknownCollection,
    UnknownImageId,
)
from storage.images.local import LocalStorage
from storage.records import ImageMetadata
from storage.settings import Settings
from visual_search.collection import ImageCollection, Query


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


def _outcomes(report: IndexReport) -> dict[str, int]:
    return {name: count for name, count in report.counts().items() if count and name != "listed"}


def test_every_image_of_a_folder_is_indexed_and_found_by_itself(collection, photos):
    keys = write_photos(photos, 13)
    report = collection.index(photos)
    assert (report.listed, _outcomes(report)) == (13, {"indexed": 13})
    assert [image.image_id for image in collection.images()] == keys
    for key in keys:
        best = collection.search(Query(image=photos / key))[0]
        assert best.image_id == key
        assert best.score == pytest.approx(1.0, abs=1e-6)
    assert collection.audit(photos).clean


def test_a_second_run_embeds_nothing_and_loads_no_model(collection, settings, photos):
    write_photos(photos, 7)
    collection.index(photos)
    with ImageCollection(settings=settings) as again:
        report = again.index(photos)
        assert _outcomes(report) == {"unchanged": 7}
        assert again._service is None
        assert again.generation.last_seq == 7


def test_new_changed_and_touched_files_are_told_apart(collection, photos):
    write_photos(photos, 6)
    collection.index(photos)
    before = collection.search_service.index.reconstruct("odd/01.jpg")
    (photos / "odd" / "01.jpg").write_bytes(jpeg(100))
    os.utime(photos / "odd" / "03.jpg", (1, 1))
    (photos / "new.jpg").write_bytes(jpeg(101))
    report = collection.index(photos)
    assert _outcomes(report) == {"indexed": 2, "refreshed": 1, "unchanged": 4}
    assert not np.allclose(collection.search_service.index.reconstruct("odd/01.jpg"), before)
    assert len(collection.search_service.index) == 7


def test_equal_content_under_other_names_is_embedded_once(collection, photos):
    write_photos(photos, 5)
    for number in range(9):
        shutil.copyfile(photos / "even" / "00.jpg", photos / f"copy-{number}.jpg")
    report = collection.index(photos)
    assert _outcomes(report) == {"indexed": 5, "reused": 9}
    shutil.copyfile(photos / "odd" / "01.jpg", photos / "later-copy.jpg")
    assert _outcomes(collection.index(photos)) == {"reused": 1, "unchanged": 14}
    copy = collection.image("later-copy.jpg")
    original = collection.image("odd/01.jpg")
    assert (copy.sha256, copy.width, copy.format) == (original.sha256, original.width, original.format)


def test_one_bad_image_is_recorded_with_its_reason_and_harms_nothing_else(collection, photos):
    write_photos(photos, 6)
    (photos / "broken.jpg").write_bytes(jpeg(1)[:400])
    (photos / "notes.png").write_text("not a picture")
    (photos / "empty.jpg").touch()
    report = collection.index(photos)
    assert _outcomes(report) == {"indexed": 6, "failed": 3}
    assert report.failures_by_reason == {"corrupt": 1, "empty": 1, "unsupported_format": 1}
    recorded = {failure.image_id: failure.reason for failure in collection.failures()}
    assert recorded == {"broken.jpg": "corrupt", "notes.png": "unsupported_format", "empty.jpg": "empty"}
    audit = collection.audit(photos)
    assert audit.clean
    assert audit.by_problem() == {"failed": 3}


def test_a_file_whose_path_is_too_long_for_an_id_fails_alone(collection, photos):
    write_photos(photos, 3)
    deep = photos.joinpath(*["d" * 200] * 6)
    deep.mkdir(parents=True)
    (deep / "deep.jpg").write_bytes(jpeg(40))
    report = collection.index(photos)
    assert _outcomes(report) == {"indexed": 3, "failed": 1}
    assert report.failures_by_reason == {"invalid_id": 1}
    assert collection.audit(photos).clean


def test_equal_broken_files_each_have_their_own_failure(collection, photos):
    for name in ("a", "b", "c"):
        (photos / f"{name}.jpg").write_bytes(jpeg(1)[:400])
    assert _outcomes(collection.index(photos)) == {"failed": 3}
    assert [failure.image_id for failure in collection.failures()] == ["a.jpg", "b.jpg", "c.jpg"]


def test_failures_are_retried_and_stay_until_they_are_mended(collection, photos):
    write_photos(photos, 2)
    for name in ("mended", "still-broken", "removed"):
        (photos / f"{name}.jpg").write_bytes(jpeg(1)[:400] + name.encode())
    collection.index(photos)
    (photos / "mended.jpg").write_bytes(jpeg(50))
    (photos / "removed.jpg").unlink()
    report = collection.retry_failures()
    assert (report.retried, report.indexed, report.failed) == (3, 1, 2)
    recorded = {failure.image_id: (failure.reason, failure.attempts) for failure in collection.failures()}
    assert recorded == {"removed.jpg": ("not_found", 2), "still-broken.jpg": ("corrupt", 2)}
    assert collection.image("mended.jpg").source_uri == (photos / "mended.jpg").resolve().as_uri()


def test_a_deleted_image_is_not_found_and_stays_deleted_until_it_is_asked_back(collection, photos):
    keys = write_photos(photos, 4)
    collection.index(photos)
    assert collection.delete_images([keys[0]]) == 1
    assert keys[0] not in collection.search(Query(image_id=keys[1])).image_ids
    assert _outcomes(collection.index(photos)) == {"deleted": 1, "unchanged": 3}
    audit = collection.audit(photos)
    assert audit.clean
    assert audit.by_problem() == {"deleted": 1}
    with pytest.raises(UnknownImageId):
        collection.image(keys[0])
    assert _outcomes(collection.index(photos, restore_deleted=True)) == {"indexed": 1, "unchanged": 3}
    assert collection.image(keys[0]).image_id == keys[0]


def test_two_sources_that_claim_one_id_do_not_overwrite_each_other(collection, photos, tmp_path):
    write_photos(photos, 2)
    other = tmp_path / "other"
    write_photos(other, 2, first_seed=50)
    collection.index(photos)
    report = collection.index(other)
    assert report.failures_by_reason == {"id_taken": 2}
    assert collection.image("even/00.jpg").source_uri == (photos / "even" / "00.jpg").resolve().as_uri()
    assert _outcomes(collection.index(other, SourceSelection(id_prefix="other/"))) == {"indexed": 2}
    assert collection.audit(photos).clean
    assert collection.audit(other, SourceSelection(id_prefix="other/")).clean


def test_a_moved_folder_is_recognised_by_its_content(collection, photos, tmp_path):
    write_photos(photos, 3)
    collection.index(photos)
    moved = tmp_path / "moved"
    photos.rename(moved)
    assert _outcomes(collection.index(moved)) == {"refreshed": 3}
    assert collection.image("odd/01.jpg").source_uri == (moved / "odd" / "01.jpg").resolve().as_uri()
    assert collection.audit(moved).clean


def test_attributes_come_from_a_sidecar_and_their_change_needs_no_embedding(collection, photos, tmp_path):
    write_photos(photos, 4)
    sidecar = tmp_path / "labels.csv"
    sidecar.write_text("image_id,label\neven/00.jpg,sky\nodd/01.jpg,sea\nnowhere.jpg,sea\n")
    selection = SourceSelection(attributes_file=sidecar)
    report = collection.index(photos, selection)
    assert (_outcomes(report), report.attributes_unused) == ({"indexed": 4}, 1)
    assert collection.image("odd/01.jpg").attributes == {"label": "sea"}
    sidecar.write_text("image_id,label\neven/00.jpg,sky\nodd/01.jpg,lake\n")
    assert _outcomes(collection.index(photos, selection)) == {"refreshed": 1, "unchanged": 3}
    assert collection.image("odd/01.jpg").attributes == {"label": "lake"}
    collection.index(photos)  # without a sidecar, what is known stays
    assert collection.image("odd/01.jpg").attributes == {"label": "lake"}


def test_include_and_exclude_choose_files(collection, photos):
    write_photos(photos, 6)
    (photos / "notes.txt").write_text("no image ending: not listed")
    selection = SourceSelection(include=["even/*"], exclude=["*/04.jpg"])
    assert collection.index(photos, selection).listed == 2
    assert collection.audit(photos, selection).clean
    audit = collection.audit(photos)
    assert not audit.clean
    assert audit.by_problem() == {"not_indexed": 4}


def test_the_audit_names_changed_files_and_images_whose_source_is_gone(collection, photos):
    keys = write_photos(photos, 4)
    collection.index(photos)
    (photos / keys[0]).write_bytes(jpeg(77))
    (photos / keys[1]).unlink()
    audit = collection.audit(photos)
    assert not audit.clean
    assert {finding.image_id: finding.problem for finding in audit.findings} == {
        keys[0]: "changed",
        keys[1]: "source_gone",
    }


def test_a_collection_keeps_its_model(collection, settings, photos, tmp_path):
    write_photos(photos, 2)
    collection.index(photos)
    other = settings.model_copy(update={"model": str(tmp_path / "another-checkpoint")})
    with ImageCollection(settings=other) as opened:
        assert _outcomes(opened.index(photos)) == {"unchanged": 2}  # the setting is for new collections
        with pytest.raises(ModelMismatch, match="another --collection"):
            opened.check_model(other.model)


def test_a_checkpoint_may_be_named_by_any_path_that_leads_to_it(settings, photos, tmp_path, monkeypatch):
    save_tiny_clip(tmp_path / "checkpoint")
    write_photos(photos, 2)
    monkeypatch.chdir(tmp_path)
    for path in ("checkpoint", str(tmp_path / "checkpoint")):
        with ImageCollection(settings=settings.model_copy(update={"model": path})) as collection:
            outcomes = _outcomes(collection.index(photos))
    assert outcomes == {"unchanged": 2}


def test_a_checkpoint_that_changed_under_its_name_is_refused(settings, photos, tmp_path):
    save_tiny_clip(tmp_path / "checkpoint", seed=1)
    write_photos(photos, 2)
    chosen = settings.model_copy(update={"model": str(tmp_path / "checkpoint")})
    with ImageCollection(settings=chosen) as collection:
        collection.index(photos)
    save_tiny_clip(tmp_path / "checkpoint", seed=2)
    with ImageCollection(settings=chosen) as collection, pytest.raises(ModelMismatch, match="restore that checkpoint"):
        collection.search(Query(image=photos / "odd" / "01.jpg"))


def test_an_empty_or_unknown_collection_says_what_to_do(collection, settings, tmp_path):
    with pytest.raises(InvalidQuery, match="visual-search index"):
        collection.search(Query(image_id="x"))
    with pytest.raises(UnknownCollection):
        ImageCollection("never-made", settings=settings, create=False)
    nowhere = settings.model_copy(update={"data_dir": tmp_path / "nowhere"})
    with pytest.raises(UnknownCollection, match="nothing is indexed"):
        ImageCollection(settings=nowhere, create=False)


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
    assert _outcomes(collection.index(photos)) == {"indexed": 40 - kept, "unchanged": kept}


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
    assert _outcomes(collection.index(photos)) == {"indexed": 40 - kept, "unchanged": kept}


def test_equal_content_is_embedded_once_also_while_its_commit_is_under_way(settings, photos, monkeypatch):
    """The first commit holds 12 different pictures; copies of 8 come while it has not ended."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # so that no more than 17 are decoded, or in the model, ahead of it
    keys = write_photos(photos, 32)
    for key in keys[:8]:
        shutil.copyfile(photos / key, photos / f"z-copy-of-{key.replace('/', '-')}")
    commit, settle, copies_seen = Catalog.commit, Outcomes.settle_by_content, threading.Event()

    def slow(catalog, generation_id, batch):
        assert copies_seen.wait(20)
        return commit(catalog, generation_id, batch)

    def watched(outcomes, chunk):
        fresh = settle(outcomes, chunk)
        if any(one.planned.item.image_id.startswith("z-copy") for one in chunk):
            copies_seen.set()
        return fresh

    monkeypatch.setattr(Catalog, "commit", slow)
    monkeypatch.setattr(Outcomes, "settle_by_content", watched)
    with ImageCollection(settings=settings.model_copy(update={"commit_images": 12})) as collection:
        assert _outcomes(collection.index(photos)) == {"indexed": 32, "reused": 8}
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
    assert _outcomes(collection.index(photos)) == {"indexed": 12}
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


def test_a_bucket_gives_the_same_vectors_as_a_folder(settings, photos, s3_bucket, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3_bucket.endpoint_url)
    keys = write_photos(photos, 5)
    for key in keys:
        s3_bucket.client.upload_file(str(photos / key), s3_bucket.name, f"holiday/{key}")
    with (
        ImageCollection("folder", settings=settings) as folder,
        ImageCollection("s3", settings=settings) as bucket,
    ):
        folder.index(photos)
        assert _outcomes(bucket.index(f"s3://{s3_bucket.name}/holiday")) == {"indexed": 5}
        assert _outcomes(bucket.index(f"s3://{s3_bucket.name}/holiday")) == {"unchanged": 5}
        assert bucket.audit(f"s3://{s3_bucket.name}/holiday").clean
        np.testing.assert_array_equal(
            folder.search_service.index.reconstruct_many(keys),
            bucket.search_service.index.reconstruct_many(keys),
        )
        assert bucket.reader().read(bucket.image(keys[0]).source_uri) == (photos / keys[0]).read_bytes()


class _RefusesBatches(EmbeddingService):
    """The real service on `baseline`, except that its model refuses a batch that holds one certain picture."""

    def __init__(self) -> None:
        super().__init__("baseline")
        self.guilty = self.prepare(jpeg(2)).pixels

    def embed_prepared(self, batch):
        if any(np.array_equal(pixels, self.guilty) for pixels in batch):
            raise ModelError("the vector is not finite")
        return super().embed_prepared(batch)


def test_an_image_that_the_model_refuses_fails_alone_and_its_batch_goes_on(collection, photos):
    write_photos(photos, 8)
    collection._service = _RefusesBatches()
    report = collection.index(photos)
    assert _outcomes(report) == {"indexed": 7, "failed": 1}
    (failure,) = collection.failures()
    assert (failure.image_id, failure.reason) == ("even/02.jpg", "model_error")


def test_the_audit_sees_an_index_that_disagrees_and_a_vector_that_is_missing(collection, photos):
    keys = write_photos(photos, 3)
    collection.index(photos)
    index = collection.search_service.index
    index.remove(keys[0])
    audit = collection.audit(photos)
    assert [(one.image_id, one.problem) for one in audit.findings] == [(keys[0], "index_mismatch")]
    changed = ImageMetadata.model_validate(collection.image(keys[1]).model_dump() | {"sha256": "0" * 64})
    collection.catalog.commit(collection.generation.id, IndexBatch(refreshed=[changed]))
    problems = {one.image_id: one.problem for one in collection.audit(photos).findings}
    assert problems[keys[1]] == "vector_missing"


def test_the_audit_knows_files_by_their_address_not_by_their_id(collection, photos):
    write_photos(photos, 4)
    collection.index(photos)
    collection.index(photos, SourceSelection(id_prefix="p/"))
    audit = collection.audit(photos)
    assert audit.clean, audit.findings
    wrong_prefix = collection.audit(photos, SourceSelection(id_prefix="q/"))
    assert wrong_prefix.by_problem() == {"not_indexed": 4}
    part = collection.audit(photos / "even")
    assert "source_gone" not in part.by_problem()


def test_a_good_file_in_place_of_a_bad_one_is_not_clean_until_it_is_indexed(collection, photos):
    (photos / "new.jpg").write_bytes(b"junk")
    collection.index(photos)
    (photos / "new.jpg").write_bytes(jpeg(5))
    audit = collection.audit(photos)
    assert not audit.clean
    assert audit.by_problem() == {"changed": 1}


def test_a_failure_ends_when_the_former_file_is_back(collection, photos):
    write_photos(photos, 2)
    original = photos / "even" / "00.jpg"
    data, times = original.read_bytes(), (original.stat().st_atime_ns, original.stat().st_mtime_ns)
    collection.index(photos)
    original.write_bytes(b"junk")
    assert collection.index(photos).failed == 1
    original.write_bytes(data)
    os.utime(original, ns=times)
    assert _outcomes(collection.index(photos)) == {"refreshed": 1, "unchanged": 1}
    assert collection.failures() == []


def test_a_retry_while_the_disk_is_not_there_forgets_nothing(collection, photos):
    write_photos(photos, 1)
    (photos / "bad.jpg").write_bytes(b"junk")
    collection.index(photos)
    photos.rename(photos.with_name("unplugged"))
    report = collection.retry_failures()
    assert (report.retried, report.failed) == (1, 1)
    assert [failure.image_id for failure in collection.failures()] == ["bad.jpg"]


def test_a_failure_keeps_the_attributes_of_the_sidecar(collection, photos, tmp_path):
    (photos / "bad.jpg").write_bytes(b"junk")
    (photos / "worse.jpg").write_bytes(b"junk")
    sidecar = tmp_path / "labels.csv"
    sidecar.write_text("image_id, label\nbad.jpg, cat\nworse.jpg, dog\nnobody.jpg, bird\n")
    collection.index(photos, SourceSelection(attributes_file=str(sidecar)))
    collection.retry_failures()  # fails again: they stay
    (photos / "bad.jpg").write_bytes(jpeg(5))
    assert collection.retry_failures().indexed == 1
    assert collection.image("bad.jpg").attributes == {"label": "cat"}
    (photos / "worse.jpg").write_bytes(jpeg(6))
    sidecar.write_text("image_id, label\nnobody.jpg, bird\n")
    report = collection.index(photos, SourceSelection(attributes_file=str(sidecar)))
    assert (report.indexed, report.attributes_unused) == (1, 1)
    assert collection.image("worse.jpg").attributes == {"label": "dog"}


def test_a_retry_takes_attributes_from_the_sidecar(collection, photos, tmp_path):
    (photos / "bad.jpg").write_bytes(b"junk")
    sidecar = tmp_path / "labels.csv"
    sidecar.write_text("image_id, label\nbad.jpg, cat\n")
    collection.index(photos, SourceSelection(attributes_file=str(sidecar)))
    (photos / "bad.jpg").write_bytes(jpeg(5))
    collection.retry_failures(attributes_file=sidecar)
    assert collection.image("bad.jpg").attributes == {"label": "cat"}


def test_the_same_content_in_two_folders_is_no_move_while_both_are_there(collection, photos, tmp_path):
    write_photos(photos, 2)
    shutil.copytree(photos, tmp_path / "copy")
    collection.index(photos)
    report = collection.index(tmp_path / "copy")
    assert report.failures_by_reason == {"id_taken": 2}
    assert _outcomes(collection.index(photos)) == {"refreshed": 2}  # looked at again, for their ids had failures
    assert collection.audit(photos).clean


@pytest.mark.skipif(os.name == "nt", reason="permissions are POSIX ones here")
def test_a_folder_that_may_not_be_read_is_a_failure_and_the_others_are_indexed(collection, photos, monkeypatch):
    write_photos(photos, 4)
    (photos / "lost+found").mkdir()
    close_folder(monkeypatch, "lost+found")
    report = collection.index(photos)
    assert _outcomes(report) == {"indexed": 4, "failed": 1}
    assert [(failure.image_id, failure.reason) for failure in collection.failures()] == [
        ("lost+found/", "access_denied")
    ]
    assert collection.audit(photos).by_problem() == {"failed": 1}
    assert collection.retry_failures().folders == 1
    without = SourceSelection(exclude=["lost+found/*"])
    assert _outcomes(collection.index(photos, without)) == {"unchanged": 4}
    assert len(collection.failures()) == 1  # that run did not look there
    monkeypatch.undo()
    assert _outcomes(collection.index(photos)) == {"unchanged": 4}
    assert collection.failures() == []


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege there")
def test_links_that_cannot_be_followed_are_failures_until_they_are_gone(collection, photos, tmp_path):
    write_photos(photos, 2)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "x.jpg").write_bytes(jpeg(9))
    (photos / "album").symlink_to(tmp_path / "elsewhere")  # sorts before album-2.jpg, its id with a slash behind it
    (photos / "album-2.jpg").write_bytes(jpeg(8))
    (photos / "out.jpg").symlink_to(tmp_path / "elsewhere" / "x.jpg")
    (photos / "broken.jpg").symlink_to("nothing.jpg")
    (photos / "notes.txt").symlink_to(tmp_path / "elsewhere" / "x.jpg")  # no image by its name
    (photos / "inside.jpg").symlink_to("album-2.jpg")
    left_out = ["album/", "broken.jpg", "out.jpg"]
    collection.index(photos, SourceSelection(include=["even/*"]))
    assert collection.audit(photos).by_problem() == {"not_indexed": 3 + 3}
    report = collection.index(photos)
    assert report.failures_by_reason == {"left_out": 3}
    assert [(one.image_id, one.reason) for one in collection.failures()] == [(one, "left_out") for one in left_out]
    audit = collection.audit(photos)
    assert [(one.image_id, one.problem) for one in audit.findings] == [(one, "failed") for one in left_out]
    assert audit.clean
    assert collection.retry_failures().retried == 0  # by its address alone the link could be followed
    assert [one.image_id for one in collection.failures()] == left_out
    for name in ("album", "out.jpg", "broken.jpg"):
        (photos / name).unlink()
    assert _outcomes(collection.index(photos)) == {"unchanged": 4}
    assert collection.failures() == []


def test_an_audit_advises_no_deletion_of_what_is_in_a_folder_that_may_not_be_read(collection, photos, monkeypatch):
    (photos / "a + ü").mkdir(parents=True)
    (photos / "a + ü" / "1.jpg").write_bytes(jpeg(1))
    (photos / "2.jpg").write_bytes(jpeg(2))
    collection.index(photos)
    close_folder(monkeypatch, "a + ü")
    assert collection.audit(photos).by_problem() == {"not_indexed": 1}
    assert collection.index(photos).failures_by_reason == {"access_denied": 1}
    assert collection.audit(photos).by_problem() == {"failed": 1}


def test_one_attribute_that_changes_its_type_is_noticed_and_absent_ones_are_not(collection, photos, tmp_path):
    write_photos(photos, 1)
    sidecar = tmp_path / "a.jsonl"
    selection = SourceSelection(attributes_file=sidecar)
    outcomes = []
    for value in ('1, "none": null', '1, "none": []', "true", "true"):
        sidecar.write_text(f'{{"image_id": "even/00.jpg", "flag": {value}}}\n')
        outcomes.append(_outcomes(collection.index(photos, selection)))
    assert outcomes == [{"indexed": 1}, {"unchanged": 1}, {"refreshed": 1}, {"unchanged": 1}]


def test_a_collection_object_never_mixes_models_when_another_process_switches(collection, photos, tmp_path):
    write_photos(photos, 3)
    assert collection.embedding_service.identity.name == "baseline"  # loaded while the collection is empty
    save_tiny_clip(tmp_path / "checkpoint")
    chosen = collection.settings.model_copy(update={"model": str(tmp_path / "checkpoint")})
    with ImageCollection(settings=chosen) as other:
        other.index(photos)
    (photos / "new.jpg").write_bytes(jpeg(60))
    assert collection.index(photos).indexed == 1
    assert collection.search(Query(image=photos / "new.jpg")).results[0].image_id == "new.jpg"
    assert collection.embedding_service.identity.name == str(tmp_path / "checkpoint")
