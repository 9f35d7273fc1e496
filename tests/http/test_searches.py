"""The search addresses without a worker: what is wrong is said with its field, what nobody answers ends in time."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

import httpx
import pytest
from http_api import ADMIN_KEY, SEARCH_KEY, SUBMIT_KEY, InProcess, bearer, in_process
from pictures import jpeg

from query_service.http.search_body import SearchBody, search_of
from query_service.http.searches import document_of
from query_service.protocol import Provenance, SearchAnswer
from query_service.transport.request_queue import STREAMS
from storage.records import ModelIdentity
from storage.settings import Settings
from workers.servers import connect_redis

TEXT = {"text": "a dog"}
MODEL = ModelIdentity(name="m", revision="r", weights_fingerprint="w", preprocessing_fingerprint="p", dimension=8)

WRONG_FIELDS: dict[str, tuple[dict[str, Any], str, str]] = {
    "no query": ({}, "invalid_query", "query: ask with at least one"),
    "an unknown field": ({"query": [TEXT], "limit": 3}, "invalid_query", "limit: Extra inputs"),
    "k as text": ({"query": [TEXT], "k": "5"}, "invalid_query", "k: Input should be a valid integer"),
    "k of 0": ({"query": [TEXT], "k": 0}, "invalid_query", "k: .*greater than or equal to 1"),
    "k too large": ({"query": [TEXT], "k": 1001}, "invalid_query", "k: .*less than or equal to 1000"),
    "k as truth": ({"query": [TEXT], "k": True}, "invalid_query", "k: Input should be a valid integer"),
    "a negative offset": ({"query": [TEXT], "offset": -1}, "invalid_query", "offset: "),
    "a far offset": ({"query": [TEXT], "offset": 100_001}, "invalid_query", "offset: .*100000"),
    "17 parts": ({"query": [TEXT] * 17}, "invalid_query", "query: .*at most 16"),
    "a part of nothing": ({"query": [TEXT, {}]}, "invalid_query", r"query\.1: .*exactly one of"),
    "a part of two": ({"query": [{"text": "a", "image_id": "b"}]}, "invalid_query", r"query\.0: .*exactly one of"),
    "a picture and words": ({"query": [{"text": "a", "image_base64": ""}]}, "invalid_query", "exactly one of"),
    "no base64": ({"query": [{"image_base64": "?"}]}, "invalid_query", r"query\.0: image_base64: this is no base64"),
    "base64 with a line break": ({"query": [{"image_base64": "QUJD\nQUJD"}]}, "invalid_query", "no base64"),
    "base64 without padding": ({"query": [{"image_base64": "QUI"}]}, "invalid_query", "no base64"),
    "a data address": ({"query": [{"image_base64": "data:image/png;base64,QUJD"}]}, "invalid_query", "no base64"),
    "base64 beyond ASCII": ({"query": [{"image_base64": "ÄÖÜß"}]}, "invalid_query", "no base64"),
    "an empty picture": ({"query": [{"image_base64": ""}]}, "invalid_query", r"query\.0: the picture is empty"),
    "a vector of texts": ({"query": [{"vector": ["1"]}]}, "invalid_query", r"query\.0\.vector\.0: .*number"),
    "a vector of nothing": ({"query": [{"vector": []}]}, "invalid_query", r"query\.0: .*vector: "),
    "a long vector": ({"query": [{"vector": [0.5] * 8193}]}, "invalid_query", r"query\.0\.vector: .*8192"),
    "a long text": ({"query": [{"text": "x" * 4097}]}, "invalid_query", r"query\.0: .*text: .*4096"),
    "an empty id": ({"query": [{"image_id": ""}]}, "invalid_query", r"query\.0: .*image_id: "),
    "a large weight": ({"query": [{**TEXT, "weight": 101}]}, "invalid_query", r"query\.0\.weight: .*100"),
    "a weight of 0": ({"query": [{**TEXT, "weight": 0}]}, "invalid_query", r"query\.0: .*weight of 0"),
    "only what is not wanted": ({"query": [{**TEXT, "weight": -1}]}, "invalid_query", "query: .*positive weight"),
    "a short filter that is none": ({"query": [TEXT], "filter": "year>>"}, "invalid_filter", "is no filter"),
    "one of two filters": ({"query": [TEXT], "filter": ["a=1", "="]}, "invalid_filter", "is no filter"),
    "a filter of another kind": ({"query": [TEXT], "filter": {"op": "sql"}}, "invalid_filter", "this is no filter"),
    "a filter as number": ({"query": [TEXT], "filter": 5}, "invalid_query", "filter"),
    "diversity above 1": ({"query": [TEXT], "diversity": 1.5}, "invalid_query", "diversity: "),
    "near duplicates of 0": ({"query": [TEXT], "near_duplicates": 0}, "invalid_query", "near_duplicates: "),
    "a group without name": ({"query": [TEXT], "group_by": ""}, "invalid_query", "group_by: "),
    "a group of none": ({"query": [TEXT], "group_size": 0}, "invalid_query", "group_size: "),
    "excluded as text": ({"query": [TEXT], "exclude": "abc"}, "invalid_query", "exclude: .*valid array"),
    "too many excluded": ({"query": [TEXT], "exclude": ["a"] * 1001}, "invalid_query", "exclude: .*1000"),
    "no time": ({"query": [TEXT], "timeout": 0}, "invalid_query", "timeout: "),
    "too much time": ({"query": [TEXT], "timeout": 601}, "invalid_query", "timeout: .*600"),
    "an unknown priority": ({"query": [TEXT], "priority": "urgent"}, "invalid_query", "priority: .*'high'"),
    "weights of no pictures": ({"query": [TEXT], "image_weights": [1]}, "invalid_query", "image_weights: 1 weights"),
}


def error_of(reply: httpx.Response, status: int) -> dict[str, Any]:
    assert reply.status_code == status, reply.text
    error: dict[str, Any] = reply.json()["error"]
    return error


@pytest.mark.parametrize("name", WRONG_FIELDS)
def test_what_is_wrong_is_said_with_its_field(stateless_app: InProcess, name: str) -> None:
    body, reason, words = WRONG_FIELDS[name]
    error = error_of(stateless_app.client.post("/v1/search", json=body), 400)
    assert (error["reason"], error["retryable"]) == (reason, False)
    assert re.search(words, error["message"]), error["message"]


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b'{"query": [}', b"\xff\xfe", b"[" * 100_000, b'{"query": "\\ud800"}'],
    ids=["nothing", "a brace", "broken", "UTF-16", "deep", "half a character"],
)
def test_what_is_no_json_cannot_be_read(stateless_app: InProcess, body: bytes) -> None:
    for address in ("/v1/search", "/v1/search/batch"):
        reply = stateless_app.client.post(address, content=body, headers={"Content-Type": "application/json"})
        error = error_of(reply, 400)
        assert error["reason"] == "invalid_request"
        assert error["message"].startswith("the body cannot be read: ")


@pytest.mark.parametrize(
    "number",
    ["NaN", "Infinity", "-Infinity", "1e999", "1" * 400],
    ids=["NaN", "Infinity", "-Infinity", "1e999", "400 digits"],
)
def test_numbers_that_are_none_are_refused_with_their_field(stateless_app: InProcess, number: str) -> None:
    for field in ('"vector": [%s]', '"text": "x", "weight": %s'):
        body = '{"query": [{' + field % number + "}]}"
        reply = stateless_app.client.post("/v1/search", content=body, headers={"Content-Type": "application/json"})
        assert "query.0." in error_of(reply, 400)["message"]


def test_other_kinds_of_body_are_refused(stateless_app: InProcess) -> None:
    for address in ("/v1/search", "/v1/search/batch"):
        for kind in ("text/plain", "application/x-www-form-urlencoded", "", "application/jsonp"):
            reply = stateless_app.client.post(address, content=b"{}", headers={"Content-Type": kind})
            assert error_of(reply, 415)["reason"] == "unsupported_media_type"


def test_a_search_needs_the_scope_search(stateless_keyed_app: InProcess) -> None:
    client = stateless_keyed_app.client
    for address in ("/v1/search", "/v1/search/batch"):
        assert error_of(client.post(address, json={}), 401)["reason"] == "access_refused"
        assert error_of(client.post(address, json={}, headers=bearer(SUBMIT_KEY)), 403)["reason"] == "scope_missing"
        for key in (SEARCH_KEY, ADMIN_KEY):
            assert error_of(client.post(address, json={}, headers=bearer(key)), 400)["reason"] == "invalid_query"


# -- forms --------------------------------------------------------------------------------------------------------


def test_a_form_is_refused_by_what_is_wrong_with_it(stateless_app: InProcess) -> None:
    client, photo = stateless_app.client, jpeg(1)
    many = [("image", (f"{number}.jpg", photo)) for number in range(17)]
    error = error_of(client.post("/v1/search", files=many), 400)
    assert (error["reason"], "Too many files" in error["message"]) == ("invalid_request", True)
    error = error_of(client.post("/v1/search", files=[("picture", ("a.jpg", photo))]), 400)
    assert error["message"].startswith("picture: a form has the files `image`")
    error = error_of(client.post("/v1/search", files=[("image", ("a.jpg", b""))]), 400)
    assert error["message"].startswith("image 0: the picture is empty")
    weights = {"request": json.dumps({"image_weights": [1, 2]})}
    error = error_of(client.post("/v1/search", files=many[:1], data=weights), 400)
    assert error["message"] == "image_weights: 2 weights for 1 uploaded pictures"
    error = error_of(client.post("/v1/search", files=many[:16], data={"request": json.dumps({"query": [TEXT]})}), 400)
    assert "at most 16 parts" in error["message"]
    error = error_of(client.post("/v1/search", files=many[:1], data={"request": "{"}), 400)
    assert error["reason"] == "invalid_request"
    broken = client.post("/v1/search", content=b"--x\r\n", headers={"Content-Type": "multipart/form-data; boundary=y"})
    assert error_of(broken, 400)["reason"] == "invalid_request"
    no_boundary = client.post("/v1/search", content=b"", headers={"Content-Type": "multipart/form-data"})
    assert error_of(no_boundary, 400)["reason"] == "invalid_request"


def test_a_picture_that_is_too_large_is_refused(http_settings: Settings) -> None:
    with in_process(http_settings.model_copy(update={"max_image_bytes": 1000})) as app:
        large = base64.b64encode(b"x" * 1001).decode()
        for reply in (
            app.client.post("/v1/search", files=[("image", ("a.jpg", b"x" * 1001))]),
            app.client.post("/v1/search", json={"query": [{"image_base64": large}]}),
        ):
            error = error_of(reply, 413)
            assert error["reason"] == "too_large"
            assert "max_image_bytes" in error["message"]


# -- what is sent and answered ------------------------------------------------------------------------------------


def test_every_field_reaches_the_request() -> None:
    body = SearchBody(
        collection="cats", k=3, offset=6, filter=["year>=2020", {"op": "exists", "key": "place"}], min_score=0.1,
        diversity=0.2, near_duplicates=0.9, group_by="place", group_size=2, normalize=False, exclude=["x"],
        exclude_query=False, explain=True, timeout=3, priority="low", image_weights=[-1.0],
        query=[{"image_base64": "QUJD", "weight": 2}, {"image_id": "i"}, {"text": "t"}, {"vector": [1, 0.5]}],  # type: ignore[list-item]
    )  # fmt: skip
    sent = search_of(body, Settings(), [b"DEF"])
    assert [(part.image, part.image_id, part.text, part.vector, part.weight) for part in sent.parts] == [
        (b"ABC", None, None, None, 2.0),
        (None, "i", None, None, 1.0),
        (None, None, "t", None, 1.0),
        (None, None, None, (1.0, 0.5), 1.0),
        (b"DEF", None, None, None, -1.0),
    ]
    options = sent.options
    assert (options.top_k, options.offset, options.min_score, options.diversity) == (3, 6, 0.1, 0.2)
    assert (options.near_duplicate_threshold, options.group_by, options.group_size) == (0.9, "place", 2)
    assert options.filter is not None
    assert options.filter.op == "and"
    assert (options.normalize, sent.exclude, sent.exclude_query, sent.explain) == (False, ("x",), False, True)
    assert (sent.timeout_seconds, sent.priority, sent.collection) == (3.0, "low", "cats")


def test_an_answer_names_thumbnails_of_every_id() -> None:
    provenance = Provenance(worker="w", model=MODEL, generation_id=1, seq=1, images=1)
    results = [{"rank": 1, "image_id": "a b/&ü?\udc80.jpg", "score": 1, "distance": 0}]
    answer = SearchAnswer.model_validate({"query_id": "q", "results": results, "provenance": provenance})
    document = document_of(answer, "my cats")
    assert document["results"][0]["thumbnail"] == (
        "/v1/thumbnail?id=a%20b%2F%26%C3%BC%3F%ED%B2%80.jpg&collection=my%20cats"
    )
    assert "explanation" not in document


def test_what_nobody_answers_ends_in_time_and_leaves_nothing(http_app: InProcess, http_settings: Settings) -> None:
    error = error_of(http_app.client.post("/v1/search", json={"query": [TEXT], "timeout": 0.2}), 504)
    assert (error["reason"], error["retryable"]) == ("deadline_exceeded", True)
    assert "no query worker" in error["message"]
    with connect_redis(http_settings) as redis:
        assert redis.keys("vs:reply:*") == []


def test_a_full_queue_is_busy_and_says_when_to_try_again(http_settings: Settings) -> None:
    settings = http_settings.model_copy(update={"search_queue": 1})
    with connect_redis(settings) as redis, in_process(settings) as app:
        redis.xadd(STREAMS["normal"], {"id": "0" * 32, "m": b"", "t": 600_000})
        reply = app.client.post("/v1/search", json={"query": [TEXT]})
        assert error_of(reply, 429)["reason"] == "busy"
        assert int(reply.headers["Retry-After"]) >= 1
        # other priorities have queues of their own
        error = error_of(app.client.post("/v1/search", json={"query": [TEXT], "priority": "high", "timeout": 0.2}), 504)
        assert error["reason"] == "deadline_exceeded"


def test_a_batch_answers_each_by_itself(http_settings: Settings) -> None:
    settings = http_settings.model_copy(update={"search_queue": 1})
    searches: list[Any] = [
        {"query": [TEXT], "timeout": 0.3}, {"query": [TEXT], "k": 0}, "nonsense", {"query": [TEXT]}, {"filter": "="},
    ]  # fmt: skip
    with in_process(settings) as app:
        reply = app.client.post("/v1/search/batch", json={"searches": searches})
    assert reply.status_code == 200
    errors = [one["error"] for one in reply.json()["answers"]]
    assert [one["reason"] for one in errors] == [
        "deadline_exceeded", "invalid_query", "invalid_query", "busy", "invalid_query",
    ]  # fmt: skip
    assert errors[1]["message"].startswith("k: ")


@pytest.mark.parametrize(("searches", "words"), [([], "at least 1"), ([{}] * 65, "at most 64"), ("x", "valid array")])
def test_a_batch_has_1_to_64_searches(stateless_app: InProcess, searches: Any, words: str) -> None:
    error = error_of(stateless_app.client.post("/v1/search/batch", json={"searches": searches}), 400)
    assert error["reason"] == "invalid_query"
    assert "searches: " in error["message"]
    assert words in error["message"]


def test_a_service_without_redis_says_so(http_settings: Settings, own_valkey: Any) -> None:
    valkey = own_valkey()
    gone = http_settings.model_copy(update={"redis_url": type(http_settings.redis_url)(valkey.url)})
    with in_process(gone) as app:
        valkey.kill()
        error = error_of(app.client.post("/v1/search", json={"query": [TEXT], "timeout": 1}), 503)
    assert (error["reason"], error["retryable"]) == ("redis_unavailable", True)


def test_the_description_shows_searches_with_examples(stateless_app: InProcess) -> None:
    paths = stateless_app.client.get("/openapi.json").json()["paths"]
    content = paths["/v1/search"]["post"]["requestBody"]["content"]
    assert set(content) == {"application/json", "multipart/form-data"}
    assert "$ref" not in json.dumps(content)
    for example in content["application/json"]["examples"].values():
        search_of(SearchBody.read(json.dumps(example["value"]).encode()), Settings())
    assert "example" in paths["/v1/search/batch"]["post"]["responses"]["200"]["content"]["application/json"]
