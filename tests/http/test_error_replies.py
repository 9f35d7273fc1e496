"""Errors have one shape, a fitting status, and never show the inside of the service."""

from __future__ import annotations

import json
import logging
import re

import pytest

import pipeline.errors
import query_service.errors
import workers.errors
from pipeline.errors import CorruptImage, InvalidQuery
from query_service.errors import CollectionLoading, DeadlineExceeded, ServiceBusy
from query_service.http.error_replies import error_document, error_reply, status_of
from storage.errors import CatalogUnavailable, InvalidFilter, StorageUnavailable, UnknownCollection, VisualSearchError
from workers.errors import RedisUnavailable


def kinds(root: type[VisualSearchError] = VisualSearchError) -> list[type[VisualSearchError]]:
    return [one for kind in root.__subclasses__() for one in (kind, *kinds(kind)) if "tests" not in kind.__module__]


def assert_error(reply, status: int, reason: str) -> str:
    assert reply.status_code == status
    assert reply.headers["content-type"] == "application/json"
    error = reply.json()["error"]
    assert error["reason"] == reason
    assert isinstance(error["retryable"], bool)
    return str(error["message"])


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (InvalidQuery, 400), (InvalidFilter, 400), (CorruptImage, 400), (UnknownCollection, 404), (ServiceBusy, 429),
        (CatalogUnavailable, 503), (RedisUnavailable, 503), (CollectionLoading, 503), (DeadlineExceeded, 504),
    ],
)  # fmt: skip
def test_statuses_fit_the_errors(kind, status):
    assert status_of(kind("x")) == status


def test_every_error_has_a_status_and_the_shape():
    for kind in kinds():
        error = kind("what went wrong")
        assert 400 <= status_of(error) < 600
        assert json.loads(error_reply(error).body)["error"]["reason"] == kind.reason
        if kind.retryable:
            assert status_of(error) in (429, 503, 504), kind


@pytest.mark.parametrize("kind", [CatalogUnavailable, RedisUnavailable, StorageUnavailable])
def test_what_the_service_lacks_is_told_without_where_it_is_and_logged_with_an_id(kind, caplog):
    with caplog.at_level(logging.ERROR):
        error = error_document(kind("redis://10.0.0.1:6379 refused /srv/data"))["error"]
    assert "10.0.0.1" not in json.dumps(error)
    assert error["retryable"]
    assert error["id"] in caplog.text
    assert "10.0.0.1" in caplog.text


def test_an_error_of_ours_is_told_in_its_shape(stateless_app):
    message = assert_error(stateless_app.client.get("/v1/probe/fails?reason=sql"), 503, "catalog_unavailable")
    assert "10.1.2.3" not in message


def test_an_error_that_quotes_what_is_no_text_can_be_told(stateless_app):
    message = assert_error(stateless_app.client.get("/v1/probe/fails?reason=name"), 404, "unknown_collection")
    assert message == "there is no collection '\\ud800'"


def test_what_nobody_expected_is_internal_with_an_id_that_is_in_the_log(stateless_app, caplog):
    with caplog.at_level(logging.ERROR):
        reply = stateless_app.client.get("/v1/probe/fails?reason=bug")
    assert_error(reply, 500, "internal")
    assert "secret" not in reply.text
    assert "Traceback" not in reply.text
    assert reply.headers["x-content-type-options"] == "nosniff"
    written = [record for record in caplog.records if reply.json()["error"]["id"] in record.getMessage()]
    assert len(written) == 1
    assert written[0].exc_info is not None


@pytest.mark.parametrize("path", ["/nothing", "/v1/", "/v1", "/static/", "/static/no.js", "/v1/probe/search/", "/%00"])
def test_unknown_addresses_have_the_shape(stateless_app, path):
    assert_error(stateless_app.client.get(path), 404, "no_such_address")


@pytest.mark.parametrize("method", ["DELETE", "PUT", "PATCH", "OPTIONS", "TRACE", "BREW"])
def test_methods_that_are_not_served_have_the_shape_and_name_those_that_are(stateless_app, method):
    reply = stateless_app.client.request(method, "/healthz")
    assert_error(reply, 405, "method_not_allowed")
    assert "GET" in reply.headers["allow"]


def test_validation_says_which_field_is_wrong(stateless_app):
    reply = stateless_app.client.post("/v1/probe/json?number=many", json=[1])
    message = assert_error(reply, 422, "invalid_request")
    assert {"number", "body"} == {one["field"] for one in reply.json()["error"]["fields"]}
    assert "number: " in message


DEEP = b'{"a":' * 100_000 + b"1" + b"}" * 100_000


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"{", "application/json"),
        (b"", "application/json"),
        (b"\xff\xfe", "application/json"),
        (DEEP, "application/json"),
        (b'{"a": NaN, "b": 1' + b"0" * 5000 + b"}", "application/json"),
        (b"a=1", "application/x-www-form-urlencoded"),
        (b"<a/>", "application/xml"),
        (b"{}", "text/plain"),
        (b"--x\r\n", "multipart/form-data; boundary=x"),
        (b"{}", "application/json; charset=utf-7"),
        (b"{}", "\x7f"),
    ],
    ids=["cut off", "empty", "not UTF-8", "deep", "huge number", "form", "xml", "text", "multipart", "charset", "type"],
)
def test_a_body_that_is_no_json_is_refused_and_the_service_goes_on(stateless_app, content, kind, recwarn):
    reply = stateless_app.client.post("/v1/probe/json", content=content, headers={"Content-Type": kind})
    assert reply.status_code in (200, 400, 415, 422)
    if reply.status_code != 200:
        assert set(reply.json()) == {"error"}
        assert not re.search(r"Traceback|File \"", reply.text)
    assert stateless_app.client.post("/v1/probe/json", json={"a": 1}).json()["keys"] == 1


def test_the_modules_with_errors_are_loaded():
    """`kinds` finds what is imported."""
    assert {pipeline.errors.ModelError, query_service.errors.RemoteFailure, workers.errors.WireError} <= set(kinds())
