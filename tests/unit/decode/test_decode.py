"""Every allowed format gives its first picture, upright."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import numpy as np
import pytest
from made_pictures import FORMATS, RED, encode, gradient, pixel
from PIL import Image

from pipeline.decode import decode_image, upright_rgb


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


def test_a_callers_picture_keeps_its_own_pixels_and_size() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    opened = Image.open(BytesIO(encode(gradient(), "PNG", exif=exif)))
    assert upright_rgb(opened).width == 30
    assert opened.size == (40, 30)


def test_decoding_on_many_threads_gives_what_one_thread_gives() -> None:
    files = [encode(gradient(20 + n, 30), FORMATS[n % len(FORMATS)]) for n in range(28)]
    alone = [decode_image(data).picture.tobytes() for data in files]
    with ThreadPoolExecutor(max_workers=8) as pool:
        together = list(pool.map(lambda data: decode_image(data).picture.tobytes(), files * 5))
    assert together == alone * 5
