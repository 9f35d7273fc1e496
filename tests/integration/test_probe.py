"""The probe of a container: it judges what the processes here left, and needs neither Redis nor SQL for it."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from threading import Event

import pytest
from servers import ROOT, environment_of, free_port, wait_for

from storage.settings import Settings
from workers.errors import RedisUnavailable
from workers.probe import main
from workers.servers import connect_url
from workers.signs.health import health_here
from workers.signs.heartbeat import LOADING, Heartbeat, HeartbeatRecord, read_heartbeats
from workers.signs.local_signs import LocalSigns

HOST = socket.gethostname()


@pytest.fixture
def settings(tmp_path):
    return Settings(data_dir=tmp_path / "data", model="baseline", lease_seconds=5)


def _probe(settings, *arguments):
    command = [sys.executable, "-m", "workers.probe", *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=environment_of(settings), capture_output=True, text=True, check=False, timeout=300
    )


def _leave(settings, host=HOST, doing="", *, silent=0.0, still=0.0, moment=None):
    moment = time.time() if moment is None else moment
    record = HeartbeatRecord("embed", f"{host}:7", moment, moment - silent, moment - silent - still, doing=doing)
    LocalSigns(settings).leave(f"embed-{host}", json.dumps(asdict(record)))


def test_nobody_here_is_not_healthy(settings):
    assert _probe(settings).returncode == 1
    assert "no process" in _probe(settings).stdout


@pytest.mark.parametrize(
    ("left", "healthy", "ready"),
    [
        ({}, True, True),
        ({"doing": "job 1", "still": 50}, True, True),
        ({"doing": "job 1", "still": 70}, False, False),
        ({"still": 70}, False, False),
        ({"silent": 15}, True, True),
        ({"silent": 25}, False, False),
        ({"silent": 700}, False, False),
        ({"doing": LOADING}, True, False),
        ({"host": "another"}, False, False),
    ],
    ids=["idle", "at work", "stuck", "stuck, more waits", "late", "gone", "forgotten", "loading", "another's"],
)
def test_a_process_is_judged_by_the_sign_that_it_left(settings, left, healthy, ready, monkeypatch):
    moment = time.time()
    monkeypatch.setattr("workers.signs.heartbeat.time", lambda: moment)  # however long this machine stands still
    _leave(settings, **left, moment=moment)
    here = health_here(settings)
    assert (here.healthy, here.ready) == (healthy, ready)


def test_the_exit_code_is_the_judgement(settings, monkeypatch, capsys):
    for name, value in environment_of(settings).items():
        monkeypatch.setenv(name, value)
    _leave(settings, doing=LOADING)
    assert (main([]), main(["--ready"])) == (0, 1)
    assert f"embed {HOST}:7 working, {LOADING}" in capsys.readouterr().out
    monkeypatch.setenv("VISUAL_SEARCH_LEASE_SECONDS", "soon")
    assert main([]) == 1
    assert "lease_seconds" in capsys.readouterr().err


def test_servers_that_are_away_are_not_held_against_a_process(settings, own_valkey):
    """A restart of everybody, which loads each index anew, would make an outage of Redis or SQL longer."""
    server = own_valkey()
    away = settings.model_copy(
        update={
            "redis_url": f"redis://127.0.0.1:{server.port}/0",
            "database_url": f"postgresql://nobody@127.0.0.1:{free_port()}/nothing",
        }
    )
    with (
        connect_url(server.url) as client,
        Heartbeat(client, "embed", every_seconds=0.02, signs=LocalSigns(away)) as heartbeat,
    ):
        heartbeat.progress(doing="job 1, batch 1")
        wait_for(lambda: [one for one in read_heartbeats(client) if one.doing])
        [before] = health_here(away).roles
        server.kill()
        with pytest.raises(RedisUnavailable):
            read_heartbeats(client)
        wait_for(lambda: health_here(away).roles[0].progress_seconds_ago < before.progress_seconds_ago + 0.01)
        asked = _probe(away)
        assert (asked.returncode, asked.stderr) == (0, "")
    assert health_here(away).roles == []


def test_a_process_that_never_had_a_redis_leaves_its_sign_here(settings):
    with Heartbeat(None, "beat", signs=LocalSigns(settings)):
        assert health_here(settings).healthy
    assert not health_here(settings).healthy


def test_a_sign_that_cannot_be_left_is_told_once(settings, monkeypatch, caplog, tmp_path):
    monkeypatch.setattr("workers.signs.local_signs.gettempdir", lambda: str(tmp_path / "nowhere"))
    signs = LocalSigns(settings)
    for _ in range(3):
        signs.leave("embed", "{}")
    signs.take_back("embed")
    assert len([one for one in caplog.records if "no sign can be left" in one.message]) == 1
    assert signs.read() == []


def test_signs_are_for_their_own_user_and_of_one_data_folder(settings, tmp_path):
    _leave(settings)
    folder = LocalSigns(settings)._folder
    assert folder.stat().st_mode & 0o777 == 0o700
    assert folder.stat().st_uid == os.getuid()
    assert LocalSigns(Settings(data_dir=tmp_path / "other")).read() == []


@pytest.mark.slow
def test_a_real_role_is_ready_at_its_ready_line_and_leaves_nothing_behind(settings, start_role, redis_url):
    settings = settings.model_copy(update={"redis_url": redis_url})
    worker = start_role("query_service.worker", settings)
    wait_for(lambda: worker.says("ready"), what="the query worker")
    assert _probe(settings, "--ready").returncode == 0
    worker.send(signal.SIGSTOP)
    wait_for(lambda: _probe(settings).returncode == 1, what="the frozen worker to be missed")
    worker.send(signal.SIGCONT)
    wait_for(lambda: _probe(settings).returncode == 0, what="it to be well again")
    assert worker.stop() == 0
    assert LocalSigns(settings).read() == []


def test_the_folder_goes_with_the_last_sign(settings):
    signs = LocalSigns(settings)
    for name in ("first", "second"):
        signs.leave(name, "{}")
    signs.take_back("first")
    assert [path.name for path in signs._folder.iterdir()] == ["second.json"]
    signs.take_back("second")
    assert not signs._folder.exists()
    signs.take_back("second")  # nothing is there, which is fine


def test_a_folder_that_is_taken_away_at_any_moment_costs_no_sign(settings, caplog):
    """Two processes that end and begin at once, many times: each sign that was left can be read."""
    ending, beginning = LocalSigns(settings), LocalSigns(settings)
    done = Event()

    def come_and_go():
        while not done.is_set():
            ending.leave("ending", "{}")
            ending.take_back("ending")

    with ThreadPoolExecutor(1) as threads:
        coming = threads.submit(come_and_go)
        try:
            for _ in range(500):
                beginning.leave("beginning", '{"is": "here"}')
                assert '{"is": "here"}' in beginning.read()
                beginning.take_back("beginning")
        finally:
            done.set()
        coming.result()
    assert caplog.records == []
    assert not beginning._folder.exists()
