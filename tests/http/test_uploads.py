"""Pictures sent over HTTP: stored, queued, and every way to send them wrong."""

from __future__ import annotations

import json

import pytest
from http_api import in_process
from pictures import jpeg

from storage.errors import ImageTooLarge, InvalidKey, StorageDenied, StorageUnavailable, UploadsUnusable
from storage.images.allowed_sources import readable_sources
from storage.images.locate import ImageReader
from storage.images.uploads import kept_as_configured


def _post(app, files, **fields):
    return app.client.post("/v1/images", files=[("image", file) for file in files], data=fields)


def test_pictures_are_stored_and_queued_with_their_attributes(http_app):
    given = {"cats/tom.jpg": {"label": "cat"}}
    reply = _post(
        http_app,
        [("x.jpg", jpeg(1)), ("y.jpg", jpeg(2))],
        image_id=["cats/tom.jpg", "b"],
        attributes=json.dumps(given),
        collection="shop",
    )
    assert reply.status_code == 202
    job = reply.json()
    assert (job["kind"], job["counts"]["listed"], job["state"]) == ("upload", 2, "running")
    batch = http_app.service.catalog.batches.lease(1, "test", seconds=60)
    items = {item.image_id: item for item in batch.items}
    assert ImageReader().read(items["cats/tom.jpg"].uri) == jpeg(1)
    assert items["cats/tom.jpg"].attributes == given["cats/tom.jpg"]
    assert items["b"].attributes is None


def test_pictures_are_kept_in_s3_where_pods_share_no_folder(http_settings, s3_bucket, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_bucket.endpoint_url)
    address = f"s3://{s3_bucket.name}/uploads"
    settings = http_settings.model_copy(update={"uploads_address": address, "job_sources": ["/nowhere"]})
    with in_process(settings) as app:
        assert _post(app, [("x.jpg", jpeg(1))], image_id=["cats/tom.jpg"], collection="shop").status_code == 202
        [item] = app.service.catalog.batches.lease(1, "test", seconds=60).items
    assert item.uri == f"{address}/shop/cats/tom.jpg"
    stored = s3_bucket.client.get_object(Bucket=s3_bucket.name, Key="uploads/shop/cats/tom.jpg")
    assert stored["Body"].read() == jpeg(1)
    assert not (http_settings.data_dir / "uploads").exists()
    assert ImageReader(allowed=readable_sources(settings)).read(item.uri) == jpeg(1)


def test_a_bucket_that_is_not_there_is_the_services_fault_and_nothing_is_queued(
    http_settings, s3_bucket, monkeypatch, caplog
):
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_bucket.endpoint_url)
    with in_process(http_settings.model_copy(update={"uploads_address": "s3://nowhere-to-be-found"})) as app:
        reply = _post(app, [("x.jpg", jpeg(1))])
        error = reply.json()["error"]
        assert (reply.status_code, error["reason"], error["retryable"]) == (500, "uploads_unusable", False)
        assert app.service.catalog.jobs.list() == []
    assert "nowhere-to-be-found" not in reply.text, "who sends a picture need not know where it goes"
    [line] = [one.getMessage() for one in caplog.records if error["id"] in one.getMessage()]
    assert "uploads_address" in line
    assert "there is no bucket 'nowhere-to-be-found'" in line


@pytest.mark.parametrize("error", [ImageTooLarge, InvalidKey, StorageUnavailable])
def test_what_is_wrong_with_a_picture_or_passes_stays_what_it_is(error):
    with pytest.raises(error), kept_as_configured():
        raise error("x")
    with pytest.raises(UploadsUnusable, match="check the credentials"), kept_as_configured():
        raise StorageDenied("check the credentials")


def test_file_names_are_the_ids_without_the_senders_folders(http_app, http_settings):
    reply = _post(http_app, [("C:\\photos\\a.jpg", jpeg(1)), ("../../etc/b.jpg", jpeg(2)), ("ünï 🐈.jpg", jpeg(3))])
    assert reply.status_code == 202
    stored = [path.name for path in (http_settings.data_dir / "uploads" / "default").rglob("*") if path.is_file()]
    assert sorted(stored) == sorted(["a.jpg", "b.jpg", "ünï 🐈.jpg"])


@pytest.mark.parametrize("trick", ["../../evil.jpg", "/etc/passwd", "a//b", "./x", "..", "a/../b"])
def test_ids_with_path_tricks_are_refused_before_anything_is_stored(http_app, http_settings, trick):
    reply = _post(http_app, [("good.jpg", jpeg(1)), ("x.jpg", jpeg(2))], image_id=["good.jpg", trick])
    assert (reply.status_code, reply.json()["error"]["reason"]) == (400, "invalid_key")
    assert not (http_settings.data_dir / "uploads").exists()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "invalid_id"),
        ("x" * 4096, "invalid_id"),
        ("a/" + "x" * 256, "invalid_id"),
        ("é" * 128, "invalid_id"),
        ("a\nb", "invalid_id"),
        ("a\x7fb", "invalid_id"),
        ("a\0b", "invalid_query"),
        ("folder/", "invalid_id"),
    ],
    ids=["empty", "4 KiB", "long part", "long in bytes", "line break", "delete", "NUL", "folder"],
)
def test_ids_that_cannot_be_are_refused(stateless_app, name, reason):
    reply = _post(stateless_app, [("x.jpg", jpeg(1))], image_id=[name])
    assert (reply.status_code, reply.json()["error"]["reason"]) == (400, reason)


@pytest.mark.parametrize(
    ("files", "fields", "status", "reason"),
    [
        ([("a", b"1"), ("a", b"2")], {}, 409, "duplicate_id"),
        ([("a", b"1"), ("b", b"2")], {"image_id": ["c"]}, 400, "invalid_query"),
        ([("a", b"1")], {"surprise": "1"}, 400, "invalid_query"),
        ([("a", b"1")], {"attributes": "{"}, 400, "invalid_attribute"),
        ([("a", b"1")], {"attributes": "[" * 100_000}, 400, "invalid_attribute"),
        ([("a", b"1")], {"attributes": '{"a": 1}'}, 400, "invalid_attribute"),
        ([("a", b"1")], {"attributes": '{"a": {"x": NaN}}'}, 400, "invalid_attribute"),
        ([("a", b"1")], {"attributes": '{"b": {"x": 1}}'}, 400, "invalid_attribute"),
        ([("a", b"1")], {"collection": "../x"}, 400, "invalid_collection_name"),
        ([("a", b"1")], {"image": "text"}, 400, "invalid_query"),
    ],
    ids=[
        "twice",
        "too few ids",
        "unknown field",
        "broken",
        "deep",
        "no object",
        "NaN",
        "of none",
        "collection",
        "text",
    ],
)
def test_forms_that_make_no_sense_are_clear_errors(stateless_app, files, fields, status, reason):
    reply = _post(stateless_app, files, **fields)
    assert (reply.status_code, reply.json()["error"]["reason"]) == (status, reason)


def test_what_is_no_form_is_refused(stateless_app):
    assert stateless_app.client.post("/v1/images", json={}).status_code == 415
    broken = stateless_app.client.post("/v1/images", content=b"x", headers={"Content-Type": "multipart/form-data"})
    assert broken.status_code == 400
    assert _post(stateless_app, [], collection="x").status_code in (400, 415)


def test_a_picture_over_the_cap_is_refused_and_nothing_is_stored(http_settings):
    with in_process(http_settings.model_copy(update={"max_image_bytes": 1000})) as app:
        reply = _post(app, [("a.jpg", b"x" * 10), ("b.jpg", b"x" * 2000)])
    assert (reply.status_code, reply.json()["error"]["reason"]) == (413, "too_large")
    assert not (http_settings.data_dir / "uploads").exists()
