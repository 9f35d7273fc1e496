"""Indexing a folder (and a bucket) into a collection: every image once, and what changed told apart."""

import os
import shutil

import numpy as np
import pytest
from pictures import jpeg, write_photos
from run_outcomes import outcomes_of

from pipeline.indexing.selection import SourceSelection
from storage.errors import (
    UnknownImageId,
)
from visual_search.collection import ImageCollection, Query


def test_every_image_of_a_folder_is_indexed_and_found_by_itself(collection, photos):
    keys = write_photos(photos, 13)
    report = collection.index(photos)
    assert (report.listed, outcomes_of(report)) == (13, {"indexed": 13})
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
        assert outcomes_of(report) == {"unchanged": 7}
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
    assert outcomes_of(report) == {"indexed": 2, "refreshed": 1, "unchanged": 4}
    assert not np.allclose(collection.search_service.index.reconstruct("odd/01.jpg"), before)
    assert len(collection.search_service.index) == 7


def test_equal_content_under_other_names_is_embedded_once(collection, photos):
    write_photos(photos, 5)
    for number in range(9):
        shutil.copyfile(photos / "even" / "00.jpg", photos / f"copy-{number}.jpg")
    report = collection.index(photos)
    assert outcomes_of(report) == {"indexed": 5, "reused": 9}
    shutil.copyfile(photos / "odd" / "01.jpg", photos / "later-copy.jpg")
    assert outcomes_of(collection.index(photos)) == {"reused": 1, "unchanged": 14}
    copy = collection.image("later-copy.jpg")
    original = collection.image("odd/01.jpg")
    assert (copy.sha256, copy.width, copy.format) == (original.sha256, original.width, original.format)


def test_a_deleted_image_is_not_found_and_stays_deleted_until_it_is_asked_back(collection, photos):
    keys = write_photos(photos, 4)
    collection.index(photos)
    assert collection.delete_images([keys[0]]) == 1
    assert keys[0] not in collection.search(Query(image_id=keys[1])).image_ids
    assert outcomes_of(collection.index(photos)) == {"deleted": 1, "unchanged": 3}
    audit = collection.audit(photos)
    assert audit.clean
    assert audit.by_problem() == {"deleted": 1}
    with pytest.raises(UnknownImageId):
        collection.image(keys[0])
    assert outcomes_of(collection.index(photos, restore_deleted=True)) == {"indexed": 1, "unchanged": 3}
    assert collection.image(keys[0]).image_id == keys[0]


def test_two_sources_that_claim_one_id_do_not_overwrite_each_other(collection, photos, tmp_path):
    write_photos(photos, 2)
    other = tmp_path / "other"
    write_photos(other, 2, first_seed=50)
    collection.index(photos)
    report = collection.index(other)
    assert report.failures_by_reason == {"id_taken": 2}
    assert collection.image("even/00.jpg").source_uri == (photos / "even" / "00.jpg").resolve().as_uri()
    assert outcomes_of(collection.index(other, SourceSelection(id_prefix="other/"))) == {"indexed": 2}
    assert collection.audit(photos).clean
    assert collection.audit(other, SourceSelection(id_prefix="other/")).clean


def test_a_moved_folder_is_recognised_by_its_content(collection, photos, tmp_path):
    write_photos(photos, 3)
    collection.index(photos)
    moved = tmp_path / "moved"
    photos.rename(moved)
    assert outcomes_of(collection.index(moved)) == {"refreshed": 3}
    assert collection.image("odd/01.jpg").source_uri == (moved / "odd" / "01.jpg").resolve().as_uri()
    assert collection.audit(moved).clean


def test_include_and_exclude_choose_files(collection, photos):
    write_photos(photos, 6)
    (photos / "notes.txt").write_text("no image ending: not listed")
    selection = SourceSelection(include=["even/*"], exclude=["*/04.jpg"])
    assert collection.index(photos, selection).listed == 2
    assert collection.audit(photos, selection).clean
    audit = collection.audit(photos)
    assert not audit.clean
    assert audit.by_problem() == {"not_indexed": 4}


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
        assert outcomes_of(bucket.index(f"s3://{s3_bucket.name}/holiday")) == {"indexed": 5}
        assert outcomes_of(bucket.index(f"s3://{s3_bucket.name}/holiday")) == {"unchanged": 5}
        assert bucket.audit(f"s3://{s3_bucket.name}/holiday").clean
        np.testing.assert_array_equal(
            folder.search_service.index.reconstruct_many(keys),
            bucket.search_service.index.reconstruct_many(keys),
        )
        assert bucket.reader().read(bucket.image(keys[0]).source_uri) == (photos / keys[0]).read_bytes()


def test_the_same_content_in_two_folders_is_no_move_while_both_are_there(collection, photos, tmp_path):
    write_photos(photos, 2)
    shutil.copytree(photos, tmp_path / "copy")
    collection.index(photos)
    report = collection.index(tmp_path / "copy")
    assert report.failures_by_reason == {"id_taken": 2}
    assert outcomes_of(collection.index(photos)) == {"refreshed": 2}  # looked at again, for their ids had failures
    assert collection.audit(photos).clean
