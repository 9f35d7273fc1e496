"""Images, folders and links that cannot be read fail alone, with a reason, until they are mended."""

import os

import numpy as np
import pytest
from closed_folders import close_folder
from pictures import jpeg, write_photos
from run_outcomes import outcomes_of

from pipeline.embedding_service import EmbeddingService
from pipeline.errors import ModelError
from pipeline.indexing.selection import SourceSelection


def test_one_bad_image_is_recorded_with_its_reason_and_harms_nothing_else(collection, photos):
    write_photos(photos, 6)
    (photos / "broken.jpg").write_bytes(jpeg(1)[:400])
    (photos / "notes.png").write_text("not a picture")
    (photos / "empty.jpg").touch()
    report = collection.index(photos)
    assert outcomes_of(report) == {"indexed": 6, "failed": 3}
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
    assert outcomes_of(report) == {"indexed": 3, "failed": 1}
    assert report.failures_by_reason == {"invalid_id": 1}
    assert collection.audit(photos).clean


def test_equal_broken_files_each_have_their_own_failure(collection, photos):
    for name in ("a", "b", "c"):
        (photos / f"{name}.jpg").write_bytes(jpeg(1)[:400])
    assert outcomes_of(collection.index(photos)) == {"failed": 3}
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
    assert outcomes_of(report) == {"indexed": 7, "failed": 1}
    (failure,) = collection.failures()
    assert (failure.image_id, failure.reason) == ("even/02.jpg", "model_error")


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
    assert outcomes_of(collection.index(photos)) == {"refreshed": 1, "unchanged": 1}
    assert collection.failures() == []


def test_a_retry_while_the_disk_is_not_there_forgets_nothing(collection, photos):
    write_photos(photos, 1)
    (photos / "bad.jpg").write_bytes(b"junk")
    collection.index(photos)
    photos.rename(photos.with_name("unplugged"))
    report = collection.retry_failures()
    assert (report.retried, report.failed) == (1, 1)
    assert [failure.image_id for failure in collection.failures()] == ["bad.jpg"]


@pytest.mark.skipif(os.name == "nt", reason="permissions are POSIX ones here")
def test_a_folder_that_may_not_be_read_is_a_failure_and_the_others_are_indexed(collection, photos, monkeypatch):
    write_photos(photos, 4)
    (photos / "lost+found").mkdir()
    close_folder(monkeypatch, "lost+found")
    report = collection.index(photos)
    assert outcomes_of(report) == {"indexed": 4, "failed": 1}
    assert [(failure.image_id, failure.reason) for failure in collection.failures()] == [
        ("lost+found/", "access_denied")
    ]
    assert collection.audit(photos).by_problem() == {"failed": 1}
    assert collection.retry_failures().folders == 1
    without = SourceSelection(exclude=["lost+found/*"])
    assert outcomes_of(collection.index(photos, without)) == {"unchanged": 4}
    assert len(collection.failures()) == 1  # that run did not look there
    monkeypatch.undo()
    assert outcomes_of(collection.index(photos)) == {"unchanged": 4}
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
    assert outcomes_of(collection.index(photos)) == {"unchanged": 4}
    assert collection.failures() == []
