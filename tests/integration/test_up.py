"""`visual-search up` as a real process: work submitted from elsewhere, killed children, and what is left at the end."""

import json
import re
import signal
import socket
import subprocess
import sys

import httpx
import psutil
import pytest
from pictures import write_photos
from servers import ROOT, environment_of, free_port, wait_for

from storage.settings import Settings
from workers.bundled_valkey import find_valkey, stop_valkey
from workers.signs.local_signs import LocalSigns

pytestmark = pytest.mark.slow  # real processes that wait for each other: `make test-slow`

ROLES = ("embed-worker", "aggregator", "beat", "query-worker", "http")


@pytest.fixture
def settings(tmp_path, _valkey_program):
    return Settings(
        data_dir=tmp_path / "home", model="baseline", sweep_seconds=1, lease_seconds=60, http_port=0, search_seconds=120
    )


@pytest.fixture
def up(start_role, settings):
    """`visual-search up`, waited for until every role is ready; ended in any case."""
    process = start_role("visual_search", settings, "up")
    wait_for(lambda: all(_is_ready(process, name) for name in ROLES), what="all roles to be ready")
    yield process
    process.stop(signal.SIGTERM)
    stop_valkey(settings)


def _is_ready(process, name):
    process.says("up ")
    return re.search(rf"{name} +\| .*ready", process.text())


def _command(settings, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "visual_search", *arguments],
        cwd=ROOT,
        env=environment_of(settings),
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


def _index_and_audit(settings, folder):
    """What a person does in another terminal."""
    submitted = _command(settings, "submit", str(folder), "--wait")
    assert submitted.returncode == 0, submitted.stderr
    audited = _command(settings, "audit", str(folder))
    assert audited.returncode == 0, audited.stdout + audited.stderr


def _pids(process, name):
    return [int(pid) for pid in re.findall(rf"{name} started \(pid (\d+)\)", process.text())]


def _of_this_folder(settings):
    """Every living process that was started for this data folder or works in it, as the server does."""
    home = str(settings.data_dir)
    found = []
    for one in psutil.process_iter():
        try:
            mine = one.environ().get("VISUAL_SEARCH_DATA_DIR") == home or one.cwd().startswith(home)
            if mine and one.status() != psutil.STATUS_ZOMBIE:
                found.append(one.name())
        except psutil.Error:  # gone meanwhile, or not ours to look at
            continue
    return found


def _address(up):
    return re.search(r"web page at (http://\S+/),", up.text())[1]


def test_searches_are_answered_by_rpc_and_over_http_and_the_page_is_served(up, settings, tmp_path):
    write_photos(tmp_path / "photos", 12)
    _index_and_audit(settings, tmp_path / "photos")
    asked = _command(settings, "search", "--service", "--id", "odd/03.jpg", "-k", "3", "--json")
    assert asked.returncode == 0, asked.stderr
    by_rpc = [one["image_id"] for one in json.loads(asked.stdout)["results"]]
    assert len(by_rpc) == 3
    body = {"query": [{"image_id": "odd/03.jpg"}], "k": 3}
    answer = httpx.post(f"{_address(up)}v1/search", json=body, timeout=180).json()
    assert [one["image_id"] for one in answer["results"]] == by_rpc
    assert "<title>" in httpx.get(_address(up), timeout=180).text
    wait_for(lambda: httpx.get(f"{_address(up)}readyz", timeout=180).status_code == 200, what="it to be ready")
    gone = by_rpc[0]
    assert httpx.delete(f"{_address(up)}v1/images/{gone}", timeout=180).json()["deleted"] is True

    def found():
        answer = httpx.post(f"{_address(up)}v1/search", json=body, timeout=180).json()
        return [one["image_id"] for one in answer["results"]]

    wait_for(lambda: gone not in found(), what="the deleted image to be gone from searches")


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_job_from_another_process_finishes_and_the_end_leaves_no_process(up, settings, tmp_path, how):
    write_photos(tmp_path / "photos", 12)
    _index_and_audit(settings, tmp_path / "photos")
    assert len(_of_this_folder(settings)) == len(ROLES) + 2, "the roles, `up` and Valkey"
    assert up.stop(how) == 0
    assert _of_this_folder(settings) == []
    assert find_valkey(settings) is None
    assert not LocalSigns(settings)._folder.exists()
    assert up.text().splitlines()[-1].endswith("| all ended")


def test_whatever_is_killed_is_started_again_and_the_work_goes_on(up, settings, tmp_path):
    for name in ROLES:
        [first] = _pids(up, name)
        psutil.Process(first).kill()
        wait_for(lambda name=name: len(_pids(up, name)) == 2, what=f"{name} to be started again")
        assert f"{name} was killed by SIGKILL; starting it again in 0.5 s" in up.text()
    _valkey_process(settings).kill()
    wait_for(lambda: find_valkey(settings), what="the bundled Valkey to be started again")
    write_photos(tmp_path / "photos", 12)
    _index_and_audit(settings, tmp_path / "photos")


def _valkey_process(settings):
    port = find_valkey(settings).port
    for one in psutil.process_iter(["name"]):
        try:
            if "valkey" in one.name() and any(there.laddr.port == port for there in one.net_connections("tcp")):
                return one
        except psutil.Error:
            continue
    return pytest.fail(f"no Valkey listens on port {port}")


def test_several_workers_have_names_of_their_own(start_role, settings):
    process = start_role("visual_search", settings, "up", "--workers", "2")
    wait_for(lambda: process.says("embed-worker.2 started"), what="the second worker")
    assert process.stop(signal.SIGTERM) == 0
    assert _of_this_folder(settings) == []


def test_an_unreachable_server_is_told_before_anything_is_started(settings):
    url = f"redis://:hidden@127.0.0.1:{free_port()}/0"
    ended = _command(settings.model_copy(update={"redis_url": url}), "up")
    assert ended.returncode == 1
    assert "cannot be reached" in ended.stderr
    assert "hidden" not in ended.stderr + ended.stdout
    assert "started" not in ended.stdout


def test_an_open_door_without_keys_is_told_before_anything_is_started(settings):
    ended = _command(settings.model_copy(update={"http_host": "0.0.0.0"}), "up")  # noqa: S104 - it is refused
    assert ended.returncode == 2
    assert "lets other machines in" in ended.stderr
    assert "started" not in ended.stdout
    assert not settings.data_dir.exists()


def test_a_stop_while_it_still_starts_is_heard(start_role, settings):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(60)
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}/0"
        process = start_role("visual_search", settings.model_copy(update={"redis_url": url}), "up")
        connection, _address = silent.accept()
        with connection:
            assert process.stop(signal.SIGTERM) == 128 + signal.SIGTERM
    assert "started" not in process.text()
