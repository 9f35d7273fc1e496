"""Collections over HTTP, on both databases: what there is, and which filters can be offered."""

from __future__ import annotations

import pytest
from http_api import in_process
from pydantic import SecretStr
from seeded import ATTRIBUTES, BROKEN, NAMES, seed


@pytest.fixture(params=["sqlite", "postgresql"])
def settings(request, http_settings, tmp_path):
    chosen = http_settings
    if request.param == "postgresql":
        url = request.getfixturevalue("postgres_url")
        chosen = http_settings.model_copy(update={"database_url": SecretStr(url)})
    seed(chosen, tmp_path / "photos")
    return chosen


def test_what_the_catalog_knows_is_told_the_same_from_both_databases(settings):
    with in_process(settings) as app:
        (one,) = app.client.get("/v1/collections").json()
        found = app.client.get("/v1/collections/default/attributes").json()["attributes"]
        failed = app.client.get("/v1/failures", params={"limit": 1}).json()
        more = app.client.get("/v1/failures", params={"limit": 5, "after": failed[-1]["image_id"]}).json()
        dresses = app.client.get("/v1/images", params={"filter": ["label=dress", "year>=2021"]}).json()
        refused = app.client.get("/v1/images", params={"after": "a\0"})
        absent = app.client.get("/v1/images/no-such.jpg")
    assert one | {"last_seq": 0, "active_generation": 0} == {
        "name": "default",
        "images": len(NAMES),
        "failures": len(BROKEN),
        "model": "baseline",
        "active_generation": 0,
        "last_seq": 0,
        "text_search": False,
    }
    assert one["last_seq"] >= len(NAMES)
    assert [(each["key"], each["kind"]) for each in found] == [
        ("label", "text"),
        ("new", "boolean"),
        ("tags", "text"),
        ("year", "number"),
    ]
    label, new, _, year = found
    assert label["values"] == [{"value": "dress", "count": 2}, {"value": "cat", "count": 1}]
    assert new["values"] == [{"value": False, "count": 1}, {"value": True, "count": 1}]
    assert (year["min"], year["max"]) == (2020, 2024.5)
    assert [each["image_id"] for each in failed + more] == list(BROKEN)
    assert [each["image_id"] for each in dresses["images"]] == ["b.jpg"]
    assert dresses["images"][0]["attributes"] == ATTRIBUTES["b.jpg"]
    assert (refused.status_code, refused.json()["error"]["reason"]) == (400, "invalid_query")
    assert (absent.status_code, absent.json()["error"]["reason"]) == (404, "unknown_id")


def test_attributes_of_deleted_images_are_offered_no_more(http_app, http_settings, tmp_path):
    seed(http_settings, tmp_path / "photos")
    http_app.client.delete("/v1/images/cats/tom.jpg")
    found = http_app.client.get("/v1/collections/default/attributes").json()["attributes"]
    assert [one["key"] for one in found] == ["label", "new", "year"]


def test_nothing_stored_yet_is_an_empty_list(stateless_app):
    assert stateless_app.client.get("/v1/collections").json() == []


@pytest.mark.parametrize(
    "path",
    [
        "/v1/collections/none/attributes",
        "/v1/generations?collection=none",
        "/v1/failures?collection=none",
        "/v1/images?collection=none",
        "/v1/images/a.jpg?collection=none",
        "/v1/thumbnail?id=a&collection=none",
        "/v1/original?id=a&collection=none",
        "/v1/jobs?collection=none",
    ],
)
def test_an_unknown_collection_is_told(stateless_app, path):
    reply = stateless_app.client.get(path)
    assert (reply.status_code, reply.json()["error"]["reason"]) == (404, "unknown_collection")
