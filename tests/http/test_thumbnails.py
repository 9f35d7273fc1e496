"""Thumbnails and originals over HTTP: upright, small, remembered; from folders and S3; only of known images."""

from __future__ import annotations

import io
import os
from urllib.parse import quote

import pytest
from pictures import jpeg
from PIL import Image
from seeded import seed

from query_service.http.pictures import Pictures
from visual_search.collection import ImageCollection


@pytest.fixture
def photos(http_settings, tmp_path):
    seed(http_settings, tmp_path / "photos")
    return tmp_path / "photos"


def _opened(reply):
    assert reply.status_code == 200, reply.text
    return Image.open(io.BytesIO(reply.content))


def _rotated(size):
    """A JPEG that lies on its side, as its EXIF says: red on top once it is upright."""
    picture = Image.new("RGB", size, "blue")
    picture.paste("red", (0, 0, size[0] // 2, size[1]))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn a quarter clockwise
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", exif=exif, quality=95)
    return buffer.getvalue()


@pytest.mark.parametrize("size", [16, 256, 1024])
def test_a_thumbnail_fits_its_size_and_is_never_enlarged(http_app, photos, size):
    found = _opened(http_app.client.get("/v1/thumbnail", params={"id": "a.jpg", "size": size}))
    assert found.format == "JPEG"
    assert found.size == (min(size, 320), round(min(size, 320) * 200 / 320))


@pytest.mark.parametrize("size", [0, 15, 1025, 10**30, "x"])
def test_other_sizes_are_refused(stateless_app, size):
    assert stateless_app.client.get(f"/v1/thumbnail?id=a.jpg&size={size}").status_code == 422


def test_both_addresses_give_the_same_also_for_odd_ids(http_app, photos):
    for name in ("cats/tom.jpg", "cats/ünï & 100%.jpg", "cats/x?y#z.jpg"):
        by_query = http_app.client.get("/v1/thumbnail", params={"id": name})
        by_path = http_app.client.get(f"/v1/images/{quote(name)}/thumbnail")
        assert by_query.status_code == 200
        assert by_path.content == by_query.content
        assert http_app.client.get(f"/v1/images/{quote(name)}/original").content == (photos / name).read_bytes()


def test_a_picture_on_its_side_is_shown_upright(http_app, http_settings, tmp_path):
    folder = tmp_path / "rotated"
    folder.mkdir()
    (folder / "side.jpg").write_bytes(_rotated((400, 200)))
    with ImageCollection(settings=http_settings) as images:
        images.index(folder)
    found = _opened(http_app.client.get("/v1/thumbnail?id=side.jpg&size=100")).convert("RGB")
    assert found.size == (50, 100)
    assert found.getpixel((25, 10))[0] > 200
    assert found.getpixel((25, 90))[2] > 200


def test_what_the_browser_has_is_not_sent_again(http_app, photos):
    for path in ("/v1/thumbnail?id=a.jpg", "/v1/original?id=a.jpg"):
        first = http_app.client.get(path)
        assert first.headers["cache-control"].startswith("private")
        again = http_app.client.get(path, headers={"If-None-Match": f'"other", W/{first.headers["etag"]}'})
        assert (again.status_code, again.content) == (304, b"")


def test_a_file_that_changed_since_is_shown_as_it_is_and_not_taken_for_the_old_one(http_app, photos):
    tag = http_app.client.get("/v1/thumbnail?id=b.jpg&size=64").headers["etag"]
    (photos / "a.jpg").write_bytes(jpeg(77))
    reply = http_app.client.get("/v1/thumbnail?id=a.jpg&size=64")
    assert reply.status_code == 200
    assert reply.headers["etag"] != tag


def test_an_original_is_what_its_bytes_say_and_never_a_page(http_app, photos):
    good = http_app.client.get("/v1/original", params={"id": "cats/ünï & 100%.jpg"})
    assert good.headers["content-type"] == "image/jpeg"
    assert good.headers["content-disposition"] == "inline; filename*=UTF-8''%C3%BCn%C3%AF%20%26%20100%25.jpg"
    (photos / "a.jpg").write_bytes(b"<script>alert(1)</script>")
    page = http_app.client.get("/v1/original?id=a.jpg")
    assert page.headers["content-type"] == "application/octet-stream"
    assert page.headers["content-disposition"].startswith("attachment")
    assert page.headers["x-content-type-options"] == "nosniff"


def test_a_file_that_is_gone_is_not_found(http_app, photos):
    (photos / "a.jpg").unlink()
    for kind in ("thumbnail", "original"):
        reply = http_app.client.get(f"/v1/{kind}?id=a.jpg")
        assert (reply.status_code, reply.json()["error"]["reason"]) == (404, "not_found")


def test_a_bucket_that_is_gone_is_the_services_fault_and_the_log_says_which(
    http_app, http_settings, s3_bucket, monkeypatch, caplog
):
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3_bucket.endpoint_url)
    s3_bucket.client.create_bucket(Bucket="soon-to-be-gone")
    s3_bucket.client.put_object(Bucket="soon-to-be-gone", Key="cat.jpg", Body=jpeg(5))
    with ImageCollection(settings=http_settings) as images:
        images.index("s3://soon-to-be-gone")
    s3_bucket.client.delete_object(Bucket="soon-to-be-gone", Key="cat.jpg")
    assert http_app.client.get("/v1/original?id=cat.jpg").status_code == 404, "the bucket is there, the file is not"
    s3_bucket.client.delete_bucket(Bucket="soon-to-be-gone")
    for kind in ("thumbnail", "original"):
        reply = http_app.client.get(f"/v1/{kind}?id=cat.jpg")
        error = reply.json()["error"]
        assert (reply.status_code, error["reason"], error["retryable"]) == (500, "image_unreachable", False)
        assert "soon-to-be-gone" not in reply.text
        [line] = [one.getMessage() for one in caplog.records if error["id"] in one.getMessage()]
        assert "there is no bucket 'soon-to-be-gone'" in line


def test_a_file_that_the_service_may_not_read_is_no_lack_of_rights_of_who_asks(http_app, photos, caplog):
    (photos / "a.jpg").unlink()
    os.mkfifo(photos / "a.jpg")  # root may read everything, but this is read by nobody
    reply = http_app.client.get("/v1/original?id=a.jpg")
    assert (reply.status_code, reply.json()["error"]["reason"]) == (500, "image_unreachable")
    assert str(photos) not in reply.text
    assert "is a fifo" in caplog.text


def test_more_pixels_than_the_cap_are_refused(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(jpeg(1, (200, 200)))
    pictures = Pictures(max_bytes=10**6, max_pixels=39_999)
    with pytest.raises(Exception, match="pixels") as refused:
        pictures.thumbnail(path.as_uri(), "", 64)
    assert refused.value.reason == "too_many_pixels"
    pictures.threads.shutdown()


def test_pictures_in_s3_are_shown_too(http_app, http_settings, s3_bucket, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3_bucket.endpoint_url)
    s3_bucket.client.put_object(Bucket=s3_bucket.name, Key="photos/s3.jpg", Body=jpeg(5, (300, 300)))
    with ImageCollection(settings=http_settings) as images:
        images.index(f"s3://{s3_bucket.name}/photos")
    assert _opened(http_app.client.get("/v1/thumbnail?id=s3.jpg&size=64")).size == (64, 64)
    assert http_app.client.get("/v1/original?id=s3.jpg").content == jpeg(5, (300, 300))
