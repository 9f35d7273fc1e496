"""What decoding in child processes costs: the same JPEGs and PNGs decoded here and there, in turns.

python benchmarks/decoding_in_child.py [FOLDER_OF_PHOTOS] [REPEATS]; without a folder, seeded pictures with noise.
One child and one thread; "reduced" is how CLIP's pictures are decoded by default, "full" every pixel.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from time import perf_counter

import numpy as np
from PIL import Image

from pipeline.decode import DecodedImage, DecodeLimits, decode_image
from pipeline.decoding_children import ChildLimits, DecodingChildren

_SIZES = ((640, 480), (1920, 1080), (4000, 3000))
_PHOTOS = 8
_CLIP_AT_LEAST = (448, 448)  # twice what ViT-B/32 sees


def main() -> None:
    """Print the median milliseconds a picture here and in a child, and their ratio with its spread, as JSON lines."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    repeats = int(sys.argv[2]) if len(sys.argv) > 2 else 7
    children = DecodingChildren(ChildLimits(2 * 1024**3, 60), 1)
    try:
        for size in _SIZES:
            for name, at_least in (("JPEG", _CLIP_AT_LEAST), ("JPEG", None), ("PNG", None)):
                files = [_encoded(photo, size, name) for photo in _photos(folder)]
                way = "reduced" if at_least else "full"
                print(
                    json.dumps(
                        {"size": size, "format": name, "way": way, **_measured(children, files, at_least, repeats)}
                    )
                )
    finally:
        children.close()


def _measured(
    children: DecodingChildren, files: list[bytes], at_least: tuple[int, int] | None, repeats: int
) -> dict[str, float | list[float]]:
    limits = DecodeLimits()
    ways: dict[str, Callable[[bytes], DecodedImage]] = {
        "here": lambda data: decode_image(data, limits, at_least=at_least),
        "child": lambda data: children(data, limits, at_least=at_least),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(repeats + 1):
        for name, way in ways.items():
            started = perf_counter()
            for data in files:
                way(data)
            if repeat:  # the first round starts the child
                times[name].append((perf_counter() - started) / len(files) * 1e3)
    ratios = [there / here for here, there in zip(times["here"], times["child"], strict=True)]
    return {
        "here_ms": round(statistics.median(times["here"]), 2),
        "child_ms": round(statistics.median(times["child"]), 2),
        "ratio": round(statistics.median(ratios), 2),
        "ratios": [round(min(ratios), 2), round(max(ratios), 2)],
    }


def _photos(folder: Path | None) -> list[Image.Image]:
    if folder is not None:
        return [Image.open(path).convert("RGB") for path in sorted(folder.rglob("*.jpg"))[:_PHOTOS]]
    random = np.random.default_rng(1)
    smooth = [random.integers(0, 256, (24, 32, 3), dtype=np.uint8) for _ in range(_PHOTOS // 2)]
    return [Image.fromarray(one) for one in smooth]


def _encoded(photo: Image.Image, size: tuple[int, int], name: str) -> bytes:
    large = np.asarray(photo.resize(size, Image.Resampling.BICUBIC)).astype(np.int16)
    noise = np.random.default_rng(2).integers(-6, 7, large.shape, dtype=np.int16)  # a flat picture decodes too fast
    out = BytesIO()
    options = {"quality": 88} if name == "JPEG" else {"compress_level": 1}
    Image.fromarray((large + noise).clip(0, 255).astype(np.uint8)).save(out, name, **options)
    return out.getvalue()


if __name__ == "__main__":
    main()
