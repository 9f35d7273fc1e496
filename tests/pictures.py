"""Small seeded pictures for tests: smooth random colour fields, different for each seed, quick to make."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image


def picture(seed: int, size: tuple[int, int] = (96, 72)) -> Image.Image:
    """An RGB picture of that (width, height)."""
    grid = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(grid).resize(size, Image.Resampling.BICUBIC)


def jpeg(seed: int, size: tuple[int, int] = (96, 72)) -> bytes:
    """The same picture as JPEG bytes."""
    buffer = io.BytesIO()
    picture(seed, size).save(buffer, format="JPEG", quality=90)
    return buffer.getvalue()


def write_photos(folder: Path, count: int, *, first_seed: int = 0) -> list[str]:
    """Write `count` pictures as 00.jpg, 01.jpg ... in two sub-folders; return their keys in order."""
    keys = [f"{'even' if number % 2 == 0 else 'odd'}/{number:02}.jpg" for number in range(count)]
    for number, key in enumerate(keys):
        path = folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(first_seed + number))
    return sorted(keys)
