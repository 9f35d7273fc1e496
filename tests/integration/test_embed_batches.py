"""One batch in an embed worker, within this process: what is handed over, and what is given back and why."""

from __future__ import annotations

import threading
from datetime import datetime
from functools import partial

import numpy as np
import pytest
from PIL import Image
from servers import wait_for

from pipeline.embedding_service import EmbeddingService
from storage.catalog import BatchItem, BatchResult, Catalog, IndexBatch, JobOptions, JobRequest, tables
from storage.images.locate import open_source
from storage.settings import Settings
from workers import embed_batches, lease_keeper
from workers.embed_batches import BatchEmbedder, Outcome
from workers.lease_keeper import LeaseKeeper
from workers.machine.stopping import StopRequest
from workers.models import LoadedModels
from workers.result_stream import ResultStream
from workers.servers import connect_url
from workers.signs.heartbeat import Heartbeat
from workers.wire import unpack

LEASE_SECONDS = 60.0  # nothing here waits for one to run out


class Worker:
    """A `BatchEmbedder` with all its parts, on a folder of four pictures."""

    def __init__(self, catalog, client, folder, *, grace_seconds: float = 1.5) -> None:
        self.catalog, self.folder = catalog, folder
        self.settings = Settings(data_dir=folder, lease_seconds=LEASE_SECONDS, fetch_threads=1, stream_messages=1)
        self.stream = ResultStream(client, 1)
        self.stop = StopRequest(grace_seconds)
        self.embedder = BatchEmbedder(self.settings, catalog, self.stream, Heartbeat(client, "embed"), self.stop)
        self.identity = EmbeddingService("baseline").identity

    def batch(self, source: str | None = None, uri: str = "") -> int:
        collection = self.catalog.collections.ensure("default")
        generation = self.catalog.generations.ensure_active(collection.id, self.identity)
        backend = open_source(self.folder)
        items = [BatchItem(one.key, one.key, uri + one.uri, one.etag, one.size_bytes) for one in backend.list()]
        request = JobRequest(collection.id, generation.id, "index", source or backend.uri(""), JobOptions())
        job, _created = self.catalog.jobs.open(request)
        (batch,) = self.catalog.jobs.add_batches(job.id, [items], listed_until=items[-1].key, counts={})
        return batch

    def held_until(self, batch: int) -> datetime | None:
        with self.catalog._database.read() as connection:
            rows = {row.id: row.lease_expires_at for row in connection.execute(tables.job_batches.select())}
        return rows[batch]

    def is_free(self, batch: int) -> bool:
        return self.catalog.batches.lease(batch, "another", 1) is not None


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "photos"
    made.mkdir()
    random = np.random.default_rng(5)
    for number in range(4):
        Image.fromarray(random.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(made / f"{number}.png")
    return made


@pytest.fixture(params=["sqlite", "postgresql"])
def catalog(request, tmp_path):
    url = tmp_path / "catalog.sqlite" if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    with Catalog.open(url) as opened:
        yield opened


@pytest.fixture
def worker(redis_url, catalog, folder):
    with connect_url(redis_url) as client:
        yield Worker(catalog, client, folder)


def test_a_batch_is_handed_over_once_and_its_second_message_is_skipped(worker):
    batch = worker.batch()
    assert worker.embedder.embed(batch) is Outcome.HANDED_OVER
    worker.stream.read("a", 1, 0)
    ((_entry, fields),) = worker.stream.read("a", 1, 0)
    assert unpack(fields).counts["indexed"] == 4
    assert worker.embedder.embed(batch) is Outcome.SKIPPED


def test_a_source_that_does_not_answer_gets_its_batch_back(worker, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    batch = worker.batch(source="s3://bucket/")
    assert worker.embedder.embed(batch) is Outcome.GIVEN_BACK
    assert worker.stream.length() == 0
    assert worker.is_free(batch)


def test_a_worker_that_is_told_to_stop_leaves_a_running_batch_after_its_grace(worker):
    patient = StopRequest(3600)
    for stop in (patient, worker.stop):
        stop.ask()
        stop.ask()
    assert patient.asked
    assert not patient.overdue
    wait_for(lambda: worker.stop.overdue)
    batch = worker.batch()
    assert worker.embedder.embed(batch) is Outcome.GIVEN_BACK
    assert worker.is_free(batch)


def test_a_finished_batch_waits_for_a_server_that_is_away(own_valkey, catalog, folder, monkeypatch, caplog):
    monkeypatch.setattr(embed_batches, "_REDIS_PAUSE_SECONDS", 0.02)
    server = own_valkey()
    with connect_url(server.url) as client:
        worker = Worker(catalog, client, folder)
        batch = worker.batch()
        server.kill()
        outcomes = []
        thread = threading.Thread(target=lambda: outcomes.append(worker.embedder.embed(batch)))
        thread.start()
        wait_for(lambda: "waits to be handed over" in caplog.text, what="the first attempt to fail")
        server.start()
        thread.join(timeout=180)
        assert outcomes == [Outcome.HANDED_OVER]
        assert worker.stream.length() == 1


def test_the_lease_is_renewed_while_a_finished_batch_waits(worker, monkeypatch):
    monkeypatch.setattr(lease_keeper, "RENEWALS_PER_LEASE", 600)
    worker.stream.publish(BatchResult(0, 0, IndexBatch(), {}))
    batch = worker.batch()
    thread = threading.Thread(target=worker.embedder.embed, args=[batch])
    thread.start()
    wait_for(lambda: worker.held_until(batch), what="the batch to be leased")
    for _renewal in range(5):
        before = worker.held_until(batch)
        wait_for(lambda before=before: worker.held_until(batch) > before, what="the lease to be renewed")
    assert thread.is_alive()
    assert not worker.is_free(batch)
    worker.stop.ask()
    thread.join(timeout=180)
    assert worker.is_free(batch)


def test_a_lease_that_another_holds_by_now_is_known_to_be_lost(worker):
    batch = worker.batch()
    leased = worker.catalog.batches.lease(batch, "slow", 0.01)
    wait_for(lambda: worker.catalog.batches.lease(batch, "quick", 5))
    with LeaseKeeper(partial(worker.catalog.batches.renew, leased.id, leased.token, 0.03), 0.03) as keeper:
        wait_for(lambda: not keeper.holds)


def test_a_model_is_loaded_once_and_the_last_two_are_kept(worker):
    models = LoadedModels(worker.settings)
    assert models.get(worker.identity) is models.get(worker.identity)
