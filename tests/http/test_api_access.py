"""Who may ask: keys, scopes, and what is open to everybody."""

from __future__ import annotations

import pytest
from http_api import ADMIN_KEY, SEARCH_KEY, SUBMIT_KEY, api_keys, bearer, in_process


def test_without_a_key_guarded_addresses_answer_401_whether_or_not_they_exist(stateless_keyed_app):
    for path in ("/v1/probe/search", "/v1/no-such"):
        reply = stateless_keyed_app.client.get(path)
        assert reply.status_code == 401
        assert reply.headers["www-authenticate"] == "Bearer"
        assert reply.json()["error"]["reason"] == "access_refused"


@pytest.mark.parametrize(
    "headers",
    [
        bearer("wrong"),
        {"X-API-Key": "wrong"},
        bearer(""),
        {"Authorization": f"Basic {SEARCH_KEY}"},
        {"Authorization": SEARCH_KEY},
        bearer(api_keys()[0].sha256),
        {"Authorization": "Bearer caf\u00e9".encode("latin-1")},
        {**bearer("wrong"), "X-API-Key": SEARCH_KEY},
    ],
    ids=["wrong", "wrong in X-API-Key", "empty", "basic", "no scheme", "the hash", "not ascii", "authorization first"],
)
def test_a_wrong_key_is_refused(stateless_keyed_app, headers):
    assert stateless_keyed_app.client.get("/v1/probe/search", headers=headers).status_code == 401


@pytest.mark.parametrize(
    "headers", [bearer(SEARCH_KEY), {"X-API-Key": SEARCH_KEY}, {"authorization": f"BEARER  {SEARCH_KEY} "}]
)
def test_a_right_key_is_taken_from_either_header(stateless_keyed_app, headers):
    assert stateless_keyed_app.client.get("/v1/probe/search", headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("key", "allowed"),
    [(SEARCH_KEY, {"search"}), (SUBMIT_KEY, {"submit"}), (ADMIN_KEY, {"search", "submit", "admin"})],
)
def test_each_key_may_do_what_its_scopes_say_and_admin_everything(stateless_keyed_app, key, allowed):
    for scope in ("search", "submit", "admin"):
        reply = stateless_keyed_app.client.get(f"/v1/probe/{scope}", headers=bearer(key))
        assert reply.status_code == (200 if scope in allowed else 403)
        if scope not in allowed:
            assert reply.json()["error"]["reason"] == "scope_missing"
            assert key not in reply.text


def test_without_keys_everything_is_allowed(stateless_app):
    assert [stateless_app.client.get(f"/v1/probe/{scope}").status_code for scope in ("search", "admin")] == [200, 200]


def test_page_health_and_description_are_open(stateless_keyed_app):
    for path in ("/", "/static/app.js", "/healthz", "/docs", "/openapi.json"):
        assert stateless_keyed_app.client.get(path).status_code == 200, path
    assert stateless_keyed_app.client.get("/readyz").status_code in (200, 503)


def test_metrics_of_a_service_with_keys_need_admin(stateless_keyed_app):
    statuses = [
        stateless_keyed_app.client.get("/metrics", headers=bearer(key)).status_code
        for key in ("", SEARCH_KEY, ADMIN_KEY)
    ]
    assert statuses == [401, 403, 200]


def test_an_unknown_address_is_told_in_the_shape_of_all_errors(stateless_keyed_app):
    reply = stateless_keyed_app.client.get("/v1/no-such", headers=bearer(SEARCH_KEY))
    assert reply.status_code == 404
    assert reply.json()["error"]["reason"] == "no_such_address"


def test_each_key_has_requests_of_its_own_and_those_without_are_counted_by_address(http_settings):
    settings = http_settings.model_copy(update={"api_keys": api_keys(), "requests_per_minute": 3})
    with in_process(settings) as app:

        def statuses(key: str) -> list[int]:
            return [app.client.get("/v1/probe/search", headers=bearer(key)).status_code for _ in range(4)]

        assert statuses(SEARCH_KEY) == [200, 200, 200, 429]
        assert statuses(ADMIN_KEY) == [200, 200, 200, 429]
        assert statuses("wrong") == [401, 401, 401, 429]
        reply = app.client.get("/v1/probe/search", headers=bearer(SEARCH_KEY))
        assert 1 <= int(reply.headers["retry-after"]) <= 20
        assert reply.json()["error"]["reason"] == "busy"
        assert reply.json()["error"]["retryable"]
        assert app.client.get("/healthz").status_code == 200, "what is open is not counted"


def test_pictures_count_a_tenth_of_a_request(http_settings):
    with in_process(http_settings.model_copy(update={"requests_per_minute": 3})) as app:
        statuses = [app.client.get("/v1/no-such/thumbnail").status_code for _ in range(31)]
        assert statuses == [404] * 30 + [429]
