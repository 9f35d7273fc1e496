"""Pictures per second on a GPU: computing alone, copied and computed by turns, and over pinned memory beside computing.

The model has the real ViT-B/32 shape and random weights, made here. Pictures are prepared before the clock starts.
Ends with a message where torch finds no GPU.

Usage: python benchmarks/gpu_embedding.py [--quick] [--dtype float16] [--repeats N]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, TypeAlias

import numpy as np
import torch
from bench_inputs import checkpoint
from measuring import keep, show, spread
from stage import Given
from transformers import CLIPModel

from pipeline.embedders.clip import ClipEmbedder

_SEED = 32
_SIZES = (16, 32, 64, 128, 256, 512)
_PICTURES = 4096
_SHAPE = (3, 224, 224)

Pictures: TypeAlias = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True)
class Loaded:
    """The same weights twice: as one loads them by hand, and as indexing does."""

    by_hand: Any
    embedder: ClipEmbedder
    size: int  # pictures a batch


def _computing_alone(loaded: Loaded, pictures: Pictures) -> None:
    """The same batch, already on the device, again and again: the most that copying could leave."""
    pixels = torch.from_numpy(pictures[: loaded.size]).to(loaded.by_hand.device, loaded.by_hand.dtype)
    with torch.inference_mode():
        for _ in range(len(pictures) // loaded.size):
            loaded.by_hand.get_image_features(pixel_values=pixels)
    torch.cuda.synchronize()


def _by_turns(loaded: Loaded, pictures: Pictures) -> None:
    """Stack, copy from ordinary memory, compute, copy back."""
    with torch.inference_mode():
        for start in range(0, len(pictures), loaded.size):
            pixels = torch.from_numpy(np.stack(list(pictures[start : start + loaded.size])))
            placed = pixels.to(loaded.by_hand.device, loaded.by_hand.dtype)
            output = loaded.by_hand.get_image_features(pixel_values=placed)
            (output if isinstance(output, torch.Tensor) else output.pooler_output).float().cpu()


def _in_lanes(loaded: Loaded, pictures: Pictures) -> None:
    """As indexing does it: batches on as many threads as the embedder wants."""
    batches = [list(pictures[start : start + loaded.size]) for start in range(0, len(pictures), loaded.size)]
    with ThreadPoolExecutor(loaded.embedder.thread_use.calls) as pool:
        for _ in pool.map(loaded.embedder.embed_prepared, batches):
            pass


_WAYS: dict[str, Callable[[Loaded, Pictures], None]] = {
    "computing alone": _computing_alone,
    "by turns": _by_turns,
    "beside computing": _in_lanes,
}


def _rate(way: Callable[[], None], pictures: int) -> float:
    started = perf_counter()
    way()
    return pictures / (perf_counter() - started)


def main() -> None:
    """Measure in turns, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two batch sizes, once")
    parser.add_argument("--dtype", choices=("float16", "bfloat16", "float32"), default="float16")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("torch finds no CUDA or ROCm GPU on this machine: nothing to measure")
    repeats, sizes = (1, (64, 256)) if arguments.quick else (arguments.repeats, _SIZES)
    print(f"seed {_SEED}")
    pictures = np.random.default_rng(_SEED).standard_normal((_PICTURES, *_SHAPE), dtype=np.float32)
    rates: dict[str, dict[int, list[float]]] = {name: {} for name in _WAYS}
    with tempfile.TemporaryDirectory(prefix="visual-search-bench-") as scratch:
        folder = str(checkpoint(Given(Path(scratch))))
        chosen = ClipEmbedder.load(folder, device="cuda", dtype=arguments.dtype).batch_size
        by_hand = CLIPModel.from_pretrained(folder, dtype=getattr(torch, arguments.dtype)).to("cuda").eval()
        for size in sizes:
            embedder = ClipEmbedder.load(folder, device="cuda", dtype=arguments.dtype, batch_size=size)
            loaded = Loaded(by_hand, embedder, size)
            for repeat in range(repeats + 1):  # the first warms up
                for name, way in _WAYS.items():
                    rate = _rate(partial(way, loaded, pictures), len(pictures))
                    if repeat:
                        rates[name].setdefault(size, []).append(rate)
    rows = [[str(size), *(spread(rates[name][size]) for name in _WAYS)] for size in sizes]
    title = f"{_PICTURES} pictures, {torch.cuda.get_device_name()}, {arguments.dtype}; chosen by free memory: {chosen}"
    show(title, ["batch", *(f"{name}, images/s" for name in _WAYS)], rows)
    keep("gpu_embedding", {**vars(arguments), "seed": _SEED, "chosen": chosen, "images_per_second": rates})


if __name__ == "__main__":
    main()
