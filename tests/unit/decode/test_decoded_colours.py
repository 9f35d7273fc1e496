"""Transparency, palettes, 16 bits and other modes become the RGB that they mean."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from made_pictures import RED, WHITE, encode, pixel, png
from PIL import Image

from pipeline.decode import decode_image, upright_rgb
from pipeline.errors import (
    CorruptImage,
    UnsupportedFormat,
)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_laid_over_white(mode: str) -> None:
    clear = Image.new(mode, (4, 4), (0, 0, 0, 0) if mode == "RGBA" else (0, 0))
    assert pixel(encode(clear)) == WHITE


def test_half_transparent_black_is_middle_grey() -> None:
    red, green, blue = pixel(encode(Image.new("RGBA", (4, 4), (0, 0, 0, 128))))
    assert red == green == blue
    assert abs(red - 127) <= 1


def test_a_transparent_palette_entry_becomes_white() -> None:
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 255, 0, 0])
    assert pixel(encode(palette)) == RED
    assert pixel(encode(palette, transparency=1)) == WHITE
    assert pixel(encode(palette, transparency=bytes([255, 0]))) == WHITE
    assert pixel(encode(palette, "GIF", transparency=1)) == WHITE


def test_a_transparent_colour_of_an_rgb_or_grey_png_becomes_white() -> None:
    assert pixel(encode(Image.new("RGB", (4, 4), RED), transparency=RED)) == WHITE
    assert pixel(encode(Image.new("L", (4, 4), 9), transparency=9)) == WHITE
    assert pixel(encode(Image.new("1", (4, 4), 0), transparency=0)) == WHITE


def test_a_transparent_level_of_a_16_bit_png_becomes_white() -> None:
    rows = b"\x00" + struct.pack(">HH", 300, 0x8080)
    data = png(2, 1, rows, kind=0, depth=16, transparent=struct.pack(">H", 300))
    assert pixel(data, 0) == WHITE
    assert pixel(data, 1) == (128, 128, 128)


def test_a_16_bit_rgb_png_keeps_its_colours() -> None:
    assert pixel(png(1, 1, b"\x00" + struct.pack(">HHH", 0xFFFF, 0x8000, 0), kind=2, depth=16)) == (
        255,
        128,
        0,
    )


def test_palette_grey_one_bit_and_cmyk_pictures_become_rgb() -> None:
    assert pixel(encode(Image.new("L", (4, 4), 77))) == (77, 77, 77)
    assert pixel(encode(Image.new("1", (4, 4), 1))) == WHITE
    assert pixel(encode(Image.new("CMYK", (4, 4), (0, 0, 0, 0)), "TIFF")) == WHITE
    red, green, blue = pixel(encode(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG"))
    assert red > 240
    assert max(green, blue) < 15


def test_16_bit_grey_is_rescaled_and_not_clipped() -> None:
    levels = np.array([[0, 257, 128 * 257, 65535]], dtype=np.uint16)
    data = encode(Image.fromarray(levels))
    assert [pixel(data, x)[0] for x in range(4)] == [0, 1, 128, 255]


def test_big_endian_16_bit_tiff_reads_as_little_endian_does() -> None:
    levels = np.array([[0, 32768, 65535]], dtype=np.uint16)
    little = encode(Image.fromarray(levels), "TIFF")
    big = encode(Image.frombytes("I;16B", (3, 1), levels.astype(">u2").tobytes()), "TIFF")
    assert big[:2] == b"MM"
    assert [pixel(big, x) for x in range(3)] == [pixel(little, x) for x in range(3)]


def test_32_bit_integer_grey_outside_16_bits_is_spread_between_its_extremes() -> None:
    data = encode(Image.fromarray(np.array([[-1000, 0, 1000]], dtype=np.int32)), "TIFF")
    assert [pixel(data, x)[0] for x in range(3)] == [0, 128, 255]


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        ([0.0, 0.5, 1.0], [0, 128, 255]),
        ([0.0, 32767.5, 65535.0], [0, 128, 255]),
        ([-1.0, 0.0, 1.0], [0, 128, 255]),
        ([float("nan"), 0.0, 1.0], [0, 0, 255]),
        ([0.0, 0.0, 0.0], [0, 0, 0]),
    ],
)
def test_float_grey_is_rescaled_by_the_range_of_its_values(samples: list[float], expected: list[int]) -> None:
    data = encode(Image.fromarray(np.array([samples], dtype=np.float32)), "TIFF")
    assert [pixel(data, x)[0] for x in range(3)] == expected


def test_a_float_picture_without_one_finite_sample_is_corrupt() -> None:
    data = encode(Image.fromarray(np.full((2, 2), np.nan, dtype=np.float32)), "TIFF")
    with pytest.raises(CorruptImage, match="finite"):
        decode_image(data)


@pytest.mark.parametrize("mode", ["La", "RGBa", "PA", "HSV", "YCbCr", "RGBX", "I;16B"])
def test_every_other_mode_of_a_callers_own_picture_becomes_rgb(mode: str) -> None:
    decoded = upright_rgb(Image.new(mode, (5, 3)))
    assert (decoded.picture.mode, decoded.width, decoded.height, decoded.format) == ("RGB", 5, 3, "")


def test_a_callers_lab_picture_is_refused() -> None:
    with pytest.raises(UnsupportedFormat, match="Lab"):
        upright_rgb(Image.new("LAB", (2, 2)))
