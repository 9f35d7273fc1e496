"""Stage of `make bench`: JPEG bytes to the model's input, ours beside transformers' processors.

Both get the same bytes and are asked in turn, on one thread; the embeddings of both inputs are compared too.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from bench_inputs import SIZES, checkpoint, jpegs, quiet
from PIL import Image
from stage import Given, Row, Table, in_turns

from pipeline.decode import decode_image
from pipeline.embedders.base import Embedder
from pipeline.embedders.registry import load_embedder
from pipeline.preprocess import ClipPreprocessing

_AIMS = {"640x480": 3.0, "1080p": 4.5, "12 MP": 10.0}
_LEAST_COSINE = 0.9999

Prepare = Callable[[bytes], Any]


def measure(given: Given) -> list[Table]:
    """Two tables: milliseconds a photo, and how near the results are."""
    folder = checkpoint(given)
    ours, peers = partial(_ours, _preprocessing(folder)), _peers(folder)
    slow = next(iter(peers.values()))
    embedder = load_embedder(str(folder), backend="onnx")
    speed, nearness = [], []
    for size in SIZES:
        files = [path.read_bytes() for path in jpegs(given, size, 4 if given.quick else 12)]
        speed += _speed(size, files, {"ours": ours, **peers}, given.repeats)
        nearness += _nearness(size, files, (ours, slow), embedder)
    absent = (
        [] if len(peers) > 1 else ["the processor on torchvision (`use_fast`) was not measured: no torchvision here"]
    )
    return [
        Table("JPEG to model input, milliseconds of one core a photo", speed, [_UPSCALED, *absent]),
        Table("the same photos: how near the inputs and their embeddings are", nearness, [_NEAR]),
    ]


_UPSCALED = (
    "the demo's photos are made as large as that by bicubic interpolation: a camera's own have more detail, and take "
    "both sides longer to decode"
)
_NEAR = "one row a size: cosines and grey levels of each photo, median (smallest-largest)"


def _preprocessing(folder: Path) -> ClipPreprocessing:
    return replace(ClipPreprocessing.from_folder(folder), reduced=True)


def _ours(preprocessing: ClipPreprocessing, data: bytes) -> Any:
    decoded = decode_image(data, at_least=preprocessing.decode_at_least)
    return preprocessing.cut(decoded.pixels, (decoded.width, decoded.height))


def _theirs(processor: Any, data: bytes) -> Any:
    return processor(Image.open(BytesIO(data)).convert("RGB"), return_tensors="pt")["pixel_values"]


def _peers(folder: Path) -> dict[str, Prepare]:
    """The processors of transformers, the one on Pillow first."""
    import transformers

    quiet()
    pillow = getattr(transformers, "CLIPImageProcessorPil", None) or transformers.CLIPImageProcessor
    made = {"transformers, Pillow": partial(_theirs, pillow.from_pretrained(folder))}
    if importlib.util.find_spec("torchvision") is not None:
        fast = transformers.AutoImageProcessor.from_pretrained(folder, use_fast=True)
        made["transformers, torchvision"] = partial(_theirs, fast)
    return made


def _speed(size: str, files: list[bytes], ways: dict[str, Prepare], repeats: int) -> list[Row]:
    calls = {name: partial(_all, way, files) for name, way in ways.items()}
    seconds = in_turns(calls, repeats, clock=time.process_time)
    each = {name: [1000 * value / len(files) for value in values] for name, values in seconds.items()}
    return [Row(size, "ms", each["ours"], name, each[name], _AIMS[size]) for name in ways if name != "ours"]


def _all(way: Prepare, files: list[bytes]) -> None:
    for data in files:
        way(data)


def _nearness(size: str, files: list[bytes], ways: tuple[Prepare, Prepare], embedder: Embedder) -> list[Row]:
    ours = [ways[0](data) for data in files]
    theirs = [_levels(ways[1](data)) for data in files]
    one, other = embedder.embed_prepared(ours), embedder.embed_prepared(theirs)
    cosines = np.einsum("ij,ij->i", one.astype(np.float64), other.astype(np.float64))
    levels = [float(np.abs(a.astype(int) - b).mean()) for a, b in zip(ours, theirs, strict=True)]
    return [
        Row(size, "cosine, least", [float(cosines.min())], aim=_LEAST_COSINE, more_is_better=True),
        Row(size, "grey levels, mean", levels),
    ]


def _levels(pixels: Any) -> Any:
    """The processor's input in grey levels (224, 224, 3), as they were before it normalised them."""
    preprocessing = ClipPreprocessing()
    channels = np.asarray(pixels)[0].transpose(1, 2, 0) * np.array(preprocessing.std) + np.array(preprocessing.mean)
    return np.rint(channels * 255).astype(np.uint8)
