"""Failures over HTTP: pages of them, and another try."""

from __future__ import annotations

from seeded import BROKEN, seed


def test_failed_images_are_queued_again_and_gone_ones_are_not_forgotten(http_app, http_settings, tmp_path):
    seed(http_settings, tmp_path / "photos")
    (tmp_path / "photos" / BROKEN[1]).unlink()
    reply = http_app.client.post("/v1/failures/retry")
    assert reply.status_code == 202
    (job,) = reply.json()
    assert (job["kind"], job["counts"]["listed"]) == ("retry", 2)
    assert [one["image_id"] for one in http_app.client.get("/v1/failures").json()] == list(BROKEN)


def test_a_failure_says_what_why_and_when(http_app, http_settings, tmp_path):
    seed(http_settings, tmp_path / "photos")
    first, _ = http_app.client.get("/v1/failures").json()
    assert first.keys() >= {"image_id", "source_uri", "reason", "message", "attempts", "first_at", "last_at"}
    assert (first["image_id"], first["reason"], first["attempts"]) == (BROKEN[0], "corrupt", 1)


def test_a_page_has_a_bound(stateless_app):
    assert stateless_app.client.get("/v1/failures?limit=100000").status_code == 422
    assert stateless_app.client.get("/v1/failures?limit=0").status_code == 422
