"""Any Pillow mode to 8-bit RGB: transparency over white, deep grey rescaled. Knows no files and no models."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from pipeline.errors import CorruptImage, UnsupportedFormat

_WHITE = (255, 255, 255, 255)
_DEEP_GREY = frozenset({"I", "F", "I;16", "I;16L", "I;16B", "I;16N"})
_FULL_16_BIT = 65535


def to_rgb(picture: Image.Image) -> Image.Image:
    """Return the picture in RGB; one that is RGB already, without a transparent colour, is returned as it is.

    Transparency is laid over white, the usual paper. CMYK, YCbCr, HSV, palette, grey and 1-bit pictures are
    converted by Pillow. Raises UnsupportedFormat for CIE Lab, which cannot be shown without a colour profile.
    """
    if picture.mode in _DEEP_GREY:
        return _deep_grey_to_rgb(picture)
    if picture.mode == "LAB":
        raise UnsupportedFormat("CIE Lab pictures cannot be read here; convert them to RGB first")
    if picture.mode == "La":
        picture = picture.convert("LA")  # Pillow knows no direct way from premultiplied grey
    if picture.has_transparency_data:
        return _over_white(picture)
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def _over_white(picture: Image.Image) -> Image.Image:
    rgba = picture if picture.mode == "RGBA" else picture.convert("RGBA")
    canvas = Image.new("RGBA", rgba.size, _WHITE)
    canvas.alpha_composite(rgba)
    return canvas.convert("RGB")


def _deep_grey_to_rgb(picture: Image.Image) -> Image.Image:
    """Rescale 16-bit, 32-bit and float grey to 8 bits; `convert("RGB")` alone clips them, mostly to white."""
    grey = np.asarray(picture)
    transparent = picture.info.get("transparency")
    eight_bit = _to_eight_bit(grey)
    if isinstance(transparent, int):
        eight_bit[grey == transparent] = 255
    return Image.fromarray(eight_bit).convert("RGB")


def _to_eight_bit(grey: np.ndarray[Any, np.dtype[Any]]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Map to 0..255 from the range the values live in: 0..1 (floats), 0..65535 or their extremes.

    File formats do not say the range of 32-bit and float samples, so it is read from the values; 16-bit
    samples always have the full range, so that a dark picture stays dark. NaN and infinity count as darkest.
    """
    samples = grey.astype(np.float64)
    finite = np.isfinite(samples)
    if not finite.any():
        raise CorruptImage("the picture holds no finite sample")
    samples = np.where(finite, samples, samples[finite].min())
    low, high = float(samples.min()), float(samples.max())
    if low < 0 or high > _FULL_16_BIT:
        samples, full = samples - low, high - low
    else:
        full = 1.0 if grey.dtype.kind == "f" and high <= 1 else _FULL_16_BIT
    return np.asarray(np.rint(samples * (255 / full)), dtype=np.uint8)
