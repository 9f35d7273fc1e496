"""The description of the API: for programs and for people, complete, and without scripts of others."""

from __future__ import annotations

import re

import pytest
from http_api import ADMIN_KEY, bearer

from query_service.http.api_docs import page_of


@pytest.fixture
def schema(stateless_app):
    return stateless_app.client.get("/openapi.json").json()


def operations(schema):
    return [(path, method, one) for path, methods in schema["paths"].items() for method, one in methods.items()]


def test_every_operation_says_what_it_does_and_how_errors_look(schema):
    for path, method, one in operations(schema):
        assert one.get("summary"), (method, path)
        assert one["responses"]["default"]["content"]["application/json"]["schema"]["$ref"].endswith("/ErrorReply")
        assert "422" not in one["responses"], "the framework's own shape of errors is not ours"


def test_everything_below_v1_needs_a_scope_and_nothing_else_but_the_metrics(schema):
    """What is added without one would be open to every key."""
    for path, method, one in operations(schema):
        if path.startswith("/v1/") and path not in ("/v1/probe/body", "/v1/probe/json", "/v1/probe/fails"):
            assert next(iter(one["security"][0])) in ("search_key", "submit_key", "admin_key"), (method, path)
        elif path != "/metrics":
            assert "security" not in one


@pytest.mark.parametrize("path", ["/healthz", "/metrics", "/v1/collections", "/v1/jobs"])
def test_what_comes_is_of_the_type_that_is_described(stateless_app, schema, path):
    [described] = schema["paths"][path]["get"]["responses"]["200"]["content"]
    found = stateless_app.client.get(path).headers["content-type"]
    assert found.split(";")[0] == described.split(";")[0]


def test_the_page_shows_every_operation_and_loads_nothing_from_others(stateless_app, schema):
    reply = stateless_app.client.get("/docs")
    assert reply.headers["content-type"] == "text/html; charset=utf-8"
    for path, method, _ in operations(schema):
        assert f">{method.upper()}</b> <code>{path}</code>" in reply.text
    assert "<script" not in reply.text
    assert "style=" not in reply.text
    assert not re.search(r"(src|href)=\"(https?:)?//", reply.text)
    assert stateless_app.client.get("/docs.css").headers["content-type"] == "text/css; charset=utf-8"


def test_texts_in_the_description_stay_texts():
    attack = "<script>alert(1)</script>"
    example = {"content": {"application/json": {"example": attack}}}
    operation = {"summary": attack, "description": attack, "requestBody": example}
    schema = {"info": {"description": attack}, "paths": {f"/{attack}": {"get": operation}}}
    assert "<script" not in page_of(schema)


def test_the_description_is_the_same_with_keys(stateless_keyed_app, schema):
    assert stateless_keyed_app.client.get("/openapi.json", headers=bearer(ADMIN_KEY)).json() == schema
