"""The page and its files: right types, asked for again only when changed, and nothing outside the folder."""

from __future__ import annotations

import pytest

from query_service.http.headers import CONTENT_SECURITY_POLICY
from query_service.http.page import WEB


def test_the_page_is_served_at_the_root(stateless_app):
    reply = stateless_app.client.get("/")
    assert reply.content == (WEB / "index.html").read_bytes()
    assert reply.headers["content-type"] == "text/html; charset=utf-8"


@pytest.mark.parametrize(
    ("ending", "kind"),
    [("js", "text/javascript; charset=utf-8"), ("css", "text/css; charset=utf-8"), ("svg", "image/svg+xml")],
)
def test_every_file_has_its_type(stateless_app, ending, kind):
    files = list(WEB.glob(f"*.{ending}"))
    assert files
    for path in files:
        reply = stateless_app.client.get(f"/static/{path.name}")
        assert reply.status_code == 200
        assert reply.headers["content-type"] == kind
        assert reply.content == path.read_bytes()


def test_a_file_that_the_browser_has_is_not_sent_again(stateless_app):
    first = stateless_app.client.get("/static/app.js")
    assert first.headers["cache-control"] == "no-cache"
    tag = first.headers["etag"]
    for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        again = stateless_app.client.get("/static/app.js", headers={"If-None-Match": known})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    assert stateless_app.client.get("/static/app.js", headers={"If-None-Match": '"other"'}).status_code == 200


def test_head_has_the_headers_alone(stateless_app):
    reply = stateless_app.client.head("/static/app.js", headers={"Accept-Encoding": "identity"})
    assert reply.content == b""
    assert int(reply.headers["content-length"]) == (WEB / "app.js").stat().st_size


@pytest.mark.parametrize(
    ("accepted", "encoding"),
    [
        ("gzip, deflate, br", "gzip"),
        ("br, GZIP;q=0.5", "gzip"),
        ("gzip; q=1", "gzip"),
        ("gzip;q=0", None),
        ("gzip;q=0.00, br", None),
        ("br", None),
        ("", None),
    ],
)
def test_files_are_packed_for_whoever_takes_that(stateless_app, accepted, encoding):
    plain = (WEB / "app.js").read_bytes()
    headers = {"Accept-Encoding": accepted}
    reply = stateless_app.client.get("/static/app.js", headers=headers)
    assert reply.headers.get("content-encoding") == encoding
    assert reply.headers["vary"] == "Accept-Encoding"
    assert reply.content == plain
    assert (int(reply.headers["content-length"]) < len(plain)) == (encoding is not None)
    again = stateless_app.client.get("/static/app.js", headers={**headers, "If-None-Match": reply.headers["etag"]})
    assert again.status_code == 304


def test_the_packed_and_the_plain_file_do_not_pass_for_each_other(stateless_app):
    tags = {
        stateless_app.client.get("/static/app.js", headers={"Accept-Encoding": one}).headers["etag"]
        for one in ("gzip", "identity")
    }
    assert len(tags) == 2


@pytest.mark.parametrize(
    "path",
    [
        "/static/../service_place.py",
        "/static/..%2fservice_place.py",
        "/static/..%2f..%2f..%2f..%2fetc%2fpasswd",
        "/static/%2e%2e/%2e%2e/pyproject.toml",
        "/static//etc/passwd",
        "/static/app.js%00",
        "/static/..\\service_place.py",
        "/static/%c0%ae%c0%ae/",
        "/static/app.js/",
        "/static/ \u00e9\u2603\U0001f600.js",
        "/static/__pycache__",
    ],
)
def test_nothing_outside_the_folder_is_served(stateless_app, path):
    assert stateless_app.client.get(path).status_code == 404


def test_every_reply_carries_the_security_headers(stateless_app, stateless_keyed_app):
    replies = [
        stateless_app.client.get("/"),
        stateless_app.client.get("/no-such"),
        stateless_app.client.get("/v1/probe/fails?reason=bug"),
        stateless_app.client.get("/healthz", headers={"Host": "evil.example"}),
        stateless_app.client.post("/v1/probe/body", content=b"x", headers={"Content-Length": str(10**12)}),
        stateless_app.client.get("/static/app.js", headers={"If-None-Match": "*"}),
        stateless_keyed_app.client.get("/v1/probe/search"),
    ]
    assert [reply.status_code for reply in replies] == [200, 404, 500, 403, 413, 304, 401]
    for reply in replies:
        assert reply.headers["content-security-policy"] == CONTENT_SECURITY_POLICY
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert reply.headers["referrer-policy"] == "no-referrer"
        assert reply.headers["cross-origin-resource-policy"] == "same-origin"
        assert reply.headers["cache-control"] in ("no-store", "no-cache")


def test_answers_of_the_api_are_kept_by_nobody(stateless_app):
    assert stateless_app.client.get("/v1/probe/search").headers["cache-control"] == "no-store"
