"""Submitting a source: what is queued, what is skipped, and what becomes of a job."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from pictures import jpeg, write_photos
from pydantic import SecretStr
from servers import ROOT
from submitted_work import ids_of, queued, request_for, work_off

from pipeline.indexing.selection import SourceSelection
from pipeline.indexing.source import SourceItem
from storage.errors import CatalogUnavailable, ModelMismatch, StorageError, UnknownJob
from storage.images.local import LocalStorage
from storage.settings import Settings
from workers.job_client import JobClient
from workers.submitting.submit import generation_for


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
