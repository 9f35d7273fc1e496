"""Stage of `make bench`: whole processes, from their start to their first vector: seconds, and peak memory.

Exports were made before, as `visual-search models prepare` does, and files are in the page cache for both.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from bench_inputs import ROOT, checkpoint, jpegs
from fidelity import prepare_int8
from stage import Given, Row, Table

HERE = Path(__file__).resolve().parent
_AIM_TIMES, _AIM_LIGHTER = 8.0, 3.0

_OURS = """
import json, sys
from peak_memory import peak_mib
from visual_search import EmbeddingService
service = EmbeddingService(sys.argv[1], device="cpu", backend=sys.argv[3], weights=sys.argv[4])
vector = service.embed_image(sys.argv[2])
"""
_THEIRS = """
import json, sys
from peak_memory import peak_mib
import torch
from PIL import Image
from transformers import CLIPImageProcessor, CLIPModel
model = CLIPModel.from_pretrained(sys.argv[1]).eval()
processor = CLIPImageProcessor.from_pretrained(sys.argv[1])
with torch.inference_mode():
    vector = model.get_image_features(**processor(images=Image.open(sys.argv[2]), return_tensors="pt"))
"""
_PEAK = """
print(json.dumps(peak_mib()))
"""
_THEIR_NAME = "torch + transformers"
_ONE_QUESTION = "onnx, as the search command"


def measure(given: Given) -> list[Table]:
    """Seconds and MiB of each way, whole processes in turn."""
    prepare_int8(given)
    arguments = [str(checkpoint(given)), str(jpegs(given, "1080p", 1)[0])]
    ways = {
        _THEIR_NAME: (_THEIRS, []),
        _ONE_QUESTION: (_OURS, ["onnx", "mapped"]),
        "onnx": (_OURS, ["onnx", "packed"]),
        "onnx-int8": (_OURS, ["onnx-int8", "packed"]),
        "torch, by our service": (_OURS, ["torch", "packed"]),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    memory: dict[str, list[float]] = {name: [] for name in ways}
    for round_number in range(given.repeats + 1):  # the first brings the files into the page cache
        for name, (program, chosen) in ways.items():
            took, peak = _process(program + _PEAK, [*arguments, *chosen])
            if round_number:
                seconds[name].append(took)
                memory[name].append(peak)
    return [
        _table("seconds from the start of a process to its first vector", "s", seconds, _AIM_TIMES),
        _table("peak memory of that process, shared and mapped pages included", "MiB", memory, _AIM_LIGHTER),
    ]


def _process(program: str, arguments: list[str]) -> tuple[float, float]:
    """Seconds that a process took, and its peak memory in MiB."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, (ROOT, HERE))),
        "TRANSFORMERS_VERBOSITY": "error",
    }
    started = time.perf_counter()
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    seconds = time.perf_counter() - started
    return seconds, json.loads(done.stdout.splitlines()[-1])


def _table(title: str, unit: str, figures: dict[str, list[float]], aim: float) -> Table:
    theirs = figures[_THEIR_NAME]
    aims = dict.fromkeys((_ONE_QUESTION, "onnx", "onnx-int8"), aim)
    rows = [
        Row(name, unit, ours, _THEIR_NAME, theirs, aims.get(name))
        for name, ours in figures.items()
        if ours is not theirs
    ]
    return Table(title, rows)
