"""Alive, ready, measured: what a supervisor, a load balancer and Prometheus ask."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace

from http_api import http_service, in_process
from prometheus_client.parser import text_string_to_metric_families
from servers import wait_for

from query_service.http.health import Readiness
from query_service.http.service import HttpService
from workers.servers import connect_redis
from workers.signs.heartbeat import Heartbeat, read_signs

WORKER = "query_worker"


def test_alive_means_that_the_process_answers(stateless_app):
    assert stateless_app.client.get("/healthz").json() == {"alive": True}


def test_without_a_query_worker_it_is_not_ready_and_says_so(http_app):
    reply = http_app.client.get("/readyz")
    assert reply.status_code == 503
    document = reply.json()
    assert document["parts"] == {"catalog": "ok", "redis": "ok", "query_worker": "gave no sign"}
    assert document["error"]["reason"] == "not_ready"
    assert document["error"]["message"] == "missing: query_worker"


def test_with_catalog_redis_and_a_workers_sign_it_is_ready(http_app, http_settings):
    with connect_redis(http_settings) as client, Heartbeat(client, WORKER):
        wait_for(lambda: read_signs(client), what="the sign")
        reply = http_app.client.get("/readyz")
    assert reply.status_code == 200
    assert reply.json()["ready"] is True


def test_a_lost_redis_is_told_soon_and_found_again(http_settings, own_valkey):
    valkey = own_valkey()
    settings = http_settings.model_copy(update={"redis_url": type(http_settings.redis_url)(valkey.url)})
    with in_process(settings) as app:
        valkey.kill()
        parts = app.client.get("/readyz").json()["parts"]
        assert parts["catalog"] == "ok"
        assert parts["redis"] != "ok"
        assert parts["query_worker"] != "ok"
        assert str(valkey.port) not in app.client.get("/readyz").text
        valkey.start()
        wait_for(lambda: app.client.get("/readyz").json()["parts"]["redis"] == "ok")


def test_what_was_found_when_nobody_waited_any_more_is_not_told_later(http_settings, own_valkey):
    """A look whose caller has gone, or that came through after its time, says nothing of the moment of the next."""
    valkey = own_valkey()
    settings = http_settings.model_copy(update={"redis_url": type(http_settings.redis_url)(valkey.url)})

    async def look_twice(service: HttpService) -> str:
        readiness = Readiness(service)
        first = asyncio.create_task(readiness.look())
        while not readiness._looks:  # noqa: ASYNC110 - it is made with the task's first step
            await asyncio.sleep(0)
        first.cancel()
        await asyncio.wait(readiness._looks.values())
        assert readiness._looks["redis"].result().state == "ok"
        valkey.kill()
        parts = await readiness.look()
        await service.searches.close()
        return parts["redis"]

    with http_service(settings) as service:
        assert asyncio.run(look_twice(service)) != "ok"


def test_a_lost_catalog_is_told(http_settings):
    with in_process(http_settings) as app:
        app.service.catalog.close()
        for path in http_settings.data_dir.glob("catalog.sqlite*"):
            path.unlink()
        http_settings.catalog_path.mkdir()
        reply = app.client.get("/readyz")
    assert reply.json()["parts"]["catalog"] not in ("ok", "")
    assert str(http_settings.data_dir) not in reply.text


def test_what_nobody_expected_is_told_as_failed_and_stands_in_the_log_once(http_settings, caplog, monkeypatch):
    caplog.set_level("INFO")
    monkeypatch.setattr("query_service.http.health._LOOK_SECONDS", 120.0)  # nothing here is slow but the machine
    monkeypatch.setattr("query_service.http.health._KEEP_SECONDS", 0.0)
    answers = iter([False, False, True])

    def ping():
        if not next(answers):
            raise ZeroDivisionError("at 10.1.2.3")
        return True

    async def looks(service):
        readiness = Readiness(service)
        try:
            return [(await readiness.look())["redis"] for _ in range(3)]
        finally:
            await service.searches.close()

    with http_service(http_settings) as service:
        states = asyncio.run(looks(replace(service, ping_redis=ping)))
    assert states == ["failed", "failed", "ok"]
    told = [one for one in caplog.records if "readiness: redis" in one.getMessage()]
    assert [one.levelname for one in told] == ["ERROR", "INFO"]
    assert "at 10.1.2.3" in told[0].getMessage()
    assert told[0].exc_info
    assert told[0].exc_info[0] is ZeroDivisionError, "with its traceback"
    assert "there again" in told[1].getMessage()


def test_requests_are_counted_by_route_and_no_label_grows_with_what_is_asked(stateless_app):
    for number in range(20):
        stateless_app.client.get(f"/no-such/{number}")
        stateless_app.client.request(f"BREW{number}", "/healthz")
        stateless_app.client.get(f"/static/{number}.js")
    stateless_app.client.get("/healthz")
    text = stateless_app.client.get("/metrics").text
    families = {family.name: family for family in text_string_to_metric_families(text)}
    labels = [sample.labels for sample in families["visual_search_http_requests"].samples]
    assert {"method": "GET", "route": "/healthz", "status": "200"} in labels
    assert {"method": "GET", "route": "none", "status": "404"} in labels
    assert {"method": "other", "route": "/healthz", "status": "405"} in labels
    assert {"method": "GET", "route": "/static/{name}", "status": "404"} in labels
    assert not re.search(r"no-such/|BREW", text)
    assert "visual_search_http_seconds" in families
