"""A sender that lives long, as the HTTP API's does, finds a server that was away again."""

from __future__ import annotations

import logging

from storage.settings import Settings
from workers.job_client import JobClient
from workers.submitting import batch_sender


def test_after_a_pause_the_server_is_tried_again(tmp_path, own_valkey, make_jpeg, monkeypatch, caplog):
    valkey = own_valkey()
    valkey.kill()
    settings = Settings(data_dir=tmp_path / "data", model="baseline", redis_url=valkey.url)
    now = [1000.0]
    monkeypatch.setattr(batch_sender, "monotonic", lambda: now[0])
    with JobClient(settings) as jobs, caplog.at_level(logging.WARNING):
        for number in range(3):
            jobs.submit_uploads({f"{number}.jpg": make_jpeg(number)})
        assert caplog.text.count("no worker can be told of them now") == 1, "it is said, and waited for, once"
        valkey.start()
        now[0] += batch_sender._PAUSE_SECONDS + 1
        jobs.submit_uploads({"after.jpg": make_jpeg(9)})
        with valkey.client() as client:
            assert sum(client.llen(key) for key in client.keys("embed*")) == 1
