"""What is no picture, too much, cut off or of another format is refused with its reason."""

from __future__ import annotations

import struct
from io import BytesIO

import numpy as np
import pytest
from made_pictures import FORMATS, encode, gradient, png
from PIL import Image, ImageFile

from pipeline.decode import DecodeLimits, decode_image, is_large, upright_rgb
from pipeline.errors import (
    CorruptImage,
    EmptyImage,
    TooManyBytes,
    TooManyPixels,
    UnsupportedFormat,
)
from pipeline.picture_formats import recognise_format


def test_no_bytes_and_no_pixels_are_empty() -> None:
    with pytest.raises(EmptyImage):
        decode_image(b"")
    with pytest.raises(EmptyImage):
        upright_rgb(Image.new("RGB", (0, 5)))


def test_a_header_without_pixels_is_corrupt() -> None:
    with pytest.raises(CorruptImage):
        decode_image(png(0, 5, b"", kind=2, depth=8))


@pytest.mark.parametrize(
    "data", [b"%PDF-1.7 some document", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"x", b"\x00" * 64]
)
def test_other_files_are_an_unsupported_format(data: bytes) -> None:
    with pytest.raises(UnsupportedFormat) as caught:
        decode_image(data)
    assert caught.value.reason == "unsupported_format"


@pytest.mark.parametrize("brand", [b"heic", b"mif1", b"heix"])
def test_heif_is_refused_with_the_advice_to_convert(brand: bytes) -> None:
    data = struct.pack(">I", 24) + b"ftyp" + brand + b"\x00" * 4 + b"mif1heic" + b"\x00" * 40
    with pytest.raises(UnsupportedFormat, match="HEIF.*convert"):
        decode_image(data)


def test_avif_is_told_from_heif_by_its_compatible_brands() -> None:
    data = struct.pack(">I", 28) + b"ftypmif1" + b"\x00" * 4 + b"mif1avifmiaf"
    assert recognise_format(data) == "AVIF"


def test_a_format_that_pillow_knows_but_the_list_does_not_is_refused() -> None:
    with pytest.raises(UnsupportedFormat):
        decode_image(encode(gradient(), "PPM"))


def test_too_many_bytes_are_refused_before_opening() -> None:
    data = encode(gradient())
    with pytest.raises(TooManyBytes) as caught:
        decode_image(data, DecodeLimits(max_bytes=len(data) - 1))
    assert caught.value.reason == "too_large"
    assert decode_image(data, DecodeLimits(max_bytes=len(data))).width == 40


@pytest.mark.parametrize("image_format", FORMATS)
def test_too_many_pixels_are_refused(image_format: str) -> None:
    data = encode(gradient(), image_format)
    with pytest.raises(TooManyPixels) as caught:
        decode_image(data, DecodeLimits(max_pixels=40 * 30 - 1))
    assert caught.value.reason == "too_many_pixels"
    assert decode_image(data, DecodeLimits(max_pixels=40 * 30)).height == 30


def test_a_bomb_is_refused_by_its_header_without_decoding() -> None:
    """A few bytes that claim 40,000 x 40,000 pixels: decoding would take 6 GB."""
    bomb = png(40_000, 40_000, b"\x00" * 64, kind=2, depth=8)
    with pytest.raises(TooManyPixels, match="40000 x 40000"):
        decode_image(bomb)


def test_the_cap_is_ours_whatever_pillows_own_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow's cap is a process-wide variable that belongs to the program around us."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert decode_image(encode(gradient())).width == 40


@pytest.mark.parametrize("image_format", FORMATS)
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_file_that_is_cut_off_is_corrupt(image_format: str, share: float) -> None:
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    data = encode(noise, image_format)
    with pytest.raises(CorruptImage) as caught:
        decode_image(data[: int(len(data) * share)])
    assert caught.value.reason == "corrupt"


def test_truncated_pictures_stay_refused_in_pillow_itself() -> None:
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


def test_a_picture_that_does_not_fit_into_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(self: Image.Image) -> None:
        raise MemoryError

    monkeypatch.setattr(ImageFile.ImageFile, "load", no_memory)
    with pytest.raises(TooManyPixels, match="memory"):
        decode_image(encode(gradient()))


def test_a_picture_is_large_by_its_header_alone_and_a_refused_one_is_not():
    large = Image.new("L", (8000, 5000))
    buffer = BytesIO()
    large.save(buffer, format="PNG")
    limits = DecodeLimits()
    assert is_large(buffer.getvalue()[:100], limits)
    assert not is_large(buffer.getvalue(), DecodeLimits(max_pixels=10))
    assert not is_large(b"nonsense", limits)
    assert not is_large(b"", limits)
