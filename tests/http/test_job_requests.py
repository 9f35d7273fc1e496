"""Jobs over HTTP: submit a folder, look, cancel, and which sources may be given."""

from __future__ import annotations

import json

import pytest
from http_api import SEARCH_KEY, SUBMIT_KEY, api_keys, bearer, in_process
from pictures import jpeg


def test_a_folder_becomes_a_job_that_can_be_looked_at_and_cancelled(http_app, photos):
    reply = http_app.client.post("/v1/jobs", json={"source": str(photos), "exclude": ["5*"], "id_prefix": "p/"})
    assert reply.status_code == 202
    job = reply.json()
    assert (job["state"], job["counts"]["listed"], job["batches_left"], job["is_over"]) == ("running", 5, 2, False)
    assert job["options"]["exclude"] == ["5*"]
    assert http_app.client.get(f"/v1/jobs/{job['id']}").json()["id"] == job["id"]
    assert [one["id"] for one in http_app.client.get("/v1/jobs").json()] == [job["id"]]
    cancelled = http_app.client.post(f"/v1/jobs/{job['id']}/cancel").json()
    assert (cancelled["state"], cancelled["is_over"]) == ("cancelled", True)
    assert http_app.client.post(f"/v1/jobs/{job['id']}/retry-failed").json() == []


def test_the_same_request_again_makes_no_second_job(http_app, photos):
    first, second = (http_app.client.post("/v1/jobs", json={"source": str(photos)}).json() for _ in range(2))
    assert first["id"] == second["id"]


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        ({}, 422, "invalid_request"),
        ({"source": ""}, 422, "invalid_request"),
        ({"source": "/x", "sauce": 1}, 422, "invalid_request"),
        ({"source": "/x", "priority": 10}, 422, "invalid_request"),
        ({"source": "/x", "include": "*.jpg"}, 422, "invalid_request"),
        ({"source": "a\0b"}, 400, "invalid_query"),
        ({"source": "/x", "id_prefix": "\ud800"}, 422, "invalid_request"),
        ({"source": "ftp://host/x"}, 400, "storage_error"),
        ({"source": "/no/such/folder"}, 400, "storage_error"),
        ({"source": "/x", "urls": ["http://x/a"]}, 422, "invalid_request"),
        ({"urls": []}, 422, "invalid_request"),
        ({"urls": ["/etc/passwd"]}, 422, "invalid_request"),
        ({"urls": ["file:///etc/passwd"]}, 422, "invalid_request"),
        ({"urls": ["http://x/a\nfile:///etc/passwd"]}, 422, "invalid_request"),
        ({"urls": ["http://x/a"], "mirror": True}, 422, "invalid_request"),
        ({"urls": ["http://x/a"], "include": ["*"]}, 422, "invalid_request"),
        ({"source": ".", "collection": "../x"}, 400, "invalid_collection_name"),
    ],
    ids=str,
)
def test_what_cannot_be_a_job_is_a_clear_error(stateless_app, body, status, reason):
    reply = stateless_app.client.post(
        "/v1/jobs", content=json.dumps(body), headers={"Content-Type": "application/json"}
    )
    assert (reply.status_code, reply.json()["error"]["reason"]) == (status, reason)


@pytest.mark.parametrize("path", ["", "/events", "/cancel", "/retry-failed"])
def test_an_unknown_job_is_told(stateless_app, path):
    method = "GET" if path in ("", "/events") else "POST"
    reply = stateless_app.client.request(method, f"/v1/jobs/77{path}")
    assert (reply.status_code, reply.json()["error"]["reason"]) == (404, "unknown_job")
    assert stateless_app.client.request(method, f"/v1/jobs/{2**70}{path}").status_code == 422


def test_only_allowed_sources_are_taken(http_settings, photos, tmp_path):
    (tmp_path / "link").symlink_to("/etc")
    with in_process(http_settings.model_copy(update={"job_sources": [str(tmp_path), "s3://mine/photos"]})) as app:
        assert app.client.post("/v1/jobs", json={"source": str(photos)}).status_code == 202
        for source in ("/etc", f"{tmp_path}/../..", f"{tmp_path}/link", "s3://mine/photos-of-others", "s3://other"):
            reply = app.client.post("/v1/jobs", json={"source": source})
            assert (reply.status_code, reply.json()["error"]["reason"]) == (403, "source_not_allowed"), source


def test_with_keys_folders_are_taken_only_where_the_settings_name_them(keyed_app, http_settings, photos):
    reply = keyed_app.client.post("/v1/jobs", json={"source": str(photos)}, headers=bearer(SUBMIT_KEY))
    assert (reply.status_code, reply.json()["error"]["reason"]) == (403, "source_not_allowed")
    named = http_settings.model_copy(update={"api_keys": api_keys(), "job_sources": [str(photos.parent)]})
    with in_process(named) as app:
        assert app.client.post("/v1/jobs", json={"source": str(photos)}, headers=bearer(SUBMIT_KEY)).status_code == 202


def test_addresses_become_a_job_where_their_host_is_listed(http_settings, web_server):
    web_server.serve("/a.jpg", jpeg(1))
    listed = http_settings.model_copy(
        update={"unsafe_private_url_hosts": [web_server.host_and_port], "api_keys": api_keys()}
    )
    body = {"urls": [web_server.url("/a.jpg"), "http://169.254.169.254/latest"], "id_prefix": "web/"}
    with in_process(listed) as app:
        reply = app.client.post("/v1/jobs", json=body, headers=bearer(SUBMIT_KEY))
        assert reply.status_code == 202
        counts = reply.json()["counts"]
        assert (counts["listed"], counts["failed"], reply.json()["batches_left"]) == (2, 1, 1)
        failures = app.client.get("/v1/failures", headers=bearer(SEARCH_KEY)).json()
        assert [one["reason"] for one in failures] == ["source_not_allowed"]
