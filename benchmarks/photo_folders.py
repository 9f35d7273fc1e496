"""Folders of photos for the benchmarks: as many as wanted, of one size, no two alike, made from a few real ones."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from storage.errors import ImageNotFound
from visual_search.demo.photos import write_sample_photos

_SEED = 20_261_128
_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
_LEAST_PART = 0.7  # of each side: a photo is cut at random, so that no two files have the same content
_QUALITY = 88


def write_photo_folder(folder: Path, count: int, size: tuple[int, int], sources: Path | None = None) -> Path:
    """Write `count` different JPEGs of (width, height) made from the photos below `sources`, or the demo's.

    Files have the folder's name in theirs, so that several folders fit into one collection.
    """
    with tempfile.TemporaryDirectory() as scratch:
        photos = _photos(sources or _samples(Path(scratch) / "samples"))
        folder.mkdir(parents=True)
        random = np.random.default_rng(_SEED)
        for number in range(count):
            box = random.random(3)
            with Image.open(photos[number % len(photos)]) as file:
                photo = file.convert("RGB")
            _cut(photo, box).resize(size, Image.Resampling.BICUBIC).save(
                folder / f"{folder.name}-{number:05}.jpg", quality=_QUALITY
            )
    return folder


def _cut(photo: Image.Image, box: Sequence[float]) -> Image.Image:
    part = _LEAST_PART + (1 - _LEAST_PART) * box[0]
    width, height = int(photo.width * part), int(photo.height * part)
    left, top = int((photo.width - width) * box[1]), int((photo.height - height) * box[2])
    return photo.crop((left, top, left + width, top + height))


def _samples(folder: Path) -> Path:
    try:
        write_sample_photos(folder)
    except ImageNotFound as error:
        sys.exit(str(error))
    return folder


def _photos(folder: Path) -> list[Path]:
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES)
    if not found:
        sys.exit(f"no photos below {folder}")
    return found
