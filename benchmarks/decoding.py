"""JPEG bytes to the model's input, side by side: transformers' processor, in full, and at reduced size.

python benchmarks/decoding.py FOLDER_WITH_PREPROCESSOR_CONFIG FOLDER_OF_PHOTOS [REPEATS]; one thread.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from time import perf_counter
from typing import Any

from PIL import Image
from transformers import CLIPImageProcessor

from pipeline.decode import decode_image
from pipeline.preprocess import ClipPreprocessing

_SIZES = ((640, 480), (1920, 1080), (4000, 3000))
_PHOTOS = 8


def main() -> None:
    """Print the median milliseconds a picture of each way and size, as JSON."""
    folder, photos = Path(sys.argv[1]), sorted(Path(sys.argv[2]).rglob("*.jpg"))[:_PHOTOS]
    repeats = int(sys.argv[3]) if len(sys.argv) > 3 else 5
    theirs, full = CLIPImageProcessor.from_pretrained(folder), ClipPreprocessing.from_folder(folder)
    reduced = replace(full, reduced=True)

    def at_reduced_size(data: bytes) -> Any:
        decoded = decode_image(data, at_least=reduced.decode_at_least)
        return reduced.cut(decoded.picture, (decoded.width, decoded.height))

    ways: dict[str, Callable[[bytes], Any]] = {
        "transformers": lambda data: theirs(Image.open(BytesIO(data)), return_tensors="np"),
        "full": lambda data: full.apply(decode_image(data).picture),
        "reduced": at_reduced_size,
    }
    for size in _SIZES:
        files = [_jpeg(photo, size) for photo in photos]
        times: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(repeats):
            for name, way in ways.items():
                started = perf_counter()
                for data in files:
                    way(data)
                times[name].append((perf_counter() - started) / len(files) * 1e3)
        middle = {name: statistics.median(values) for name, values in times.items()}
        print(json.dumps({"size": size, "ms": middle, "times": middle["transformers"] / middle["reduced"]}))


def _jpeg(photo: Path, size: tuple[int, int]) -> bytes:
    out = BytesIO()
    Image.open(photo).convert("RGB").resize(size, Image.Resampling.BICUBIC).save(out, "JPEG", quality=88)
    return out.getvalue()


if __name__ == "__main__":
    main()
