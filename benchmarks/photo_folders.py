"""Folders of as many photos as wanted, of one size and no two alike, made from a few real ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

_SEED = 20_261_128
_LEAST_PART = 0.7  # of each side: a photo is cut at random, so that no two files have the same content
_QUALITY = 88


def write_photo_folder(folder: Path, photos: Sequence[Path], count: int, size: tuple[int, int]) -> list[Path]:
    """Write `count` different JPEGs of (width, height) into a new folder and return them.

    Files have the folder's name in theirs, so that several folders fit into one collection.
    """
    folder.mkdir(parents=True)
    random = np.random.default_rng(_SEED)
    written = [folder / f"{folder.name}-{number:05}.jpg" for number in range(count)]
    for number, target in enumerate(written):
        with Image.open(photos[number % len(photos)]) as file:
            photo = file.convert("RGB")
        _cut(photo, random.random(3).tolist()).resize(size, Image.Resampling.BICUBIC).save(target, quality=_QUALITY)
    return written


def _cut(photo: Image.Image, box: Sequence[float]) -> Image.Image:
    part = _LEAST_PART + (1 - _LEAST_PART) * box[0]
    width, height = int(photo.width * part), int(photo.height * part)
    left, top = int((photo.width - width) * box[1]), int((photo.height - height) * box[2])
    return photo.crop((left, top, left + width, top + height))
