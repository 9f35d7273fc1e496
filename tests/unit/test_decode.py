"""Decoding: what comes out upright and in RGB, and what is refused with which reason."""

from __future__ import annotations

import random
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile

from pipeline.decode import DecodeLimits, decode_image, is_large, upright_rgb
from pipeline.errors import (
    CorruptImage,
    DecodeError,
    EmptyImage,
    TooManyBytes,
    TooManyPixels,
    UnsupportedFormat,
)
from pipeline.picture_formats import recognise_format

FUZZ_SEED = 20_240_607
FUZZ_ROUNDS = 700  # per format; times 7 formats
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
RED, WHITE = (255, 0, 0), (255, 255, 255)


def encode(picture: Image.Image, image_format: str = "PNG", **options: Any) -> bytes:
    buffer = BytesIO()
    picture.save(buffer, format=image_format, **options)
    return buffer.getvalue()


def gradient(width: int = 40, height: int = 30) -> Image.Image:
    """A picture in which every pixel has its own colour."""
    rows, columns = np.mgrid[0:height, 0:width]
    channels = [columns * 255 // width, rows * 255 // height, (rows + columns) * 255 // (width + height)]
    return Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8))


def pixel(data: bytes, x: int = 0, y: int = 0) -> tuple[int, ...]:
    value = decode_image(data).picture.getpixel((x, y))
    assert isinstance(value, tuple)
    return value


def png(width: int, height: int, rows: bytes, *, kind: int, depth: int, transparent: bytes = b"") -> bytes:
    """A PNG made by hand, for what Pillow does not write."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0))
    middle = chunk(b"tRNS", transparent) if transparent else b""
    return b"\x89PNG\r\n\x1a\n" + header + middle + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("image_format", FORMATS)
def test_every_allowed_format_gives_its_rgb_picture_and_its_name(image_format: str) -> None:
    decoded = decode_image(encode(gradient(), image_format))
    assert (decoded.format, decoded.width, decoded.height) == (image_format, 40, 30)
    assert decoded.picture.mode == "RGB"
    difference = np.asarray(decoded.picture).astype(int) - np.asarray(gradient())
    assert np.abs(difference).mean() < 16  # lossy formats and 256-colour palettes stay near


@pytest.mark.parametrize("image_format", ["PNG", "BMP", "TIFF"])
def test_lossless_formats_keep_every_pixel(image_format: str) -> None:
    assert np.array_equal(np.asarray(decode_image(encode(gradient(), image_format)).picture), np.asarray(gradient()))


def test_a_multi_picture_jpeg_gives_its_first_picture() -> None:
    first = gradient()
    data = encode(first, "MPO", save_all=True, append_images=[Image.new("RGB", (40, 30), RED)], quality=95)
    decoded = decode_image(data)
    assert decoded.format == "JPEG"
    assert np.abs(np.asarray(decoded.picture).astype(int) - np.asarray(first)).mean() < 4


@pytest.mark.parametrize("image_format", ["GIF", "WEBP", "PNG", "TIFF", "AVIF"])
def test_an_animation_gives_its_first_frame(image_format: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, (0, 0, 255), (0, 255, 0))]
    data = encode(frames[0], image_format, save_all=True, append_images=frames[1:])
    red, green, blue = pixel(data, 4, 4)
    assert red > 200
    assert max(green, blue) < 50


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation_turns_the_picture_upright(image_format: str, orientation: int) -> None:
    """The stored picture is the upright one put through the inverse turn, which decoding takes back."""
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}
    stored = gradient() if orientation == 1 else gradient().transpose(Image.Transpose(undo[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    lossless = {"WEBP": {"lossless": True}, "JPEG": {"quality": 98, "subsampling": 0}}.get(image_format, {})
    decoded = decode_image(encode(stored, image_format, exif=exif, **lossless))
    assert (decoded.width, decoded.height) == (40, 30)
    assert np.abs(np.asarray(decoded.picture).astype(int) - np.asarray(gradient())).mean() < 3


# Pillow tells of damaged EXIF by a warning, an error only in a test run like this one.
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize(
    "exif", [b"Exif\x00\x00", b"Exif\x00\x00garbage!", b"Exif\x00\x00II*\x00\xff\xff\xff\xff", b"E"]
)
def test_damaged_exif_does_not_cost_a_good_picture(exif: bytes) -> None:
    decoded = decode_image(encode(gradient(), "JPEG", exif=exif))
    assert (decoded.width, decoded.height) == (40, 30)


def test_an_orientation_that_does_not_exist_counts_as_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 99
    assert decode_image(encode(gradient(), "PNG", exif=exif)).width == 40


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


def test_a_callers_picture_keeps_its_own_pixels_and_size() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    opened = Image.open(BytesIO(encode(gradient(), "PNG", exif=exif)))
    assert upright_rgb(opened).width == 30
    assert opened.size == (40, 30)


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


def mutate(data: bytes, dice: random.Random) -> bytes:
    """Damage a file in one of the ways that files are damaged."""
    damaged = bytearray(data)
    for _ in range(dice.choice((1, 1, 2, 4, 16))):
        place = dice.randrange(len(damaged))
        match dice.randrange(5):
            case 0:
                damaged[place] ^= 1 << dice.randrange(8)
            case 1:
                damaged[place] = dice.choice((0, 1, 0x7F, 0x80, 0xFF))
            case 2:
                damaged[place : place + 4] = dice.choice((b"\xff" * 4, b"\x00" * 4, b"\x7f\xff\xff\xff"))
            case 3:
                del damaged[place : place + dice.randrange(1, 64)]
            case _:
                damaged[place:place] = dice.randbytes(dice.randrange(1, 16))
        if not damaged:
            return b""
    return bytes(damaged[: dice.randrange(len(damaged))]) if dice.random() < 0.1 else bytes(damaged)


def fuzz_seeds(image_format: str) -> list[bytes]:
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a description"
    plain = gradient(20, 14)
    seeds = [encode(plain, image_format)]
    if image_format not in ("GIF", "BMP"):
        seeds.append(encode(plain, image_format, exif=exif))
    if image_format in ("GIF", "PNG", "TIFF", "WEBP"):
        seeds.append(encode(plain, image_format, save_all=True, append_images=[Image.new("RGB", (20, 14), RED)]))
    if image_format in ("PNG", "TIFF"):
        seeds.append(encode(plain.convert("P"), image_format))
        seeds.append(encode(Image.fromarray(np.arange(280, dtype=np.uint16).reshape(14, 20)), image_format))
    if image_format == "TIFF":
        seeds += [encode(plain, image_format, compression=kind) for kind in ("tiff_lzw", "jpeg", "packbits")]
        seeds.append(encode(Image.fromarray(np.ones((4, 4), dtype=np.float32)), image_format))
    if image_format == "JPEG":
        seeds.append(encode(plain, image_format, progressive=True))
        seeds.append(encode(plain.convert("CMYK"), image_format))
    return seeds


def is_refused(data: bytes, limits: DecodeLimits) -> bool:
    try:
        decoded = decode_image(data, limits)
    except DecodeError:
        return True
    assert decoded.picture.mode == "RGB"
    return False


@pytest.mark.parametrize("image_format", FORMATS)
@pytest.mark.parametrize("warnings_are", ["errors", "ignored"])
def test_whatever_the_bytes_only_decode_errors_come_out(image_format: str, warnings_are: str) -> None:
    print(f"seed {FUZZ_SEED}, {FUZZ_ROUNDS} rounds")
    dice = random.Random(f"{FUZZ_SEED} {image_format} {warnings_are}")
    seeds = fuzz_seeds(image_format)
    limits = DecodeLimits(max_pixels=1_000_000)
    refused = 0
    with warnings.catch_warnings():
        warnings.simplefilter("error" if warnings_are == "errors" else "ignore")
        for _ in range(FUZZ_ROUNDS):
            refused += is_refused(mutate(dice.choice(seeds), dice), limits)
    assert 0 < refused < FUZZ_ROUNDS


def test_decoding_on_many_threads_gives_what_one_thread_gives() -> None:
    files = [encode(gradient(20 + n, 30), FORMATS[n % len(FORMATS)]) for n in range(28)]
    alone = [decode_image(data).picture.tobytes() for data in files]
    with ThreadPoolExecutor(max_workers=8) as pool:
        together = list(pool.map(lambda data: decode_image(data).picture.tobytes(), files * 5))
    assert together == alone * 5


def test_a_picture_is_large_by_its_header_alone_and_a_refused_one_is_not():
    large = Image.new("L", (8000, 5000))
    buffer = BytesIO()
    large.save(buffer, format="PNG")
    limits = DecodeLimits()
    assert is_large(buffer.getvalue()[:100], limits)
    assert not is_large(buffer.getvalue(), DecodeLimits(max_pixels=10))
    assert not is_large(b"nonsense", limits)
    assert not is_large(b"", limits)
