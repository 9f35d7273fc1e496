"""The two forms of a decoded RGB picture: Pillow's, and an array of its bytes. Knows no files and no decoders."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from PIL import Image

Bytes: TypeAlias = np.ndarray[Any, np.dtype[np.uint8]]
Picture: TypeAlias = Image.Image | Bytes  # in RGB; the array is (height, width, 3)


def as_pillow(picture: Picture) -> Image.Image:
    """The picture as Pillow has it, four bytes a pixel; an array is copied."""
    return Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture


def size_of(picture: Picture) -> tuple[int, int]:
    """Width and height in pixels."""
    if isinstance(picture, np.ndarray):
        height, width, _ = picture.shape
        return width, height
    return picture.size


def cut_out(picture: Picture, box: tuple[int, int, int, int]) -> Bytes:
    """What stands between left, top, right and bottom, all of it within the picture: (height, width, 3) uint8."""
    if isinstance(picture, np.ndarray):
        left, top, right, bottom = box
        return picture[top:bottom, left:right]
    return np.asarray(picture.crop(box))
