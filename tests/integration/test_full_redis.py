"""A Redis that has used all of its memory refuses what it is sent: work is delayed, and nothing is lost by it."""

import signal

import pytest
from pictures import write_photos
from pydantic import SecretStr
from servers import wait_for

from storage.settings import Settings
from workers.job_client import JobClient

pytestmark = pytest.mark.slow

REFUSED = "used memory > 'maxmemory'"


@pytest.fixture
def limited_redis(own_valkey):
    """The address of a Valkey, `fill()` (it may take no more than it has) and `empty()`."""
    valkey = own_valkey()
    with valkey.client() as client:
        yield valkey.url, lambda: client.config_set("maxmemory", "1"), lambda: client.config_set("maxmemory", "0")


@pytest.mark.parametrize("when", ["before the batches are sent", "before they are taken"])
def test_a_job_that_meets_a_full_redis_is_done_once_there_is_room(
    limited_redis, start_role, worker_process, tmp_path, when
):
    url, fill, empty = limited_redis
    settings = Settings(
        data_dir=tmp_path / "home", model="baseline", redis_url=SecretStr(url),
        batch_images=4, sweep_seconds=0.5, resend_seconds=1, lease_seconds=30,
    )  # fmt: skip
    write_photos(tmp_path / "photos", 12)
    worker = worker_process(settings)
    aggregator = start_role("workers.aggregator", settings)
    wait_for(lambda: aggregator.says("writing as"), what="the aggregator")
    with JobClient(settings) as jobs:
        if when == "before they are taken":
            worker.send(signal.SIGSTOP)
            job_id = jobs.submit(tmp_path / "photos").job.id
            fill()
            worker.send(signal.SIGCONT)
            refused = worker
        else:
            fill()
            job_id = jobs.submit(tmp_path / "photos").job.id
            refused = aggregator
        wait_for(lambda: refused.says(REFUSED), what="somebody to be refused")
        assert jobs.get(job_id).pending == 12
        empty()
        if refused is worker:  # Celery gives up; whoever supervises the process starts it again
            assert worker.process.wait(timeout=180) == 1
            assert "redis_unavailable" in worker.text()
            worker = worker_process(settings)
        wait_for(lambda: jobs.get(job_id).is_over, what="the job to be over")
        assert (jobs.get(job_id).indexed, jobs.get(job_id).failed) == (12, 0)
    assert worker.process.poll() is None
    assert aggregator.process.poll() is None
