"""What real processes tell of themselves: metrics, logs by machine, and whether the work gets on."""

import json
import re
import signal
import subprocess
import sys
import urllib.request

import pytest
from pictures import jpeg, write_photos
from servers import ROOT, environment_of, free_port, wait_for

from storage.settings import Settings
from workers.job_client import JobClient
from workers.servers import connect_redis
from workers.signs.health import health_of, queue_health
from workers.signs.heartbeat import Heartbeat


@pytest.fixture
def settings(tmp_path, redis_url):
    return Settings(data_dir=tmp_path / "data", redis_url=redis_url, model="baseline", lease_seconds=30, batch_images=4)


def _scraped(port: int) -> dict[str, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=180) as answer:
        lines = answer.read().decode().splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))}


def _scraped_when(port: int, name: str, value: float) -> dict[str, float]:
    """All metrics, once this one has come to its value."""
    return wait_for(lambda: (found := _scraped(port)).get(name) == value and found, what=f"{name} to be {value}")


def test_the_metrics_of_worker_and_aggregator_agree_with_the_job_and_logs_name_it(settings, start_role, tmp_path):
    write_photos(tmp_path / "photos", 10)
    (tmp_path / "photos" / "broken.jpg").write_bytes(jpeg(3)[:300])
    ports = {"workers.embed_worker": free_port(), "workers.aggregator": free_port()}
    roles = {
        module: start_role(module, settings.model_copy(update={"log_format": "json", "metrics_port": port}),
                           VISUAL_SEARCH_METRICS_PORT=str(port), VISUAL_SEARCH_LOG_FORMAT="json")
        for module, port in ports.items()
    }  # fmt: skip
    with JobClient(settings) as client:
        job = client.submit(tmp_path / "photos").job.id
        wait_for(lambda: client.get(job).is_over, what="the job")
        progress = client.get(job)
    assert (progress.indexed, progress.failed) == (10, 1)
    worker = roles["workers.embed_worker"]
    # the job is over as soon as its last batch is committed: both processes count that a moment later
    by_worker = _scraped_when(ports["workers.embed_worker"], 'visual_search_batches_total{outcome="handed_over"}', 3)
    _scraped_when(ports["workers.aggregator"], 'visual_search_committed_images_total{outcome="failed"}', 1)
    by_aggregator = _scraped_when(
        ports["workers.aggregator"], 'visual_search_committed_images_total{outcome="indexed"}', 10
    )
    assert by_worker['visual_search_images_total{outcome="indexed"}'] == 10
    stages = ("fetch", "decode", "embed", "hand_over")
    assert [by_worker[f'visual_search_stage_seconds_count{{stage="{stage}"}}'] for stage in stages] == [3] * 4
    assert by_worker["visual_search_batch_attempts_count"] == 3
    assert by_aggregator["visual_search_aggregator_leads"] == 1
    assert by_aggregator['visual_search_waiting{queue="batches"}'] == 0
    _scraped_when(ports["workers.aggregator"], 'visual_search_index_seq{generation="1"}', 10)
    _scraped_when(ports["workers.aggregator"], 'visual_search_feed_lag{generation="1"}', 0)

    lines = [json.loads(line) for line in worker.text().splitlines() if line.startswith("{")]
    [failed] = [line for line in lines if line.get("image") == "broken.jpg"]
    assert (failed["job"], failed["reason"], failed["role"]) == (job, "corrupt", "embed")
    assert failed["batch"] in {line["batch"] for line in lines if line["message"].startswith("took")}
    assert "SecurityWarning" not in worker.text()


def test_status_tells_who_works_and_who_is_gone_without_starting_a_server(settings, start_role, tmp_path):
    assert "no queue server" in queue_health(Settings(data_dir=tmp_path / "other")).server
    assert not (tmp_path / "other").exists()
    worker = start_role("workers.embed_worker", settings)
    aggregator = start_role("workers.aggregator", settings)
    beat = start_role("workers.beat", settings)
    for role in (worker, aggregator, beat):
        wait_for(lambda role=role: role.says("ready"), what="the role")
    wait_for(lambda: len(queue_health(settings).roles) == 3, what="three heartbeats")
    command = [sys.executable, "-m", "visual_search", "status", "--check"]
    shown = subprocess.run(command, cwd=ROOT, env=environment_of(settings), capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert {"aggregator", "beat", "embed"} <= set(re.findall(r"^(\w+)", shown.stdout, re.MULTILINE))
    aggregator.send(signal.SIGSTOP)
    with connect_redis(settings) as client:

        def gone() -> list[str]:
            roles = health_of(client, stuck_seconds=600, silent_seconds=7).roles
            return [role.role for role in roles if role.state == "gone"]

        wait_for(lambda: gone() == ["aggregator"], what="the frozen aggregator to be missed, and nobody else")
        assert not health_of(client, stuck_seconds=600, silent_seconds=7).healthy
    aggregator.send(signal.SIGCONT)


def test_a_process_that_lives_but_does_not_get_on_is_stuck(settings):
    with connect_redis(settings) as client, Heartbeat(client, "embed", every_seconds=0.05) as heartbeat:
        wait_for(lambda: [r.state for r in health_of(client, stuck_seconds=0.5).roles] == ["idle"])
        heartbeat.progress(doing="job 1, batch 1")
        wait_for(lambda: [r.state for r in health_of(client, stuck_seconds=600).roles] == ["working"])
        wait_for(lambda: [r.state for r in health_of(client, stuck_seconds=0.5).roles] == ["stuck"])
        assert not health_of(client, stuck_seconds=0.5).healthy
        heartbeat.progress(done=4, doing="")
        wait_for(lambda: [r.state for r in health_of(client, stuck_seconds=0.5).roles] == ["idle"])


def test_a_port_that_is_taken_is_told_in_one_line(settings, start_role):
    taken = free_port()
    first = start_role("workers.beat", settings, VISUAL_SEARCH_METRICS_PORT=str(taken))
    wait_for(lambda: first.says("ready"))
    second = start_role("workers.beat", settings, VISUAL_SEARCH_METRICS_PORT=str(taken))
    assert second.process.wait(timeout=180) == 1
    assert "metrics cannot be served" in second.text()
    assert "Traceback" not in second.text()
