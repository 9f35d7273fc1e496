"""What the Celery app promises, and how sending fails."""

import json
import ssl
import subprocess
import sys

import pytest
from pydantic import SecretStr
from servers import free_port

from storage.settings import Settings
from workers.celery_app import EMBED_QUEUE, make_app, send_batch
from workers.errors import RedisUnavailable
from workers.servers import connect_url


def app_for(url: str, **settings):
    return make_app(Settings(redis_url=SecretStr(url), **settings))


def test_a_call_for_a_batch_is_json_with_nothing_but_its_number(redis_url):
    app = app_for(redis_url)
    send_batch(app, 42, priority=9)
    app.close()
    with connect_url(redis_url) as client:
        message = json.loads(client.lpop(EMBED_QUEUE))
    assert message["content-type"] == "application/json"
    assert json.loads(__import__("base64").b64decode(message["body"]))[0] == [42]


def test_making_an_app_reaches_for_no_server_and_a_failed_send_is_told_without_password():
    app = app_for(f"redis://:hidden@127.0.0.1:{free_port()}/0")
    with pytest.raises(RedisUnavailable) as caught:
        send_batch(app, 1)
    assert "hidden" not in str(caught.value)
    app.close()


def test_over_tls_the_servers_certificate_is_checked():
    """Kombu's own default for rediss:// is to check nothing."""
    assert app_for("rediss://127.0.0.1:6380/0").connection().ssl == {"ssl_cert_reqs": ssl.CERT_REQUIRED}
    with_authority = app_for("rediss://127.0.0.1:6380/0?ssl_ca_certs=/etc/ca.pem").connection().ssl
    assert with_authority["ssl_ca_certs"] == "/etc/ca.pem"
    assert with_authority.get("ssl_cert_reqs", ssl.CERT_REQUIRED) == ssl.CERT_REQUIRED
    assert not app_for("redis://127.0.0.1:6379/0").connection().ssl


def test_a_message_stays_with_its_worker_far_longer_than_a_lease():
    for seconds in (1, 120, 3600):
        options = app_for("redis://127.0.0.1/0", lease_seconds=seconds).conf.broker_transport_options
        assert options["visibility_timeout"] >= max(3600, 10 * seconds)


def test_a_call_is_acknowledged_late_and_one_at_a_time():
    conf = app_for("redis://127.0.0.1/0").conf
    assert conf.task_acks_late
    assert conf.task_reject_on_worker_lost
    assert conf.worker_prefetch_multiplier == 1
    assert conf.accept_content == ["json"]
    assert conf.result_backend is None


def test_the_sending_side_loads_neither_torch_nor_faiss():
    program = (
        "import sys, workers.celery_app, workers.servers; sys.exit('torch' in sys.modules or 'faiss' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
