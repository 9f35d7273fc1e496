"""Real embed worker processes on a real Valkey: vectors as in the embedded mode, and nothing lost when they die."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydantic import SecretStr
from servers import wait_for

from pipeline.embedding_service import EmbeddingService
from storage.catalog import BatchItem, BatchResult, Catalog, IndexBatch, JobOptions, JobRequest
from storage.images.locate import open_source
from storage.records import ModelIdentity
from storage.settings import Settings
from workers.celery_app import make_app, send_batch
from workers.result_stream import ResultStream
from workers.servers import connect_redis
from workers.signs.heartbeat import read_heartbeats
from workers.wire import unpack

pytestmark = pytest.mark.slow  # real processes that wait for each other: `make test-slow`

SIDE = 48


@dataclass
class Queue:
    """Everything around the workers: catalog, stream, app, and a folder of pictures with its items."""

    settings: Settings
    catalog: Catalog
    stream: ResultStream
    client: object
    app: object
    folder: Path

    def open_job(self, *, images_per_batch: int = 10, source: str | None = None, model: ModelIdentity | None = None):
        collection = self.catalog.collections.ensure("default")
        identity = model or EmbeddingService("baseline").identity
        generation = self.catalog.generations.ensure_active(collection.id, identity)
        backend = open_source(self.folder)
        request = JobRequest(collection.id, generation.id, "index", source or backend.uri(""), JobOptions())
        job, _created = self.catalog.jobs.open(request)
        items = [BatchItem(one.key, one.key, one.uri, one.etag, one.size_bytes) for one in backend.list()]
        batches = [items[start : start + images_per_batch] for start in range(0, len(items), images_per_batch)]
        ids = self.catalog.jobs.add_batches(job.id, batches, listed_until=items[-1].key, counts={"listed": len(items)})
        self.catalog.jobs.listing_done(job.id)
        self.catalog.batches.mark_sent(ids)
        for batch_id in ids:
            send_batch(self.app, batch_id)
        return ids

    def results(self, count: int, seconds: float = 180) -> list[BatchResult]:
        """Take so many results off the stream, as the aggregator would."""
        messages: list = []

        def enough() -> bool:
            new = self.stream.read("test", count, 200)
            self.stream.acknowledge([entry for entry, _fields in new])
            messages.extend(new)
            return len(messages) >= count

        wait_for(enough, seconds=seconds, what=f"{count} results")
        return [unpack(fields) for _entry, fields in messages]

    def fill_the_stream(self) -> None:
        """So that the next worker has to wait with its finished batch in hand."""
        while self.stream.length() < self.settings.stream_messages:
            self.stream.publish(BatchResult(0, 0, IndexBatch(), {}))

    def empty_the_stream(self) -> None:
        self.client.delete("vs:results")


@pytest.fixture
def queue(redis_url, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    random = np.random.default_rng(3)
    for number in range(20):
        pixels = random.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02}.png")
    settings = Settings(
        data_dir=tmp_path / "data",
        redis_url=SecretStr(redis_url),
        stream_messages=4,
        lease_seconds=30,  # none runs out by itself while a test lasts, also on a machine that stands still
        fetch_threads=2,
    )
    settings.data_dir.mkdir()
    with Catalog.open(settings.catalog_path) as catalog, connect_redis(settings) as client:
        app = make_app(settings)
        stream = ResultStream(client, settings.stream_messages)
        yield Queue(settings, catalog, stream, client, app, folder)
        app.close()


def vectors_of(results: list[BatchResult]) -> dict[str, np.ndarray]:
    return {image.metadata.image_id: image.vector for result in results for image in result.batch.upserts}


def same_as_embedded(queue: Queue, results: list[BatchResult]) -> None:
    """Each image stands in the results once, with the vector that the library makes of its file."""
    service = EmbeddingService("baseline")
    found = vectors_of(results)
    names = sorted(path.name for path in queue.folder.glob("*.png") if path.name != "bad.png")
    assert sorted(found) == names
    assert sum(len(result.batch.upserts) for result in results) == len(names)
    for name in names:
        np.testing.assert_array_equal(found[name], service.embed_image(queue.folder / name))


def sweep_when_the_lease_is_over(queue: Queue) -> None:
    """As the sweeper does once all of the time has passed that the one worker had."""
    later = datetime.now(timezone.utc) + timedelta(seconds=queue.settings.lease_seconds + 1)
    report = queue.catalog.batches.sweep(later)
    assert report.expired == 1
    for unsent in report.to_send:
        send_batch(queue.app, unsent.batch_id, unsent.priority)


def test_two_workers_embed_a_job_as_the_library_does(queue, worker_process):
    (queue.folder / "bad.png").write_bytes(b"no picture")
    workers = [worker_process(queue.settings), worker_process(queue.settings)]
    queue.open_job(images_per_batch=3)
    results = queue.results(7)
    same_as_embedded(queue, results)
    failures = [failure for result in results for failure in result.batch.failures]
    assert [(failure.image_id, failure.reason) for failure in failures] == [("bad.png", "unsupported_format")]
    assert sum(result.counts.get("indexed", 0) for result in results) == 20
    beats = read_heartbeats(queue.client)
    assert {beat.process.rpartition(":")[2] for beat in beats} == {str(worker.pid) for worker in workers}
    assert [worker.stop() for worker in workers] == [0, 0]
    assert read_heartbeats(queue.client) == []
    lines = [line for worker in workers for line in worker.text().splitlines() if "batch" in line]
    told = [line for line in lines if "image failed" not in line and "ready" not in line]
    assert len(told) == 2 * 7, "a batch has a line when it is taken and one when it is done"


def test_a_batch_of_a_killed_worker_is_done_by_another(queue, worker_process):
    queue.fill_the_stream()
    first = worker_process(queue.settings)
    (batch,) = queue.open_job(images_per_batch=20)
    wait_for(lambda: first.says(f"batch={batch} "), what="the worker to take the batch")
    first.stop(signal.SIGKILL)
    queue.empty_the_stream()
    second = worker_process(queue.settings)
    sweep_when_the_lease_is_over(queue)
    same_as_embedded(queue, queue.results(1))
    assert second.stop() == 0


def test_a_frozen_worker_that_wakes_after_its_lease_drops_its_work(queue, worker_process):
    """Wherever it was stopped: the stream stays full until it has noticed."""
    queue.fill_the_stream()
    frozen = worker_process(queue.settings)
    (batch,) = queue.open_job(images_per_batch=20)
    wait_for(lambda: frozen.says(f"batch={batch} "), what="the worker to take the batch")
    frozen.send(signal.SIGSTOP)
    other = worker_process(queue.settings)
    sweep_when_the_lease_is_over(queue)
    wait_for(lambda: other.says(f"batch={batch} "), what="the other worker to take the batch")
    frozen.send(signal.SIGCONT)
    wait_for(lambda: frozen.says("given back"), what="the frozen worker to notice")
    queue.empty_the_stream()
    same_as_embedded(queue, queue.results(1))
    assert queue.stream.length() == 0
    assert [frozen.stop(), other.stop()] == [0, 0]


def test_a_stopped_worker_finishes_its_batch(queue, worker_process):
    queue.fill_the_stream()
    worker = worker_process(queue.settings)
    (batch,) = queue.open_job(images_per_batch=20)
    wait_for(lambda: worker.says(f"batch={batch} "), what="the worker to take the batch")
    worker.send(signal.SIGTERM)
    wait_for(lambda: worker.says("Warm shutdown"), what="the signal to be seen")
    queue.empty_the_stream()
    assert worker.stop(signal.SIGINT) == 0
    same_as_embedded(queue, queue.results(1))


def test_a_stopped_worker_that_cannot_finish_gives_its_batch_back(queue, worker_process):
    queue.fill_the_stream()
    worker = worker_process(queue.settings)
    (batch,) = queue.open_job(images_per_batch=20)
    wait_for(lambda: worker.says(f"batch={batch} "), what="the worker to take the batch")
    assert worker.stop() == 0
    assert "given back" in worker.text()
    again = queue.catalog.batches.lease(batch, "test", 5)
    assert again is not None
    assert again.attempts == 1, "an attempt that was given back does not count"


def test_a_restarted_redis_is_found_again(own_valkey, queue, worker_process):
    server = own_valkey()
    settings = queue.settings.model_copy(update={"redis_url": SecretStr(server.url)})
    worker = worker_process(settings)
    server.kill()
    server.start()
    with connect_redis(settings) as client:
        app = make_app(settings)
        moved = Queue(settings, queue.catalog, ResultStream(client, 4), client, app, queue.folder)
        moved.open_job(images_per_batch=10)
        same_as_embedded(moved, moved.results(2))
        app.close()
    assert worker.stop() == 0


def test_a_source_that_this_worker_cannot_see_fails_with_its_reason(queue, worker_process):
    worker_process(queue.settings)
    queue.open_job(images_per_batch=20, source=str(queue.folder / "elsewhere"))
    (result,) = queue.results(1)
    assert dict(result.counts) == {"failed": 20}
    assert {failure.reason for failure in result.batch.failures} == {"storage_error"}
    assert "elsewhere" in result.batch.failures[0].message


def test_a_batch_of_another_model_is_given_back(queue, worker_process):
    identity = EmbeddingService("baseline").identity.model_copy(update={"weights_fingerprint": "other"})
    worker = worker_process(queue.settings)
    (batch,) = queue.open_job(images_per_batch=20, model=identity)
    wait_for(lambda: worker.says("given back"), what="the worker to refuse")
    assert "give the worker the same checkpoint" in worker.text()
    [told] = wait_for(lambda: [one for one in read_heartbeats(queue.client) if one.trouble], what="the sign of trouble")
    assert f"gave back batch {batch}: " in told.trouble
    assert queue.catalog.batches.lease(batch, "another", 1) is not None


def test_a_higher_priority_goes_first(queue, worker_process):
    ids = queue.open_job(images_per_batch=5)
    queue.client.flushall()
    for batch_id, priority in zip(ids, [0, 5, 9, 12], strict=True):
        send_batch(queue.app, batch_id, priority)
    worker_process(queue.settings)
    done = [result.batch_id for result in queue.results(4)]
    assert done[2:] == [ids[1], ids[0]]
    assert set(done[:2]) == {ids[2], ids[3]}


def test_a_worker_that_cannot_start_says_why(start_role, tmp_path):
    settings = Settings(data_dir=tmp_path, redis_url=SecretStr("redis://:hidden@127.0.0.1:1"))
    worker = start_role("workers.embed_worker", settings)
    assert worker.process.wait(timeout=180) == 1
    assert "redis_unavailable: redis://127.0.0.1:1 cannot be reached" in worker.text()
    assert "hidden" not in worker.text()


def test_a_lease_that_ran_out_is_seen_by_the_sweeper(queue):
    (batch,) = queue.open_job(images_per_batch=20)
    assert queue.catalog.batches.lease(batch, "dead", 1) is not None
    later = datetime.now(timezone.utc) + timedelta(seconds=2)
    assert queue.catalog.batches.sweep(later).expired == 1
