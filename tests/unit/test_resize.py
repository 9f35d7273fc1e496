"""Resizing by matrix products: what Pillow gives, nearly, and the same bytes whatever order a BLAS adds in."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from pipeline import resize
from pipeline.resize import resize_bicubic

SEED = 29
SIDE = 224


def _photo(width: int, height: int) -> np.ndarray:
    """Smooth shapes with some noise over them."""
    random = np.random.default_rng(SEED)
    small = Image.fromarray(random.integers(0, 256, (9, 12, 3), dtype=np.uint8))
    smooth = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    noisy = np.clip(smooth + random.integers(-20, 21, smooth.shape), 0, 255)
    return noisy.astype(np.uint8)


@pytest.mark.parametrize(
    ("size", "box"),
    [
        ((640, 480), (80.0, 0.0, 560.0, 480.0)),
        ((960, 540), (210.36, 0.0, 749.64, 540.0)),
        ((449, 1983), (0.0, 767.25, 449.0, 1216.25)),
        ((1001, 751), (0.0, 0.0, 1001.0, 751.0)),
        ((300, 280), (3.5, 0.0, 283.5, 280.0)),
        ((2000, 1900), (50.0, 0.0, 1950.0, 1900.0)),
    ],
)
def test_a_picture_is_what_pillow_makes_but_for_rounding(
    size: tuple[int, int], box: tuple[float, float, float, float]
) -> None:
    photo = _photo(*size)
    made = resize_bicubic(Image.fromarray(photo), box, (SIDE, SIDE)).astype(int)
    wanted = np.asarray(Image.fromarray(photo).resize((SIDE, SIDE), Image.Resampling.BICUBIC, box=box)).astype(int)
    assert made.shape == wanted.shape
    assert np.abs(made - wanted).max() <= 3
    assert np.abs(made - wanted).mean() < 0.3


def test_the_result_may_be_of_any_shape() -> None:
    photo, box = _photo(500, 400), (10.0, 20.0, 490.0, 380.0)
    made = resize_bicubic(Image.fromarray(photo), box, (301, 97)).astype(int)
    wanted = np.asarray(Image.fromarray(photo).resize((301, 97), Image.Resampling.BICUBIC, box=box)).astype(int)
    assert made.shape == (97, 301, 3)
    assert np.abs(made - wanted).max() <= 3


def test_no_sum_is_rounded_so_that_every_blas_gives_the_same_bytes() -> None:
    photo = np.random.default_rng(SEED).choice(np.array([0, 255], dtype=np.uint8), (600, 700, 3))  # the largest sums
    for channels, length in ((1, 600), (3, 700)):
        steps = resize._steps(length, (0.0, float(length)), SIDE, channels)
        for step in steps:
            whole = step.weights.astype(np.float64) * resize._UNIT
            assert (whole == np.rint(whole)).all()
            assert np.abs(whole).sum(axis=0).max() * 255 < 2**24
            assert (whole.sum(axis=0) == resize._UNIT).all()
    box = (0.0, 0.0, 700.0, 600.0)
    made = resize_bicubic(Image.fromarray(photo), box, (SIDE, SIDE))
    mirrored = resize_bicubic(Image.fromarray(np.ascontiguousarray(photo[:, :, ::-1])), box, (SIDE, SIDE))
    assert (made == mirrored[:, :, ::-1]).all()


@pytest.mark.parametrize("level", [0, 1, 128, 254, 255])
def test_a_plain_picture_keeps_its_colour(level: int) -> None:
    made = resize_bicubic(Image.new("RGB", (643, 481), (level,) * 3), (81.0, 0.0, 562.0, 481.0), (SIDE, SIDE))
    assert (made == level).all()


def test_a_picture_is_the_same_whichever_were_resized_before_it() -> None:
    photos = [_photo(width, width - 40) for width in (420, 2100, 300, 640, 420)]  # a thread works in the same memory

    def resized(photo: np.ndarray) -> bytes:
        height, width, _ = photo.shape
        return resize_bicubic(photo, (0.0, 0.0, width, height), (SIDE, SIDE)).tobytes()

    alone = []
    for photo in photos:
        with ThreadPoolExecutor(1) as pool:  # a new thread: with memory of its own
            alone.append(pool.submit(resized, photo).result())
    assert [resized(photo) for photo in photos] == alone


def test_many_threads_get_what_one_gets() -> None:
    photos = [_photo(400 + 10 * number, 380) for number in range(8)]

    def made(photo: np.ndarray) -> np.ndarray:
        return resize_bicubic(Image.fromarray(photo), (0.0, 0.0, 380.0, 380.0), (SIDE, SIDE))

    alone = [made(photo) for photo in photos]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(made, photos))
    assert all((one == other).all() for one, other in zip(alone, together, strict=True))


def test_a_picture_and_the_array_of_its_bytes_give_the_same() -> None:
    photo = _photo(640, 480)
    box = (80.3, 0.0, 560.3, 480.0)
    from_pillow = resize_bicubic(Image.fromarray(photo), box, (SIDE, SIDE))
    assert np.array_equal(resize_bicubic(photo, box, (SIDE, SIDE)), from_pillow)
