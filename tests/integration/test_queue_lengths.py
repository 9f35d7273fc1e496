"""What waits in Redis, counted without Celery, and what the metrics say of it."""

import pytest
from prometheus_client import REGISTRY
from pydantic import SecretStr

from storage.settings import Settings
from workers.celery_app import make_app, queued_batches, send_batch
from workers.servers import connect_url
from workers.signs.health import LocalHealth, RoleHealth, health_of
from workers.signs.queue_lengths import queue_lengths, watch_queues


@pytest.fixture
def client(redis_url):
    with connect_url(redis_url) as one:
        yield one


def _metric(queue):
    return REGISTRY.get_sample_value("visual_search_waiting", {"queue": queue})


def test_batches_are_counted_as_celery_counts_them(client, redis_url, tmp_path):
    app = make_app(Settings(data_dir=tmp_path, redis_url=SecretStr(redis_url)))
    for batch_id, priority in enumerate((0, 1, 5, 9, 9)):
        send_batch(app, batch_id, priority)
    assert queue_lengths(client).batches == queued_batches(app) == 5
    app.close()


def test_each_queue_has_its_metric(client):
    client.xadd("vs:results", {"a": 1})
    client.xadd("vs:search:low", {"a": 1})
    client.xadd("vs:search:low", {"a": 1})
    watch_queues(client)
    shown = {name: _metric(name) for name in ("batches", "results", "dead_letters", "searches_low", "searches_high")}
    assert shown == {"batches": 0, "results": 1, "dead_letters": 0, "searches_low": 2, "searches_high": 0}


def _memory(kind):
    return REGISTRY.get_sample_value("visual_search_redis_memory_bytes", {"kind": kind})


def test_the_memory_of_the_server_has_its_metric(own_valkey):
    bounded, unbounded = own_valkey("--maxmemory", "100mb"), own_valkey()
    with connect_url(bounded.url) as client:
        watch_queues(client)
        assert _memory("limit") == 100 * 1024 * 1024
        assert 0 < _memory("used") < _memory("limit")
    with connect_url(unbounded.url) as client:
        watch_queues(client)
        assert _memory("limit") == client.info("memory")["total_system_memory"]
        unbounded.kill()
        watch_queues(client)
        assert _memory("used") == _memory("limit") == -1


def test_a_server_that_is_away_is_minus_one_and_not_zero(own_valkey):
    server = own_valkey()
    with connect_url(server.url) as client:
        server.kill()
        watch_queues(client)
        assert _metric("batches") == -1


@pytest.mark.parametrize(("stream", "healthy"), [(None, True), ("vs:results", False), ("vs:search:high", False)])
def test_work_that_waits_for_a_role_without_a_process_is_unhealthy(client, stream, healthy):
    if stream is not None:
        client.xadd(stream, {"a": 1})
    assert health_of(client, stuck_seconds=60).healthy is healthy


def _role(role, process, state):
    return RoleHealth(
        role=role, process=process, state=state, doing="", done=0, progress_seconds_ago=0, sign_seconds_ago=0
    )


@pytest.mark.parametrize(
    ("mine", "healthy"),
    [
        ([], False),
        ([("embed", "working")], True),
        ([("embed", "stuck")], False),
        ([("embed", "gone")], False),
        ([("embed", "gone"), ("embed", "idle")], True),
        ([("embed", "gone"), ("beat", "idle")], False),
    ],
    ids=["no sign", "working", "stuck", "gone", "started again", "another role only"],
)
def test_a_machine_is_healthy_while_each_of_its_roles_has_a_process_that_gets_on(mine, healthy):
    roles = [_role(role, f"here:{number}", state) for number, (role, state) in enumerate(mine)]
    assert LocalHealth(roles=roles).healthy is healthy
