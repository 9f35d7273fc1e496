"""Failed images are queued once more, with their attributes and across stores."""

from __future__ import annotations

from pathlib import Path

from pictures import jpeg
from submitted_work import ids_of, work_off

from pipeline.indexing.selection import SourceSelection
from workers.job_client import JobClient


class TestRetry:
    @staticmethod
    def failures(client: JobClient) -> dict[str, str]:
        collection = client.catalog.collections.get("default")
        return {failure.image_id: failure.reason for failure in client.catalog.failures.list(collection.id)}

    def test_mended_images_are_indexed_and_gone_ones_keep_a_reason(self, client: JobClient, photos: Path) -> None:
        (photos / "broken.jpg").write_bytes(b"no picture")
        (photos / "gone.jpg").write_bytes(b"no picture either")
        job = client.submit(photos).job.id
        work_off(client.catalog)
        assert client.get(job).failed == 2
        (photos / "broken.jpg").write_bytes(jpeg(5))
        (photos / "gone.jpg").unlink()  # or its disk is not mounted
        [progress] = client.retry_failed(job)
        assert (progress.job.kind, progress.listed) == ("retry", 2)
        assert client.retry_failed()[0].job.id == progress.job.id  # the same images in the same state: the same job
        work_off(client.catalog)
        assert self.failures(client) == {"gone.jpg": "not_found"}
        assert "broken.jpg" in ids_of(client)
        (photos / "gone.jpg").write_bytes(jpeg(6))
        client.retry_failed()
        work_off(client.catalog)
        assert self.failures(client) == {}
        assert list(client.retry_failed()) == []

    def test_attributes_of_the_sidecar_are_still_known(self, client: JobClient, photos: Path, tmp_path: Path) -> None:
        (photos / "broken.jpg").write_bytes(b"no picture")
        (tmp_path / "labels.csv").write_text("image_id,label,year\nbroken.jpg,cat,2020\n")
        client.submit(photos, SourceSelection(attributes_file=str(tmp_path / "labels.csv")))
        work_off(client.catalog)
        client.retry_failed()  # nothing is mended yet: it fails again, and keeps them
        work_off(client.catalog)
        (photos / "broken.jpg").write_bytes(jpeg(5))
        client.retry_failed()
        work_off(client.catalog)
        image = client.catalog.images.get(client.catalog.collections.get("default").id, "broken.jpg")
        assert image.attributes == {"label": "cat", "year": 2020}

    def test_images_of_several_stores_and_lines_that_name_none_are_one_job(
        self, client: JobClient, photos: Path, tmp_path: Path
    ) -> None:
        (photos / "broken.jpg").write_bytes(b"no picture")
        (tmp_path / "list.txt").write_text(f"{photos}/broken.jpg\nftp://nowhere/a.jpg\ns3://nobody-has-this/x.jpg\n")
        client.submit_list(tmp_path / "list.txt", photos)
        work_off(client.catalog)
        before = self.failures(client)
        assert len(before) == 3
        (photos / "broken.jpg").write_bytes(jpeg(5))
        [progress] = client.retry_failed()
        assert progress.listed == 3
        work_off(client.catalog)
        assert self.failures(client).keys() == before.keys() - {"broken.jpg"}

    def test_only_images_of_the_named_job(self, client: JobClient, photos: Path, tmp_path: Path) -> None:
        (photos / "broken.jpg").write_bytes(b"no picture")
        other = tmp_path / "other"
        other.mkdir()
        (other / "bad.jpg").write_bytes(b"no picture")
        client.submit(photos)
        second = client.submit(other).job.id
        work_off(client.catalog)
        [progress] = client.retry_failed(second)
        assert set(client.catalog.batches.image_ids(progress.job.id)) == {"bad.jpg"}

    def test_lines_that_failed_when_their_list_was_read_belong_to_its_job(
        self, client: JobClient, photos: Path, tmp_path: Path
    ) -> None:
        (photos / "broken.jpg").write_bytes(b"no picture")
        client.submit(photos)
        (tmp_path / "list.txt").write_text("even/00.jpg\nlater.jpg\nodd/01.jpg\nftp://nowhere/a.jpg\n")
        job = client.submit_list(tmp_path / "list.txt", photos).job.id
        work_off(client.catalog)
        assert (client.get(job).failed, client.get(job).job.state) == (2, "finished")
        assert set(client.catalog.batches.image_ids(job)) >= {"later.jpg", "ftp://nowhere/a.jpg"}
        (photos / "later.jpg").write_bytes(jpeg(7))
        [progress] = client.retry_failed(job)
        assert set(client.catalog.batches.image_ids(progress.job.id)) == {"later.jpg", "ftp://nowhere/a.jpg"}
        work_off(client.catalog)
        assert "later.jpg" in ids_of(client)
        assert self.failures(client).keys() == {"broken.jpg", "ftp://nowhere/a.jpg"}

    def test_a_collection_where_nothing_was_indexed_has_nothing_to_retry(self, client: JobClient) -> None:
        client.catalog.collections.ensure("empty")
        assert list(client.retry_failed(collection="empty")) == []
