"""Images over HTTP: pages, one by its id whatever it holds, deletion."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from http_api import ADMIN_KEY, SEARCH_KEY, SUBMIT_KEY, bearer
from seeded import BROKEN, NAMES, seed


@pytest.fixture
def app(http_app, http_settings, tmp_path):
    seed(http_settings, tmp_path / "photos")
    return http_app


def test_pages_follow_each_other_without_gap_or_repetition(app):
    found, after = [], ""
    while after is not None:
        page = app.client.get("/v1/images", params={"limit": 2, "after": after}).json()
        found += [one["image_id"] for one in page["images"]]
        after = page["next_after"]
    assert found == sorted(NAMES)


def test_a_prefix_narrows_the_list(app):
    page = app.client.get("/v1/images", params={"prefix": "cats/"}).json()
    assert [one["image_id"] for one in page["images"]] == sorted(name for name in NAMES if name.startswith("cats/"))
    assert page["next_after"] is None


@pytest.mark.parametrize("name", NAMES)
def test_an_image_is_found_by_its_id_in_path_and_query(app, name):
    by_path = app.client.get(f"/v1/images/{quote(name)}").json()
    by_query = app.client.get("/v1/image", params={"id": name}).json()
    assert by_path == by_query
    assert (by_path["image_id"], by_path["width"], by_path["format"]) == (name, 320, "JPEG")


def test_a_filter_that_is_none_is_refused(app):
    reply = app.client.get("/v1/images", params={"filter": "=="})
    assert (reply.status_code, reply.json()["error"]["reason"]) == (400, "invalid_filter")


def test_deleted_is_gone_and_stands_in_the_feed(app):
    before = app.client.get("/v1/collections").json()[0]
    reply = app.client.delete("/v1/images/cats/tom.jpg")
    assert reply.json() == {"image_id": "cats/tom.jpg", "deleted": True, "failure_forgotten": False}
    after = app.client.get("/v1/collections").json()[0]
    assert (after["images"], after["last_seq"]) == (before["images"] - 1, before["last_seq"] + 1)
    for reply in (
        app.client.get("/v1/images/cats/tom.jpg"),
        app.client.get("/v1/thumbnail?id=cats/tom.jpg"),
        app.client.delete("/v1/image?id=cats/tom.jpg"),
    ):
        assert (reply.status_code, reply.json()["error"]["reason"]) == (404, "unknown_id")


def test_deleting_a_failed_image_forgets_its_failure(app):
    assert app.client.delete(f"/v1/images/{BROKEN[0]}").json()["failure_forgotten"] is True
    assert [one["image_id"] for one in app.client.get("/v1/failures").json()] == [BROKEN[1]]


HOSTILE = ["%00", "a%0Ab", "x" * 4096, "%FF%FE", "..%2F..%2Fetc%2Fpasswd", "%F0%9F%90%88", "'%20OR%201=1--", "."]


def test_hostile_ids_are_clear_errors(app):
    for name in HOSTILE:
        for path in (f"/v1/image?id={name}", f"/v1/thumbnail?id={name}", f"/v1/original?id={name}"):
            reply = app.client.get(path)
            assert reply.status_code in (400, 404), path
            assert reply.json()["error"]["reason"] in ("invalid_id", "invalid_query", "unknown_id"), path


def test_each_scope_may_do_what_it_says(keyed_app):
    ask = keyed_app.client.request
    statuses = {
        key: [
            ask(method, path, headers=bearer(key)).status_code
            for method, path in (
                ("GET", "/v1/collections"),
                ("POST", "/v1/images"),
                ("POST", "/v1/jobs"),
                ("DELETE", "/v1/images/a"),
                ("POST", "/v1/jobs/1/cancel"),
                ("POST", "/v1/failures/retry"),
                ("POST", "/v1/generations/1/activate"),
            )
        ]
        for key in (SEARCH_KEY, SUBMIT_KEY, ADMIN_KEY)
    }
    assert statuses == {
        SEARCH_KEY: [200, 403, 403, 403, 403, 403, 403],
        SUBMIT_KEY: [403, 415, 422, 403, 403, 403, 403],
        ADMIN_KEY: [200, 415, 422, 404, 404, 404, 404],
    }
