"""A job followed by server-sent events, from a real process: to its end, until the client leaves, until the stop."""

from __future__ import annotations

import json
import signal

from http_api import in_process
from servers import wait_for


def _events(lines):
    name = ""
    for line in lines:
        if line.startswith("event:"):
            name = line[6:].strip()
        elif line.startswith("data:"):
            yield name, json.loads(line[5:])


def test_progress_comes_until_the_job_is_over_and_then_the_end(http_process, http_settings, photos):
    process = http_process(http_settings)
    job = process.client.post("/v1/jobs", json={"source": str(photos)}).json()["id"]
    with process.client.stream("GET", f"/v1/jobs/{job}/events") as reply:
        assert reply.headers["content-type"].startswith("text/event-stream")
        found = _events(reply.iter_lines())
        name, first = next(found)
        assert (name, first["id"], first["is_over"]) == ("progress", job, False)
        process.client.post(f"/v1/jobs/{job}/cancel")
        rest = list(found)
    assert [name for name, _ in rest] == ["progress", "end"]
    assert rest[0][1]["state"] == "cancelled"


def test_a_job_that_is_over_gives_its_state_and_the_end(http_app, photos):
    job = http_app.client.post("/v1/jobs", json={"source": str(photos)}).json()["id"]
    http_app.client.post(f"/v1/jobs/{job}/cancel")
    reply = http_app.client.get(f"/v1/jobs/{job}/events")
    assert [name for name, _ in _events(reply.text.splitlines())] == ["progress", "end"]


def test_a_stop_of_the_service_ends_streams_at_once(http_settings, photos):
    with in_process(http_settings) as app:
        job = app.client.post("/v1/jobs", json={"source": str(photos)}).json()["id"]
        app.service.stopping.set()
        assert app.client.get(f"/v1/jobs/{job}/events").text == ""


def test_sigterm_ends_a_process_that_is_streaming(http_process, http_settings, photos):
    process = http_process(http_settings)
    job = process.client.post("/v1/jobs", json={"source": str(photos)}).json()["id"]
    with process.client.stream("GET", f"/v1/jobs/{job}/events") as reply:
        found = _events(reply.iter_lines())
        next(found)
        process.role.process.send_signal(signal.SIGTERM)
        assert list(found) == []
    wait_for(lambda: process.role.process.poll() is not None, what="the end of the process")
