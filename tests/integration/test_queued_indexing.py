"""Queued indexing end to end: real processes, real Valkey, both databases; killed and wiped, nothing is lost."""

# ruff: noqa: PLR0917 - fixtures are arguments
from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pytest
from servers import ROOT, RoleProcess, StartRole, ValkeyServer, environment_of, wait_for

from pipeline.replica import IndexReplica
from storage.catalog import Catalog, JobProgress, catalog_of
from storage.settings import Schedule, Settings
from storage.snapshots import snapshots_of
from visual_search.collection import ImageCollection
from workers.aggregator import LEASE_SECONDS
from workers.job_client import JobClient
from workers.result_stream import ResultStream
from workers.servers import connect_url
from workers.signs.heartbeat import read_heartbeats

pytestmark = pytest.mark.slow  # real processes that wait for each other: `make test-slow`

IMAGES = 30
BATCH_IMAGES = 4


@pytest.fixture
def folder(tmp_path: Path, make_jpeg: Callable[..., bytes]) -> Path:
    """Thirty pictures, two of them the same, and one broken file."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for number in range(IMAGES - 2):
        (folder / ("more" if number % 3 else "") / f"{number:03}.jpg").write_bytes(make_jpeg(number, (64, 48)))
    (folder / "same.jpg").write_bytes(make_jpeg(0, (64, 48)))
    (folder / "broken.jpg").write_bytes(make_jpeg(1, (64, 48))[:300])
    return folder


@pytest.fixture
def settings_for(tmp_path: Path, request: pytest.FixtureRequest) -> Callable[..., Settings]:
    """`settings_for(database, redis_url, **others)`: settings whose times are short enough for tests."""

    def make(database: str, redis_url: str, **others: object) -> Settings:
        values: dict[str, object] = {
            "data_dir": tmp_path / "data",
            "model": "baseline",
            "redis_url": redis_url,
            "batch_images": BATCH_IMAGES,
            "lease_seconds": 10.0,
            "resend_seconds": 2.0,
            "sweep_seconds": 0.5,
            "snapshot_changes": 10,
            "snapshot_seconds": 2.0,
        }
        if database == "postgresql":
            values["database_url"] = request.getfixturevalue("postgres_url")
        return Settings(**{**values, **others})

    return make


def aggregator(start_role: StartRole, settings: Settings) -> RoleProcess:
    role = start_role("workers.aggregator", settings)
    wait_for(lambda: role.says("ready"), what="the aggregator to be ready")
    return role


def finished(client: JobClient, job_id: int, seconds: float = 180.0) -> JobProgress:
    wait_for(lambda: client.get(job_id).is_over, seconds=seconds, what="the job to be over")
    return client.get(job_id)


def vectors(catalog: Catalog, settings: Settings) -> dict[str, np.ndarray]:
    """What the index holds that boots from the newest snapshot and the feed."""
    generation = catalog.generations.active(catalog.collections.get(settings.collection).id)
    assert generation is not None
    replica = IndexReplica.boot(catalog, generation, snapshots_of(settings, catalog))
    return {image_id: replica.index.reconstruct(image_id) for image_id in replica.index.ids()}


def check(settings: Settings, folder: Path, tmp_path: Path) -> None:
    """The audit is clean, nothing was committed twice, and the vectors are those of the embedded mode."""
    embedded = Settings(data_dir=tmp_path / "embedded", model="baseline")
    with ImageCollection(settings=embedded) as collection:
        collection.index(folder)
        expected = vectors(collection.catalog, embedded)
    with ImageCollection(settings=settings) as collection:
        report = collection.audit(folder)
        assert report.clean, report.findings
        assert report.by_problem() == {"failed": 1}
        assert collection.generation is not None
        assert collection.generation.last_seq == IMAGES - 1, "an image was committed twice"
        held = vectors(collection.catalog, settings)
        assert [failure.reason for failure in collection.failures()] == ["corrupt"]
    assert held.keys() == expected.keys()
    assert len(held) == IMAGES - 1
    for image_id, vector in expected.items():
        assert np.array_equal(held[image_id], vector), image_id


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_two_workers_and_an_aggregator_do_what_the_embedded_mode_does(
    settings_for: Callable[..., Settings],
    database: str,
    redis_url: str,
    folder: Path,
    tmp_path: Path,
    start_role: StartRole,
    worker_process: StartRole,
) -> None:
    settings = settings_for(database, redis_url)
    writer = aggregator(start_role, settings)
    workers = [worker_process(settings) for _ in range(2)]
    with JobClient(settings) as client:
        job = client.submit(folder)
        progress = finished(client, job.job.id)
        assert progress.job.state == "finished"
        assert (progress.listed, progress.failed, progress.indexed + progress.reused) == (IMAGES, 1, IMAGES - 1)
        again = client.submit(folder)
        again = finished(client, again.job.id)
        assert (again.unchanged, again.indexed) == (IMAGES - 1, 0)
        wait_for(lambda: _newest_snapshot(client.catalog) == IMAGES - 1, what="a snapshot by time")
    assert writer.stop() == 0
    assert [worker.stop() for worker in workers] == [0, 0]
    check(settings, folder, tmp_path)


def _newest_snapshot(catalog: Catalog) -> int:
    record = catalog.snapshots.newest(1)
    return record.seq if record else 0


KILLED_BEFORE_IT_ACKNOWLEDGES = """
import os, sys
from workers import aggregator
from workers.result_stream import ResultStream

real = ResultStream.acknowledge
def dying(self, ids):
    if ids:
        os._exit(9)
    real(self, ids)
ResultStream.acknowledge = dying
sys.exit(aggregator.main())
"""


@contextmanager
def dying_aggregator(settings: Settings) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-c", KILLED_BEFORE_IT_ACKNOWLEDGES]
    with subprocess.Popen(command, cwd=ROOT, env=environment_of(settings), stderr=subprocess.DEVNULL) as process:
        yield process
        process.kill()


@pytest.mark.slow
def test_an_aggregator_killed_between_commit_and_acknowledgement_loses_and_doubles_nothing(
    settings_for: Callable[..., Settings],
    redis_url: str,
    folder: Path,
    tmp_path: Path,
    start_role: StartRole,
    worker_process: StartRole,
) -> None:
    """Its lease is left behind too: the next one waits until that has run out."""
    settings = settings_for("sqlite", redis_url)
    worker_process(settings)
    with JobClient(settings) as client, connect_url(redis_url) as redis:
        job = client.submit(folder)
        with dying_aggregator(settings) as process:
            assert process.wait(timeout=180) == 9
        committed = client.get(job.job.id).done
        assert committed > 0
        assert ResultStream(redis, 64).length() > 0, "it was killed too late"
        aggregator(start_role, settings)
        progress = finished(client, job.job.id, seconds=LEASE_SECONDS + 180)
        assert progress.done == progress.listed
        wait_for(lambda: ResultStream(redis, 64).length() == 0)
    check(settings, folder, tmp_path)


@pytest.mark.slow
def test_of_two_aggregator_processes_the_second_takes_over_when_the_first_is_frozen(
    settings_for: Callable[..., Settings],
    redis_url: str,
    folder: Path,
    tmp_path: Path,
    start_role: StartRole,
    worker_process: StartRole,
) -> None:
    settings = settings_for("sqlite", redis_url)
    roles = [aggregator(start_role, settings) for _ in range(2)]
    wait_for(lambda: any(role.says("writing as") for role in roles))
    writing = next(role for role in roles if "writing as" in role.text())
    writing.send(signal.SIGSTOP)  # frozen past its lease, and woken when another one writes
    worker_process(settings)
    with JobClient(settings) as client:
        job = client.submit(folder)
        progress = finished(client, job.job.id, seconds=LEASE_SECONDS + 180)
        writing.send(signal.SIGCONT)
        assert progress.done == IMAGES
        (folder / "late.jpg").write_bytes((folder / "same.jpg").read_bytes())
        finished(client, client.submit(folder).job.id)
        (folder / "late.jpg").unlink()
        client.catalog.images.delete(1, ["late.jpg"])
        assert _seq(client.catalog) == IMAGES + 1  # late.jpg came and went
    assert [role.stop() for role in roles] == [0, 0]


def _seq(catalog: Catalog) -> int:
    return catalog.generations.get(1).last_seq


@pytest.mark.slow
def test_a_job_is_finished_although_redis_is_wiped_in_the_middle(
    settings_for: Callable[..., Settings],
    folder: Path,
    tmp_path: Path,
    start_role: StartRole,
    worker_process: StartRole,
    own_valkey: Callable[..., ValkeyServer],
) -> None:
    """Queue, stream and consumer group are gone with it; SQL knows what is missing and the sweeper sends it again."""
    server = own_valkey()
    settings = settings_for("sqlite", server.url)
    writer = aggregator(start_role, settings)
    with JobClient(settings) as client, server.client() as redis:
        job = client.submit(folder)
        redis.flushall()  # the whole queue, before any worker saw it
        worker_process(settings)
        wait_for(lambda: client.get(job.job.id).done > 0, what="a first batch to be sent again")
        redis.flushall()
        progress = finished(client, job.job.id)
        assert progress.done == IMAGES
    assert writer.stop() == 0
    check(settings, folder, tmp_path)


@pytest.mark.slow
def test_a_job_is_finished_although_its_worker_is_killed(
    settings_for: Callable[..., Settings],
    redis_url: str,
    folder: Path,
    tmp_path: Path,
    start_role: StartRole,
    worker_process: StartRole,
) -> None:
    settings = settings_for("sqlite", redis_url)
    first = worker_process(settings)
    with JobClient(settings) as client:
        job = client.submit(folder)
        with connect_url(redis_url) as redis:
            wait_for(lambda: ResultStream(redis, 64).length() > 0)
        first.stop(signal.SIGKILL)
        aggregator(start_role, settings)
        worker_process(settings)
        assert finished(client, job.job.id).done == IMAGES
    check(settings, folder, tmp_path)


@pytest.mark.slow
def test_two_beats_submit_a_scheduled_source_once_and_audit_it(
    settings_for: Callable[..., Settings],
    redis_url: str,
    folder: Path,
    tmp_path: Path,
    start_role: StartRole,
    worker_process: StartRole,
) -> None:
    """The slot is two minutes ago: a beat that starts makes up for what it missed by a little."""
    minute = (datetime.now(timezone.utc) - timedelta(minutes=2)).minute
    cron = f"{minute} * * * *"
    sync = Schedule(cron=cron, action="sync", source=str(folder))
    settings = settings_for("sqlite", redis_url, schedules=[sync])
    aggregator(start_role, settings)
    worker_process(settings)
    beats = [start_role("workers.beat", settings) for _ in range(2)]
    with catalog_of(settings) as catalog:
        wait_for(lambda: [job.state for job in catalog.jobs.list()] == ["finished"])
        wait_for(lambda: any(beat.says("scheduled sync of") for beat in beats))
        audit = Schedule(cron=cron, action="audit", source=str(folder))
        audited = settings_for("sqlite", redis_url, schedules=[sync, audit])
        beats += [start_role("workers.beat", audited) for _ in range(2)]
        wait_for(lambda: len(catalog.jobs.list()) == 2)
        wait_for(lambda: catalog.jobs.list()[0].state != "running")
        with connect_url(redis_url) as redis:
            wait_for(lambda: sum(one.done for one in read_heartbeats(redis) if one.role == "beat") == 2, what="signs")
        assert [beat.stop() for beat in beats] == [0] * 4
        newest, oldest = catalog.jobs.list()
    assert (oldest.kind, oldest.state) == ("index", "finished")
    assert (newest.kind, newest.state) == ("audit", "finished")
    assert newest.counts == {"listed": IMAGES, "indexed": IMAGES - 1, "failed": 1}


@pytest.mark.parametrize("module", ["workers.aggregator", "workers.beat"])
def test_a_role_that_cannot_start_says_so_in_one_line(
    settings_for: Callable[..., Settings], tmp_path: Path, module: str
) -> None:
    """Nothing listens on the Redis port, and the schedule is none."""
    wrong = Schedule(cron="61 * * * *", action="sync", source="photos")
    settings = settings_for("sqlite", "redis://:secret@127.0.0.1:1/0", schedules=[wrong])
    done = subprocess.run(
        [sys.executable, "-m", module],
        cwd=ROOT,
        env={**environment_of(settings), "PYTHONPATH": os.fspath(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "secret" not in done.stderr
    assert {"workers.aggregator": "redis_unavailable", "workers.beat": "61 * * * *"}[module] in done.stderr
