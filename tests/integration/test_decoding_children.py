"""Decoding in real child processes: the same pixels, and the guilty picture alone when one crashes or stalls."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import numpy as np
import psutil
import pytest
from pictures import jpeg, picture, write_photos
from PIL import Image
from PIL.AvifImagePlugin import SUPPORTED as AVIF_SUPPORTED
from pydantic import SecretStr
from servers import wait_for

from pipeline.decode import DecodedImage, DecodeLimits, decode_image
from pipeline.decoding_children import ChildLimits, DecodingChildren
from pipeline.errors import (
    CorruptImage,
    DecodeError,
    DecodeOutOfMemory,
    DecoderCrashed,
    DecoderUnavailable,
    DecodeTimeout,
    EmptyImage,
    TooManyBytes,
    TooManyPixels,
    UnsupportedFormat,
)
from query_service.client import SearchClient
from query_service.http.pictures import Pictures
from storage.settings import Settings
from visual_search.collection import ImageCollection
from workers.job_client import JobClient

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="child processes need Linux or macOS")
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the memory of a process")

FAILPOINTS = (str(Path(__file__).parents[1] / "decoding_child_with_failpoint.py"),)
LIMITS = DecodeLimits()
ROOMY = ChildLimits(1024**3, 60)


@pytest.fixture(scope="module")
def children() -> Iterator[DecodingChildren]:
    made = DecodingChildren(ROOMY, 2)
    yield made
    made.close()


@pytest.fixture
def poisoned() -> Iterator[DecodingChildren]:
    """One child with failpoints; 64 MB a picture."""
    made = DecodingChildren(ChildLimits(64 * 1024**2, 60), 1, FAILPOINTS)
    yield made
    made.close()


def encode(image: Image.Image, name: str, **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, format=name, **options)
    return buffer.getvalue()


def flat_png(width: int, height: int) -> bytes:
    return encode(Image.new("RGB", (width, height), "red"), "PNG", compress_level=1)


def sideways() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


SAMPLES = {
    "jpeg": encode(picture(1, (700, 500)), "JPEG"),
    "jpeg-cmyk": encode(picture(2).convert("CMYK"), "JPEG"),
    "jpeg-grey": encode(picture(3).convert("L"), "JPEG"),
    "jpeg-progressive-exif": encode(picture(4, (900, 600)), "JPEG", progressive=True, exif=sideways()),
    "png-palette": encode(picture(5).convert("P"), "PNG", transparency=3),
    "png-alpha": encode(picture(6).convert("RGBA"), "PNG"),
    "png-16": encode(Image.fromarray(np.arange(60_000, dtype=np.uint16).reshape(200, 300)), "PNG"),
    "png-1": encode(picture(7).convert("1"), "PNG"),
    "gif": encode(picture(8).convert("P"), "GIF"),
    "bmp": encode(picture(9), "BMP"),
    "tiff-lzw": encode(picture(10), "TIFF", compression="tiff_lzw"),
    "tiff-jpeg": encode(picture(10), "TIFF", compression="jpeg"),
    "webp": encode(picture(11), "WEBP", exif=sideways()),
    "webp-lossless": encode(picture(12).convert("RGBA"), "WEBP", lossless=True),
    **({"avif": encode(picture(13), "AVIF")} if AVIF_SUPPORTED else {}),
    "jpeg-bands": encode(picture(14, (2500, 1800)), "JPEG"),
    "large-bands": encode(picture(14, (2500, 1800)), "PNG", compress_level=1),
    "thin": encode(picture(15, (3, 4000)), "PNG"),
}


@pytest.mark.parametrize("at_least", [None, (224, 224)], ids=["full", "reduced"])
@pytest.mark.parametrize("name", SAMPLES)
def test_a_child_gives_the_same_picture(children, name, at_least):
    here = decode_image(SAMPLES[name], LIMITS, at_least=at_least)
    there = children(SAMPLES[name], LIMITS, at_least=at_least)
    assert (there.width, there.height, there.format) == (here.width, here.height, here.format)
    assert there.picture.mode == "RGB"
    assert np.array_equal(np.asarray(there.picture), np.asarray(here.picture))


@pytest.mark.parametrize(
    ("data", "limits", "error"),
    [
        (b"", LIMITS, EmptyImage),
        (jpeg(1), DecodeLimits(max_bytes=100), TooManyBytes),
        (jpeg(1), DecodeLimits(max_pixels=100), TooManyPixels),
        (jpeg(1)[:500], LIMITS, CorruptImage),
        (b"GIF89a", LIMITS, CorruptImage),
        (b"no picture", LIMITS, UnsupportedFormat),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_what_is_refused_is_refused_alike(children, data, limits, error):
    with pytest.raises(DecodeError) as here:
        decode_image(data, limits)
    with pytest.raises(DecodeError) as there:
        children(data, limits)
    assert type(there.value) is type(here.value) is error
    assert str(there.value) == str(here.value)


def test_a_picture_that_crashes_the_decoder_fails_alone(poisoned):
    with pytest.raises(DecoderCrashed, match="killed by SIGSEGV"):
        poisoned(jpeg(1) + b"CRASH", LIMITS)
    assert poisoned(jpeg(1), LIMITS).width == 96


def test_a_picture_that_never_ends_is_stopped():
    hasty = DecodingChildren(ChildLimits(64 * 1024**2, 3), 1, FAILPOINTS)
    try:
        with pytest.raises(DecodeTimeout, match="longer than 3 s"):
            hasty(jpeg(1) + b"LOOP", LIMITS)
        assert wait_for(lambda: _decoded_in_time(hasty), what="a picture that ends").width == 96
    finally:
        hasty.close()


def _decoded_in_time(children: DecodingChildren) -> DecodedImage | None:
    """A machine that stands still for three seconds makes any picture late."""
    with suppress(DecodeTimeout):
        return children(jpeg(1), LIMITS)
    return None


def test_a_child_without_a_parent_ends_by_its_own_limit_of_cpu():
    """The parent would wait for ten minutes; the system ends the child after a second or two of CPU."""
    made = DecodingChildren(ChildLimits(64 * 1024**2, 600), 1, (*FAILPOINTS, str(64 * 1024**2), "0.5"))
    try:
        with pytest.raises(DecodeTimeout, match="of CPU"):
            made(jpeg(1) + b"LOOP", LIMITS)
    finally:
        made.close()


@on_linux
def test_a_decoder_that_hoards_memory_fails_its_picture(poisoned):
    with pytest.raises(DecodeError) as raised:
        poisoned(jpeg(1) + b"HOARD", LIMITS)
    assert raised.value.reason in ("decoder_crashed", "decode_memory")
    assert poisoned(jpeg(1), LIMITS).width == 96


@on_linux
def test_a_real_picture_that_takes_more_memory_than_allowed_fails_alone(tmp_path):
    """64 million pixels: within the cap on pixels, and 256 MB once decoded."""
    write_photos(tmp_path / "photos", 4)
    (tmp_path / "photos" / "large.png").write_bytes(flat_png(8000, 8000))
    settings = Settings(
        data_dir=tmp_path / "home", model="baseline", decode_in_child=True, decode_child_bytes=128 * 1024**2
    )
    with ImageCollection(settings=settings) as collection:
        report = collection.index(tmp_path / "photos")
        assert (report.indexed, report.failed) == (4, 1)
        assert {one.image_id: one.reason for one in collection.failures()} == {"large.png": "decode_memory"}
        vectors = [collection.search_service.index.reconstruct(name) for name in ("even/00.jpg", "odd/01.jpg")]
    with ImageCollection(settings=Settings(data_dir=tmp_path / "plain", model="baseline")) as collection:
        collection.index(tmp_path / "photos")
        for name, vector in zip(("even/00.jpg", "odd/01.jpg"), vectors, strict=True):
            assert np.array_equal(collection.search_service.index.reconstruct(name), vector)


def test_a_large_picture_is_decoded_where_memory_allows_it(children):
    assert children(flat_png(8000, 5000), LIMITS).picture.size == (8000, 5000)


def test_a_child_can_open_neither_file_nor_connection_and_knows_no_password(monkeypatch, poisoned):
    monkeypatch.setenv("VISUAL_SEARCH_DATABASE_URL", "postgresql://me:s3cret@db/x")
    with pytest.raises(CorruptImage, match=r"opened: \[\]"):
        poisoned(jpeg(1) + b"FILES", LIMITS)


def _children_of_this_process() -> list[psutil.Process]:
    found = []
    for one in psutil.Process().children():
        with suppress(psutil.NoSuchProcess):  # also raised for one that is dead and not waited for
            if "pipeline.decoding_child" in one.cmdline():
                found.append(one)
    return found


def test_a_child_that_dies_while_idle_is_replaced_and_nobody_is_blamed():
    made = DecodingChildren(ROOMY, 1)
    try:
        made(jpeg(1), LIMITS)
        before = {one.pid for one in _children_of_this_process()}
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        assert made(jpeg(2), LIMITS).width == 96
        wait_for(lambda: not before & {one.pid for one in _children_of_this_process()}, what="the dead to be gone")
    finally:
        made.close()


def test_children_are_reused_and_no_more_than_allowed(children):
    wanted = [jpeg(number) for number in range(40)]
    found: list[int] = []
    before = {one.pid for one in _children_of_this_process()}
    threads = [threading.Thread(target=lambda data=data: found.append(children(data, LIMITS).width)) for data in wanted]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [96] * 40
    assert len({one.pid for one in _children_of_this_process()} | before) <= 2


def test_closing_leaves_no_process():
    made = DecodingChildren(ROOMY, 2)
    before = {one.pid for one in _children_of_this_process()}
    made(jpeg(1), LIMITS)
    mine = {one.pid for one in _children_of_this_process()} - before
    assert len(mine) == 1
    made.close()
    assert not any(psutil.pid_exists(pid) for pid in mine)


def test_a_child_that_cannot_start_is_not_the_pictures_fault(tmp_path):
    made = DecodingChildren(ROOMY, 1, (str(tmp_path / "nothing.py"),))
    with pytest.raises(DecoderUnavailable, match="ended with status 2") as raised:
        made(jpeg(1), LIMITS)
    assert raised.value.retryable


def test_thumbnails_are_made_from_children_alike(children, tmp_path):
    (tmp_path / "a.jpg").write_bytes(SAMPLES["jpeg-progressive-exif"])
    uri = (tmp_path / "a.jpg").as_uri()
    here = Pictures(10**8, 10**8).thumbnail(uri, "", 128)
    there = Pictures(10**8, 10**8, children=children).thumbnail(uri, "", 128)
    assert there == here


@on_linux
@pytest.mark.slow
def test_workers_and_searches_go_on_after_the_guilty_picture(tmp_path, redis_url, start_role, worker_process):
    write_photos(tmp_path / "photos", 6)
    (tmp_path / "photos" / "large.png").write_bytes(flat_png(8000, 8000))
    settings = Settings(
        data_dir=tmp_path / "home",
        model="baseline",
        redis_url=SecretStr(redis_url),
        decode_in_child=True,
        decode_child_bytes=128 * 1024**2,
        batch_images=4,
    )
    roles = [start_role(module, settings) for module in ("workers.aggregator", "query_service.worker")]
    for role in roles:
        wait_for(lambda role=role: role.says("ready"), what=str(role.log))
    worker_process(settings)
    with JobClient(settings) as jobs:
        number = jobs.submit(tmp_path / "photos").job.id
        wait_for(lambda: jobs.get(number).is_over, what="the job to be over")
        assert (jobs.get(number).indexed, jobs.get(number).failed) == (6, 1)
        collection = jobs.catalog.collections.get("default")
        assert [one.reason for one in jobs.catalog.failures.list(collection.id)] == ["decode_memory"]
    with SearchClient(settings) as client:
        wait_for(lambda: client.search(image=jpeg(0), timeout=60).results, what="the index to be followed")
        with pytest.raises(DecodeOutOfMemory):
            client.search(image=flat_png(8000, 8000), timeout=60)
        assert client.search(image=jpeg(0), timeout=60).results[0].image_id == "even/00.jpg"
