"""CLIP on the CPU, side by side: torch, onnxruntime float32 and int8; pictures a second, interleaved repeats.

python benchmarks/embedding.py FOLDER_OF_A_CHECKPOINT [REPEATS] [BATCH]; set OMP_NUM_THREADS=1 for numbers per core.
"""

from __future__ import annotations

import json
import statistics
import sys
from time import perf_counter

import numpy as np
from PIL import Image

from pipeline.embedders.base import Embedder
from pipeline.embedders.clip import ClipEmbedder
from pipeline.embedders.registry import load_both

_SEED = 32


def main() -> None:
    """Print the median rate of each backend, its spread, and its ratio to torch, as JSON."""
    folder, repeats, batch = sys.argv[1], *(int(value) for value in (*sys.argv[2:], 7, 16)[:2])
    exact, rounded = load_both(folder)
    backends: dict[str, Embedder] = {"torch": ClipEmbedder.load(folder, device="cpu"), "onnx": exact, "int8": rounded}
    random = np.random.default_rng(_SEED)
    pictures = [Image.fromarray(random.integers(0, 256, (224, 224, 3), dtype=np.uint8)) for _ in range(batch)]
    prepared = {name: [embedder.prepare(one) for one in pictures] for name, embedder in backends.items()}
    rates: dict[str, list[float]] = {name: [] for name in backends}
    for _ in range(repeats + 1):  # the first warms up
        for name, embedder in backends.items():
            started = perf_counter()
            embedder.embed_prepared(prepared[name])
            rates[name].append(batch / (perf_counter() - started))
    middle = {name: statistics.median(values[1:]) for name, values in rates.items()}
    for name, value in middle.items():
        spread = min(rates[name][1:]), max(rates[name][1:])
        print(json.dumps({"backend": name, "per_second": value, "spread": spread, "of_torch": value / middle["torch"]}))


if __name__ == "__main__":
    main()
