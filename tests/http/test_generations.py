"""Generations over HTTP: list, switch, and what cannot be switched to."""

from __future__ import annotations

from seeded import NAMES, seed

from pipeline.embedders.baseline import BaselineEmbedder


def _begin(app):
    catalog = app.service.catalog
    return catalog.lifecycle.begin(catalog.collections.get("default").id, BaselineEmbedder().identity, rebuild=True)


def test_a_complete_generation_is_switched_to(http_app, http_settings, tmp_path):
    seed(http_settings, tmp_path / "photos")
    (old,) = http_app.client.get("/v1/generations").json()
    new = _begin(http_app)
    while http_app.service.catalog.lifecycle.copy_vectors(old["id"], new.id):
        pass
    reply = http_app.client.post(f"/v1/generations/{new.id}/activate")
    assert reply.status_code == 200
    assert (reply.json()["id"], reply.json()["state"]) == (new.id, "active")
    states = {one["id"]: one["state"] for one in http_app.client.get("/v1/generations").json()}
    assert states == {old["id"]: "standby", new.id: "active"}


def test_an_incomplete_one_is_switched_to_only_when_that_is_allowed(http_app, http_settings, tmp_path):
    seed(http_settings, tmp_path / "photos")
    new = _begin(http_app)
    listed = http_app.client.get("/v1/generations").json()
    assert [one["missing"] for one in listed] == [0, len(NAMES)]
    refused = http_app.client.post(f"/v1/generations/{new.id}/activate")
    assert (refused.status_code, refused.json()["error"]["reason"]) == (409, "generation_incomplete")
    allowed = http_app.client.post(f"/v1/generations/{new.id}/activate", params={"allow_missing": True})
    assert allowed.status_code == 200


def test_a_number_that_no_generation_has_is_not_found(stateless_app):
    reply = stateless_app.client.post("/v1/generations/77/activate")
    assert (reply.status_code, reply.json()["error"]["reason"]) == (404, "unknown_generation")
    assert stateless_app.client.post(f"/v1/generations/{2**70}/activate").status_code == 422
