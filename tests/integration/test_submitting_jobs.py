"""Submitting from Python: SQL first, nothing twice, broken-off listings taken up, mirrors, uploads, retries."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from closed_folders import close_folder
from pictures import jpeg, write_photos
from pydantic import SecretStr

from pipeline.embedding_service import EmbeddingService
from pipeline.indexing.context import IndexingContext, IndexOptions
from pipeline.indexing.run import index_items
from pipeline.indexing.selection import SourceSelection
from pipeline.indexing.source import SourceItem
from storage.catalog import BatchResult, Catalog, IndexBatch, JobOptions, JobRequest
from storage.errors import CatalogUnavailable, InvalidKey, ModelMismatch, StorageError, UnknownJob
from storage.images.backend import StoredObject
from storage.images.local import LocalStorage
from storage.images.locate import ImageReader, open_source
from storage.settings import Settings
from workers.embed_batches import merged
from workers.job_client import JobClient
from workers.planner import Planner
from workers.submit import generation_for

ROOT = Path(__file__).parents[2]


@pytest.fixture(params=["sqlite", "postgresql"])
def settings(request: pytest.FixtureRequest, tmp_path: Path, redis_url: str) -> Settings:
    """The baseline model, a real Valkey, and each database."""
    database = SecretStr(request.getfixturevalue("postgres_url")) if request.param == "postgresql" else None
    return Settings(
        data_dir=tmp_path / "home",
        model="baseline",
        redis_url=SecretStr(redis_url),
        database_url=database,
        batch_images=4,
    )


@pytest.fixture
def client(settings: Settings) -> Iterator[JobClient]:
    with JobClient(settings) as opened:
        yield opened


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with ten pictures."""
    folder = tmp_path / "photos"
    write_photos(folder, 10)
    return folder


def work_off(catalog: Catalog) -> int:
    """Do everything that waits, as workers and aggregator do; return how many batches that were."""
    done = 0
    while named := catalog.batches.sweep(resend_seconds=0).to_send:
        for unsent in named:
            leased = catalog.batches.lease(unsent.batch_id, "test", 60)
            assert leased is not None
            parts: list[IndexBatch] = []
            service = EmbeddingService("baseline")
            options = IndexOptions(commit_images=1000, restore_deleted=leased.restore_deleted)
            context = IndexingContext(catalog, leased.generation, lambda s=service: s, options, sink=parts.append)
            items = [
                SourceItem(one.image_id, StoredObject(one.key, one.uri, one.etag, one.size_bytes, 0), one.attributes)
                for one in leased.items
            ]
            reader = ImageReader() if leased.by_address else open_source(leased.source)
            report = index_items(context, reader, items)
            counts = {name: number for name, number in report.counts().items() if name != "listed"}
            result = BatchResult(leased.id, leased.generation.id, merged(parts), counts)
            assert catalog.commit_results(None, [result]) == [True]
            done += 1
    return done


def ids_of(client: JobClient) -> set[str]:
    collection = client.catalog.collections.get("default")
    return {image.image_id for image in client.catalog.images.list(collection.id)}


def queued(redis_url: str) -> int:
    """How many messages wait for workers, whatever their priority."""
    import redis

    with redis.Redis.from_url(redis_url, protocol=2) as connection:
        return sum(connection.llen(key) for key in connection.scan_iter("embed*"))


def request_for(client: JobClient, source: str) -> JobRequest:
    """The request that the client makes for a source."""
    generation = generation_for(client.catalog, "default", client.settings)
    return JobRequest(generation.collection_id, generation.id, "index", source, JobOptions())


def test_a_submitted_folder_is_in_sql_and_in_the_queue(client: JobClient, photos: Path, redis_url: str) -> None:
    progress = client.submit(photos)
    assert (progress.job.state, progress.listed, progress.pending, progress.batches_left) == ("running", 10, 10, 3)
    assert progress.job.source == LocalStorage(photos).uri("")
    assert queued(redis_url) == 3
    assert client.catalog.batches.sweep().to_send == []  # they are noted as sent
    assert work_off(client.catalog) == 3
    progress = client.get(progress.job.id)
    assert (progress.job.state, progress.indexed, progress.pending, progress.is_over) == ("finished", 10, 0, True)
    assert len(ids_of(client)) == 10


def test_submitting_the_same_twice_makes_no_second_work(client: JobClient, photos: Path, redis_url: str) -> None:
    first = client.submit(photos)
    again = client.submit(photos)
    assert (again.job.id, again.listed) == (first.job.id, 10)
    assert queued(redis_url) == 3
    work_off(client.catalog)
    later = client.submit(photos)
    assert later.job.id != first.job.id
    assert (later.job.state, later.unchanged, later.batches_left) == ("finished", 10, 0)
    assert queued(redis_url) == 3


def test_a_submit_beside_its_running_job_says_that_later_files_wait(
    client: JobClient, photos: Path, caplog: pytest.LogCaptureFixture
) -> None:
    job = client.submit(photos).job.id
    (photos / "late.jpg").write_bytes(jpeg(77))
    with caplog.at_level(logging.WARNING):
        assert client.submit(photos).job.id == job
    assert f"job {job} does this already" in caplog.text
    assert "submit again when it is over" in caplog.text
    work_off(client.catalog)
    assert client.submit(photos).pending == 1


def test_without_redis_the_job_is_complete_and_the_sweeper_sends_it(
    settings: Settings, photos: Path, caplog: pytest.LogCaptureFixture
) -> None:
    away = settings.model_copy(update={"redis_url": SecretStr("redis://:geheim@127.0.0.1:1/0")})
    with caplog.at_level(logging.WARNING), JobClient(away) as client:
        progress = client.submit(photos)
        assert (progress.job.state, progress.pending) == ("running", 10)
        assert len(client.catalog.batches.sweep().to_send) == 3
    assert len([record for record in caplog.records if "the sweeper will" in record.message]) == 1
    assert "geheim" not in caplog.text


def test_only_what_needs_its_content_becomes_work(client: JobClient, photos: Path, tmp_path: Path) -> None:
    client.submit(photos)
    work_off(client.catalog)
    (photos / "even" / "00.jpg").write_bytes(jpeg(77))
    (photos / "new.jpg").write_bytes(jpeg(78))
    client.catalog.images.delete(client.catalog.collections.get("default").id, ["even/02.jpg"])
    sidecar = tmp_path / "attributes.csv"
    sidecar.write_text("image_id,label\neven/04.jpg,cat\nnew.jpg,dog\n")
    progress = client.submit(photos, SourceSelection(attributes_file=sidecar))
    assert (progress.listed, progress.refreshed, progress.deleted, progress.unchanged) == (11, 1, 1, 7)
    assert (progress.pending, progress.batches_left) == (2, 1)
    work_off(client.catalog)
    collection = client.catalog.collections.get("default").id
    assert client.catalog.images.get(collection, "even/04.jpg").attributes == {"label": "cat"}
    assert client.catalog.images.get(collection, "new.jpg").attributes == {"label": "dog"}
    assert "even/02.jpg" not in ids_of(client)
    client.submit(photos, restore_deleted=True)
    work_off(client.catalog)
    assert "even/02.jpg" in ids_of(client)


def test_priority_and_batch_size_reach_the_job(client: JobClient, photos: Path) -> None:
    progress = client.submit(photos, batch_images=10, priority=9)
    assert (progress.batches_left, progress.job.priority) == (1, 9)
    [unsent] = client.catalog.batches.sweep(resend_seconds=0).to_send
    assert unsent.priority == 9


def test_a_source_that_is_not_there_leaves_no_job(client: JobClient, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="no folder"):
        client.submit(tmp_path / "nowhere")
    assert client.list() == []


def test_a_source_that_goes_away_before_it_is_listed_leaves_a_failed_job(client: JobClient, photos: Path) -> None:
    generation = generation_for(client.catalog, "default", client.settings)
    store = LocalStorage(photos)
    shutil.rmtree(photos)
    placed = ((stored.key, SourceItem(stored.key, stored)) for stored in store.list())
    with pytest.raises(StorageError, match="gone"):
        client._submission.placed(request_for(client, store.uri("")), generation, placed)
    assert client.list()[0].job.state == "failed"


def test_an_s3_prefix_is_submitted_the_same_way(client: JobClient, s3_bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3_bucket.endpoint_url)
    for number in range(5):
        s3_bucket.client.put_object(Bucket=s3_bucket.name, Key=f"in/{number}.jpg", Body=jpeg(number))
    progress = client.submit(f"s3://{s3_bucket.name}/in")
    assert (progress.listed, progress.batches_left) == (5, 2)
    work_off(client.catalog)
    assert client.get(progress.job.id).indexed == 5
    assert client.submit(f"s3://{s3_bucket.name}/in").unchanged == 5


class TestBrokenOffListing:
    """A listing of 9,000 references that exist on no disk: what is listed is all that counts here."""

    NAMES = tuple(f"{number:05}.jpg" for number in range(9000))

    def items(self) -> Iterator[SourceItem]:
        for name in self.NAMES:
            yield SourceItem(name, StoredObject(name, f"file:///photos/{name}", "e", 1, 0.0))

    def planner(self, client: JobClient) -> Planner:
        generation = generation_for(client.catalog, "default", client.settings)
        job, _ = client.catalog.jobs.open(request_for(client, "file:///photos/"))
        return Planner(client.catalog, generation, job, list)

    def test_the_same_request_goes_on_behind_the_last_page(self, client: JobClient) -> None:
        def broken_off() -> Iterator[SourceItem]:
            for number, item in enumerate(self.items()):
                if number == 5000:
                    raise KeyboardInterrupt
                yield item

        with pytest.raises(KeyboardInterrupt):
            self.planner(client).add(broken_off())
        job = client.list()[0].job
        assert (job.state, job.counts["listed"], job.listed_until) == ("listing", 4096, "04095.jpg")
        self.planner(client).add(self.items())
        progress = client.list()[0]
        assert (progress.job.id, progress.listed) == (job.id, 9000)
        assert sorted(client.catalog.batches.image_ids(job.id)) == list(self.NAMES)

    def test_of_two_that_list_at_once_one_stops(self, client: JobClient, caplog: pytest.LogCaptureFixture) -> None:
        overtaken = False

        def slow() -> Iterator[SourceItem]:
            nonlocal overtaken
            for number, item in enumerate(self.items()):
                if number == 5000 and not overtaken:
                    overtaken = True
                    self.planner(client).add(self.items())  # the same command, started a second time
                yield item

        generation = generation_for(client.catalog, "default", client.settings)
        with caplog.at_level(logging.WARNING):
            placed = ((item.stored.key, item) for item in slow())
            progress = client._submission.placed(request_for(client, "file:///photos/"), generation, placed)
        assert "listed by another process" in caplog.text
        assert progress.listed == 9000
        assert sorted(client.catalog.batches.image_ids(progress.job.id)) == list(self.NAMES)


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

    def test_a_collection_where_nothing_was_indexed_has_nothing_to_retry(self, client: JobClient) -> None:
        client.catalog.collections.ensure("empty")
        assert list(client.retry_failed(collection="empty")) == []


def test_a_collection_keeps_its_model(client: JobClient, photos: Path) -> None:
    client.submit(photos)
    client.settings = client.settings.model_copy(update={"model": "openai/clip-vit-base-patch32"})
    with pytest.raises(ModelMismatch, match="baseline"):
        client.submit(photos, SourceSelection(id_prefix="x/"))


def test_watching_ends_when_nothing_more_will_come(client: JobClient, photos: Path) -> None:
    job = client.submit(photos).job.id
    worker = threading.Timer(0.05, work_off, [client.catalog])
    worker.start()
    looks = list(client.watch(job, seconds=0.02))
    worker.join()
    assert looks[0].pending == 10
    assert looks[-1].indexed == 10
    with pytest.raises(UnknownJob):
        next(client.watch(99))


def test_a_cancelled_job_is_over(client: JobClient, photos: Path) -> None:
    job = client.submit(photos).job.id
    progress = client.cancel(job)
    assert (progress.job.state, progress.batches_left, progress.pending, progress.is_over) == ("cancelled", 0, 10, True)
    assert work_off(client.catalog) == 0


def test_where_nothing_is_stored_there_is_nothing_to_look_at(tmp_path: Path) -> None:
    with pytest.raises(CatalogUnavailable, match="no catalog"):
        JobClient(Settings(data_dir=tmp_path / "nothing"), create=False)
    assert not (tmp_path / "nothing").exists()


def test_submitting_loads_neither_torch_nor_faiss(tmp_path: Path, redis_url: str) -> None:
    write_photos(tmp_path / "photos", 2)
    program = (
        "import sys, json; from pathlib import Path; from pydantic import SecretStr\n"
        "from visual_search import JobClient, Settings\n"
        "home, photos, url = sys.argv[1:]\n"
        "settings = Settings(data_dir=Path(home), model='baseline', redis_url=SecretStr(url))\n"
        "with JobClient(settings) as jobs:\n"
        "    progress = jobs.submit(photos); jobs.get(progress.job.id)\n"
        "heavy = {'torch', 'faiss', 'transformers'} & set(sys.modules)\n"
        "print(json.dumps([progress.listed, sorted(heavy)]))"
    )
    arguments = [sys.executable, "-c", program, str(tmp_path / "home"), str(tmp_path / "photos"), redis_url]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [2, []]
