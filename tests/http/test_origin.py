"""Only the API's own page may use it from a browser: no DNS rebinding, no cross-site requests, no CORS."""

from __future__ import annotations

import pytest
from http_api import ADMIN_KEY, bearer


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:8600", "127.0.0.1:8600", "127.9.9.9", "[::1]", "[::1]:8600", "LOCALHOST"]
)
def test_without_keys_the_names_of_this_machine_are_answered(stateless_app, host):
    assert stateless_app.client.get("/v1/probe/search", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8600", "127.0.0.1.evil.example", "localhost.evil.example", "", "[::", "192.168.1.2",
     "user@evil.example", "localhost@evil.example", "evil.example#localhost", "2130706433"],
)  # fmt: skip
def test_without_keys_every_other_name_is_refused_for_it_may_be_rebound(stateless_app, host):
    for path in ("/", "/v1/probe/search", "/healthz"):
        reply = stateless_app.client.get(path, headers={"Host": host})
        assert reply.status_code == 403
        assert reply.json()["error"]["reason"] == "host_refused"


def test_with_keys_any_name_will_do_for_a_proxy_has_its_own(stateless_keyed_app):
    headers = {"Host": "photos.example", **bearer(ADMIN_KEY)}
    assert stateless_keyed_app.client.get("/v1/probe/admin", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": ""},
        {"Origin": "http://localhost:1"},
        {"Origin": "http://127.0.0.1:8600@evil.example"},
        {"Origin": "file://"},
        {"Origin": "http://[::1"},
        {"Origin": "ftp://127.0.0.1:8600"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"},
    ],
    ids=lambda headers: next(iter(headers.values())) or "empty",
)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "OPTIONS"])
def test_requests_of_foreign_pages_are_refused_with_and_without_keys(
    stateless_app, stateless_keyed_app, method, headers
):
    for app, key in ((stateless_app, {}), (stateless_keyed_app, bearer(ADMIN_KEY))):
        sent = {"Host": "127.0.0.1:8600", **headers, **key}
        reply = app.client.request(method, "/v1/probe/json", headers=sent)
        assert reply.status_code == 403
        assert reply.json()["error"]["reason"] == "origin_refused"
        assert not [name for name in reply.headers if name.startswith("access-control")]


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("127.0.0.1:8600", "http://127.0.0.1:8600"),
        ("photos.example", "https://photos.example"),
        ("photos.example:443", "https://photos.example"),
        ("Photos.Example", "https://photos.example"),
        ("photos.example:8443", "https://photos.example:8443"),
    ],
)
def test_the_own_page_is_answered_also_behind_a_proxy_that_speaks_tls(stateless_keyed_app, host, origin):
    headers = {"Host": host, "Origin": origin, "Sec-Fetch-Site": "same-origin", **bearer(ADMIN_KEY)}
    assert stateless_keyed_app.client.post("/v1/probe/json", json={}, headers=headers).status_code == 200


def test_a_link_from_another_site_may_be_followed(stateless_app):
    headers = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert stateless_app.client.get("/", headers=headers).status_code == 200
