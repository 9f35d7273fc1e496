"""JPEGs decoded at reduced size: the size told is the file's, refusals are the same, and little changes."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from pipeline.decode import DecodeLimits, decode_image
from pipeline.errors import DecodeError
from pipeline.preprocess import ClipPreprocessing

SEED = 23
ENOUGH = (448, 448)


def _jpeg(width: int, height: int, *, orientation: int = 1, **settings) -> bytes:
    small = np.random.default_rng(SEED).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    picture = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[0x0112] = orientation
    out = BytesIO()
    picture.save(out, "JPEG", quality=90, exif=exif, **settings)
    return out.getvalue()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_size_told_is_the_upright_files_own(orientation: int) -> None:
    decoded = decode_image(_jpeg(1921, 1083, orientation=orientation), at_least=ENOUGH)
    assert (decoded.width, decoded.height) == ((1921, 1083) if orientation < 5 else (1083, 1921))
    assert min(decoded.picture.size) == 542


@pytest.mark.parametrize("size", [(640, 480), (1920, 1080), (1081, 1923), (4000, 3000), (300, 200), (5000, 449)])
def test_the_models_input_hardly_changes(size: tuple[int, int]) -> None:
    data = _jpeg(*size)
    reduced = replace(ClipPreprocessing(), reduced=True)
    decoded = decode_image(data, at_least=reduced.decode_at_least)
    found = reduced.cut(decoded.picture, (decoded.width, decoded.height)).astype(int)
    wanted = ClipPreprocessing().cut(decode_image(data).picture).astype(int)
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).mean() < 1.0


@pytest.mark.parametrize("progressive", [False, True])
def test_refusals_are_the_same(progressive: bool) -> None:
    data = _jpeg(1200, 1000, progressive=progressive)
    limits = DecodeLimits(max_pixels=1_000_000)
    for broken in (data[: len(data) // 2], data[:200], data[: len(data) - 40], data):
        outcomes = []
        for at_least in (None, ENOUGH):
            try:
                decode_image(broken, limits if broken is data else None, at_least=at_least)
                outcomes.append("good")
            except DecodeError as error:
                outcomes.append(error.reason)
        assert outcomes[0] == outcomes[1]


def test_reduced_is_another_fingerprint_and_full_keeps_its_own() -> None:
    assert replace(ClipPreprocessing(), reduced=True).fingerprint != ClipPreprocessing().fingerprint


@pytest.mark.parametrize("size", [(640, 480), (1920, 1080), (300, 200), (5000, 449), (230, 230)])
@pytest.mark.parametrize("is_reduced", [False, True])
def test_the_models_input_is_the_same_from_both_forms_of_a_picture(size: tuple[int, int], *, is_reduced: bool) -> None:
    preprocessing = replace(ClipPreprocessing(), reduced=is_reduced)
    decoded = decode_image(_jpeg(*size), at_least=preprocessing.decode_at_least)
    assert isinstance(decoded.pixels, np.ndarray)
    told = decoded.width, decoded.height
    assert np.array_equal(preprocessing.cut(decoded.pixels, told), preprocessing.cut(decoded.picture, told))
    assert np.array_equal(preprocessing.apply(decoded.pixels, told), preprocessing.apply(decoded.picture, told))
