"""Files that cannot be read or are gone: what a mirror removes, and what it keeps."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from closed_folders import close_folder
from pictures import jpeg, write_photos
from submitted_work import ids_of, work_off

from pipeline.indexing.selection import SourceSelection
from storage.images.local import LocalStorage
from workers.job_client import JobClient


class TestWhatCannotBeRead:
    """A folder that is closed, a link that leads out: they fail alone, and the rest is indexed."""

    @staticmethod
    def failures(client: JobClient) -> dict[str, str]:
        collection = client.catalog.collections.get("default")
        return {failure.image_id: failure.reason for failure in client.catalog.failures.list(collection.id)}

    def test_it_fails_alone_until_it_can_be_read(
        self, client: JobClient, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (photos / "album").symlink_to(tmp_path)
        (photos / "album-2.jpg").write_bytes(jpeg(8))
        (photos / "zoo").mkdir()
        close_folder(monkeypatch, "zoo")
        progress = client.submit(photos, SourceSelection(id_prefix="p/"))
        images = len(list(LocalStorage(photos / "even").list())) + len(list(LocalStorage(photos / "odd").list())) + 1
        assert (progress.listed, progress.failed, progress.pending) == (images + 2, 2, images)
        assert self.failures(client) == {"p/album/": "left_out", "p/zoo/": "access_denied"}
        assert list(client.retry_failed()) == []  # their source has to be listed again
        work_off(client.catalog)
        assert client.get(progress.job.id).job.state == "finished"
        monkeypatch.undo()
        (photos / "album").unlink()
        assert client.submit(photos, SourceSelection(id_prefix="p/")).unchanged == images
        assert self.failures(client) == {}

    def test_a_mirror_keeps_what_may_be_in_a_closed_folder(
        self, client: JobClient, photos: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        client.submit(photos, mirror=True)
        work_off(client.catalog)
        (photos / "odd" / "01.jpg").unlink()
        close_folder(monkeypatch, "even")
        assert client.submit(photos, mirror=True).removed == 1
        assert "even/00.jpg" in ids_of(client)


class TestMirror:
    def test_what_is_gone_is_removed_and_indexed_again_when_it_returns(self, client: JobClient, photos: Path) -> None:
        client.submit(photos)
        work_off(client.catalog)
        (photos / "even" / "00.jpg").rename(photos / "kept.bin")
        (photos / "odd" / "09.jpg").unlink()
        assert client.submit(photos).removed == 0
        progress = client.submit(photos, mirror=True)
        assert (progress.job.state, progress.removed, progress.unchanged) == ("finished", 2, 8)
        assert ids_of(client).isdisjoint({"even/00.jpg", "odd/09.jpg"})
        (photos / "kept.bin").rename(photos / "even" / "00.jpg")
        client.submit(photos, mirror=True)
        work_off(client.catalog)
        assert "even/00.jpg" in ids_of(client)

    def test_what_its_user_deleted_stays_deleted(self, client: JobClient, photos: Path) -> None:
        client.submit(photos)
        work_off(client.catalog)
        client.catalog.images.delete(client.catalog.collections.get("default").id, ["even/00.jpg"])
        assert client.submit(photos, mirror=True).deleted == 1
        assert work_off(client.catalog) == 0

    def test_other_sources_other_prefixes_and_unselected_files_stay(
        self, client: JobClient, photos: Path, tmp_path: Path
    ) -> None:
        write_photos(tmp_path / "others", 2, first_seed=50)
        client.submit(tmp_path / "others", SourceSelection(id_prefix="others/"))
        client.submit(photos, SourceSelection(id_prefix="again/"))
        client.submit(photos)
        work_off(client.catalog)
        before = ids_of(client)
        (photos / "even" / "00.jpg").unlink()
        (photos / "odd" / "01.jpg").unlink()
        progress = client.submit(photos, SourceSelection(include=("even/*",)), mirror=True)
        assert progress.removed == 1
        assert before - ids_of(client) == {"even/00.jpg"}
        progress = client.submit(photos, SourceSelection(id_prefix="again/"), mirror=True)
        assert progress.removed == 2
        assert before - ids_of(client) == {"even/00.jpg", "again/even/00.jpg", "again/odd/01.jpg"}

    def test_a_source_that_lists_nothing_removes_nothing(
        self, client: JobClient, photos: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        client.submit(photos)
        work_off(client.catalog)
        for path in photos.iterdir():
            shutil.rmtree(path)
        assert client.submit(photos, mirror=True).removed == 0
        assert "nothing is removed" in caplog.text
        assert len(ids_of(client)) == 10
