"""JPEGs read by libjpeg-turbo itself: to the byte Pillow's pixels, or Pillow's own word about them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from pipeline.decode import LARGE_PIXELS, DecodeLimits, decode_image, upright_rgb
from pipeline.errors import DecodeError
from pipeline.jpeg_pixels import read_pixels

SEED = 20_261_128
FUZZ_ROUNDS = 1500
DEMO = Path(__file__).parents[2].parent / "shared" / "data" / "small-demo"
SIZES = [(16, 16), (17, 33), (33, 17), (160, 120), (161, 119), (333, 250)]
SETTINGS: list[dict[str, object]] = [
    {}, {"progressive": True}, {"optimize": True, "quality": 30}, {"quality": 100},
    {"restart_marker_blocks": 3}, {"restart_marker_rows": 1, "progressive": True},
]  # fmt: skip
REDUCTIONS = (1, 2, 4, 8)


def photo(size: tuple[int, int], seed: int = SEED) -> Image.Image:
    """Smooth shapes with some noise, and colours beside each other that subsampling mixes."""
    dice = np.random.default_rng(seed)
    grid = dice.integers(0, 256, (size[1] // 7 + 2, size[0] // 7 + 2, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(grid).resize(size, Image.Resampling.BICUBIC)).astype(int)
    return Image.fromarray(np.clip(smooth + dice.integers(-9, 10, smooth.shape), 0, 255).astype(np.uint8))


def saved(picture: Image.Image, image_format: str = "JPEG", **settings: object) -> bytes:
    buffer = BytesIO()
    picture.save(buffer, format=image_format, **settings)
    return buffer.getvalue()


def opened(data: bytes, reduction: int = 1) -> JpegImageFile:
    """Not loaded, and set to a reduced size as `decode_image` does it."""
    file = JpegImageFile(BytesIO(data))
    file.draft(None, (max(file.width // reduction, 1), max(file.height // reduction, 1)))
    return file


def by_pillow(data: bytes, reduction: int = 1) -> np.ndarray:
    return np.asarray(opened(data, reduction).convert("RGB"))


def assert_the_same(data: bytes, reductions: tuple[int, ...] = REDUCTIONS) -> None:
    """Read it at these sizes, without Pillow's help where the size tells the reduction."""
    for reduction in reductions:
        file = opened(data, reduction)
        pixels = read_pixels(file, data)
        if max(file.size) >= 16:
            assert pixels is not None
            assert np.array_equal(pixels, by_pillow(data, reduction))


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_pixels_are_pillows_to_the_byte(size, subsampling, settings):
    assert_the_same(saved(photo(size), subsampling=subsampling, **settings))


@pytest.mark.parametrize("subsampling", ["440", "411", "Gray"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_subsamplings_that_pillow_does_not_write_are_the_same_too(size, subsampling):
    assert_the_same(simplejpeg.encode_jpeg(np.asarray(photo(size)), colorsubsampling=subsampling))


def test_grey_and_whatever_markers_say_is_the_same():
    picture = photo((333, 250))
    assert_the_same(saved(picture.convert("L")))
    assert_the_same(saved(picture.convert("L"), progressive=True))
    assert_the_same(saved(picture, keep_rgb=True))  # Adobe's marker: stored as RGB
    assert_the_same(saved(picture, icc_profile=random.Random(SEED).randbytes(150_000), comment=b"long" * 9000))
    assert_the_same(saved(picture, "MPO", save_all=True, append_images=[photo((200, 300), 2)]))
    assert_the_same(saved(picture) + b"what a camera leaves behind the end")


def test_an_adobe_marker_of_another_transform_is_the_same():
    data = saved(photo((161, 119)))
    for transform in (0, 1, 2):
        adobe = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00" + bytes([transform])
        assert_the_same(data[:2] + adobe + data[2:])


def test_every_kind_of_frame_is_the_same_or_left_to_pillow():
    """SOF0 to SOF15 in the place of the one that was written: lossless, hierarchical, arithmetic and what is none."""
    for settings in ({}, {"progressive": True}):
        data = saved(photo((161, 119)), **settings)
        place = data.index(b"\xff\xc2" if settings else b"\xff\xc0") + 1
        for marker in range(0xC0, 0xD0):
            assert_outcomes_agree(data[:place] + bytes([marker]) + data[place + 1 :])


def test_the_demos_photos_are_the_same():
    files = sorted(path for path in DEMO.rglob("*") if path.suffix.lower() in {".jpg", ".jpeg"})
    if not files:
        pytest.skip("the demo's photos are not here (shared/data/small-demo beside the repository)")
    for path in files:
        assert_the_same(path.read_bytes())


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr"])
def test_other_colours_are_pillows_to_convert(mode):
    data = saved(photo((160, 120)).convert(mode))
    assert (read_pixels(opened(data), data) is None) == (mode == "CMYK")
    assert np.array_equal(np.asarray(decode_image(data).picture), by_pillow(data))


def test_a_picture_so_small_that_reductions_look_alike_is_pillows():
    data = saved(photo((7, 5)))
    assert read_pixels(opened(data), data) is None
    assert decode_image(data).picture.size == (7, 5)


def test_a_large_picture_is_in_pillows_form_at_once():
    data = saved(Image.new("RGB", (8000, LARGE_PIXELS // 8000 + 1), "red"))
    assert isinstance(decode_image(data, DecodeLimits()).pixels, Image.Image)
    assert isinstance(decode_image(data, DecodeLimits(), at_least=(448, 448)).pixels, np.ndarray)


def test_a_file_with_a_hole_is_what_pillow_makes_of_it():
    """Libjpeg fills in grey and warns; Pillow takes that, as it always has."""
    data = saved(photo((333, 250)))
    middle = len(data) // 2
    holed = data[:middle] + b"\xff\xd9" + data[middle:]
    assert read_pixels(opened(holed), holed) is None
    assert_outcomes_agree(holed)


def damaged(files: list[bytes], dice: random.Random) -> bytes:
    """One of the files, cut off, with bits flipped (often in its headers), or with some bytes missing or doubled."""
    data = bytearray(dice.choice(files))
    kind = dice.random()
    if kind < 0.25:
        return bytes(data[: dice.randrange(2, len(data))])
    if kind < 0.85:
        reach = min(700, len(data)) if dice.random() < 0.4 else len(data)
        for _ in range(dice.choice((1, 1, 1, 2, 4))):
            data[dice.randrange(2, reach)] ^= 1 << dice.randrange(8)
        return bytes(data)
    start = dice.randrange(2, len(data))
    data[start : start + dice.randrange(1, 40)] = data[start : start + dice.choice((0, 60))]
    return bytes(data)


def some_files() -> Iterator[bytes]:
    for subsampling in ("4:4:4", "4:2:2", "4:2:0"):
        for settings in SETTINGS:
            yield saved(photo((120, 90)), subsampling=subsampling, **settings)
    yield saved(photo((120, 90)).convert("L"))
    yield saved(photo((120, 90)).convert("CMYK"))
    yield saved(photo((120, 90)), keep_rgb=True)
    yield simplejpeg.encode_jpeg(np.asarray(photo((120, 90))), colorsubsampling="440")


def assert_outcomes_agree(data: bytes) -> bool:
    """The same bytes, or a refusal in the same words, as Pillow alone gives, at full size and reduced.

    Returns whether the pixels were read without Pillow.
    """
    limits = DecodeLimits(max_pixels=2_000_000)
    for at_least in (None, (28, 28)):
        try:
            found: object = decode_image(data, limits, at_least=at_least)
        except DecodeError as error:
            found = (type(error), str(error))
        try:
            file = JpegImageFile(BytesIO(data))
        except Exception:  # noqa: BLE001 - so `decode_image` never came to any pixels
            assert isinstance(found, tuple)
            return False
        if at_least is not None and file.width * file.height <= limits.max_pixels:
            file.draft(None, at_least)
        try:
            wanted: object = upright_rgb(file, limits)  # a caller's own picture: read by Pillow alone
        except DecodeError as error:
            wanted = (type(error), str(error))
        if isinstance(wanted, tuple) or isinstance(found, tuple):
            assert found == wanted
        else:
            assert np.array_equal(np.asarray(found.picture), np.asarray(wanted.picture))
    return not isinstance(found, tuple) and isinstance(found.pixels, np.ndarray)


def test_damaged_files_end_as_with_pillow_alone():
    print(f"seed {SEED}")
    dice, files, read = random.Random(SEED), list(some_files()), 0
    for number in range(FUZZ_ROUNDS):
        data = damaged(files, dice)
        try:
            read += assert_outcomes_agree(data)
        except AssertionError:
            print(f"round {number}: {data.hex()}")
            raise
    assert FUZZ_ROUNDS // 10 < read < FUZZ_ROUNDS * 9 // 10  # else this shows nothing
