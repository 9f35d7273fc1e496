"""Stage of `make bench`: CLIP ViT-B/32 on the CPU, ours beside what a user would run, and beside the machine's sgemm.

Batches of 16 prepared pictures, in turns. On one core (OMP_NUM_THREADS=1) its processor time is counted.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from bench_inputs import checkpoint, cuts, quiet
from stage import Given, Row, Table, in_turns

from pipeline.embedders.checkpoint import find_checkpoint
from pipeline.embedders.onnx_clip.embedder import OnnxClipEmbedder
from pipeline.embedders.onnx_clip.export import TEXT
from pipeline.embedders.onnx_clip.fidelity import PROBING_TEXTS
from pipeline.embedders.onnx_clip.shape import ClipShape
from pipeline.embedders.onnx_clip.tokens import ClipTokens
from pipeline.embedders.registry import load_both
from pipeline.preprocess import ClipPreprocessing
from storage.settings import allowed_threads

_BATCH = 16
_SQUARE = 2048  # of the matrices whose product says what the machine can do
_CONTEXT = 77
_AIM_TORCH, _AIM_ONNX = 1.9, 1.5  # of int8, per core

Call = Callable[[], Any]


def measure(given: Given) -> list[Table]:
    """Pictures a second of each way, and texts a second padded and not."""
    folder = checkpoint(given)
    ours = load_both(str(folder))
    clock = time.process_time if allowed_threads() == 1 else time.perf_counter
    where = "one core" if allowed_threads() == 1 else f"{allowed_threads()} cores"
    peers, absent = _peers(folder, given)
    ways = {**peers, **_ours(ours, given), "sgemm": _product()}
    seconds = in_turns(ways, given.repeats, clock)
    shape = ClipShape.from_config(find_checkpoint(str(folder)).config)
    flops = vision_flops(shape)
    rates = {name: [_BATCH / value for value in values] for name, values in seconds.items()}
    gflops = [2 * _SQUARE**3 / value / 1e9 for value in seconds["sgemm"]]
    rates["sgemm"] = [1e9 * value / flops for value in gflops]
    note = (
        f"sgemm: a product of two {_SQUARE} x {_SQUARE} matrices by numpy runs at {np.median(gflops):.0f} GFLOP/s; one "
        f"picture is {flops / 1e9:.2f} GFLOP in our float32 graph, {vision_flops(shape, last_row=False) / 1e9:.2f} as "
        "transformers computes it"
    )
    pictures = Table(f"pictures a second, {where}, batches of {_BATCH}", _rows(rates, peers), [note, *absent])
    return [pictures, _texts(folder, ours, (given, clock, where))]


def vision_flops(shape: ClipShape, *, last_row: bool = True) -> int:
    """Multiplications and additions of one picture; with `last_row` the last block is computed for one token only."""
    tower, tokens = shape.vision, shape.patches + 1
    keys = 2 * 2 * tokens * tower.width**2
    others = 2 * (2 * tower.width**2 + 2 * tower.width * tower.inner) + 2 * 2 * tokens * tower.width  # each token
    last = others * (1 if last_row else tokens)
    patches = 2 * shape.patches * 3 * shape.patch**2 * tower.width
    blocks = (tower.layers - 1) * (keys + tokens * others) + keys + last
    return patches + blocks + 2 * tower.width * shape.dimension


def _rows(rates: dict[str, list[float]], peers: dict[str, Call]) -> list[Row]:
    per_core = allowed_threads() == 1
    aims = {"torch, eager": _AIM_TORCH, "torch, sdpa": _AIM_TORCH, "onnxruntime": _AIM_ONNX} if per_core else {}
    rows = []
    for name in ("float32", "int8"):
        for peer in peers:
            aim = aims.get(peer) if name == "int8" else None
            rows.append(Row(name, "a second", rates[name], peer, rates[peer], aim, more_is_better=True))
    rows.append(Row("float32", "a second", rates["float32"], "sgemm", rates["sgemm"], more_is_better=True, limit=True))
    rows.append(Row("int8", "a second", rates["int8"], "our float32", rates["float32"], more_is_better=True))
    return rows


def _ours(ours: tuple[OnnxClipEmbedder, OnnxClipEmbedder], given: Given) -> dict[str, Call]:
    pictures = cuts(given, _BATCH)
    made = {}
    for name, embedder in zip(("float32", "int8"), ours, strict=True):
        made[name] = partial(embedder.embed_prepared, [embedder.prepare(one) for one in pictures])
    return made


def _product() -> Call:
    random = np.random.default_rng(1)
    one, other = (random.standard_normal((_SQUARE, _SQUARE), dtype=np.float32) for _ in range(2))
    return partial(np.matmul, one, other, out=np.empty_like(one))


def _peers(folder: Path, given: Given) -> tuple[dict[str, Call], list[str]]:
    """What a user would write by hand; and what of that is not to be had here."""
    import torch
    from transformers import CLIPModel

    quiet()
    torch.set_num_threads(allowed_threads())
    pictures = np.stack([ClipPreprocessing().apply(one) for one in cuts(given, _BATCH)])
    pixels, made = torch.from_numpy(pictures), {}
    for attention in ("eager", "sdpa"):
        model = CLIPModel.from_pretrained(folder, attn_implementation=attention).eval()
        made[f"torch, {attention}"] = partial(_with_torch, model.get_image_features, {"pixel_values": pixels})
    try:
        session = _exported(folder, given, pixels)
    except Exception as error:  # noqa: BLE001 - the exporter's packages are not ours; the table says what is missing
        return made, [f"onnxruntime on torch's own export was not measured: {type(error).__name__}: {error}"]
    made["onnxruntime"] = partial(session.run, None, {"pixel_values": pictures})
    return made, []


def _with_torch(function: Callable[..., Any], inputs: dict[str, Any]) -> Any:
    import torch

    with torch.inference_mode():
        return function(**inputs)


def _exported(folder: Path, given: Given, pixels: Any) -> Any:
    """An onnxruntime session of the vision tower, exported with `torch.onnx.export` and nothing done to it."""
    import onnxruntime
    import torch
    from transformers import CLIPVisionModelWithProjection

    target = given.scratch / "torch-export" / "vision.onnx"
    if not target.exists():
        target.parent.mkdir()
        model = CLIPVisionModelWithProjection.from_pretrained(folder).eval()
        names = {"input_names": ["pixel_values"], "output_names": ["image_embeds"]}
        axes = {"pixel_values": {0: "batch"}, "image_embeds": {0: "batch"}}
        warnings.simplefilter("ignore")  # the tracer's, about lines of transformers
        torch.onnx.export(model, (pixels,), str(target), dynamo=False, opset_version=18, dynamic_axes=axes, **names)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = allowed_threads()
    return onnxruntime.InferenceSession(str(target), options, providers=["CPUExecutionProvider"])


def _texts(folder: Path, ours: tuple[OnnxClipEmbedder, OnnxClipEmbedder], how: tuple[Given, Any, str]) -> Table:
    """Texts of a person's length, as they are and padded to the model's context as transformers does."""
    import onnxruntime
    import torch
    from transformers import CLIPModel

    given, clock, where = how
    texts = [*PROBING_TEXTS, *PROBING_TEXTS][:_BATCH]
    tokens = ClipTokens(find_checkpoint(str(folder)), _CONTEXT).encode(texts)
    ids = np.array([[*row, *row[-1:] * (_CONTEXT - len(row))] for row in tokens], dtype=np.int64)
    ends = np.array([len(row) - 1 for row in tokens], dtype=np.int64)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = allowed_threads()
    padded = onnxruntime.InferenceSession(str(ours[0].folder / TEXT), options, providers=["CPUExecutionProvider"])
    model = CLIPModel.from_pretrained(folder).eval()
    ways: dict[str, Call] = {
        "float32": partial(ours[0].embed_texts, texts),
        "int8": partial(ours[1].embed_texts, texts),
        "float32, padded": partial(padded.run, None, {"ids": ids, "ends": ends}),
        "torch, padded": partial(_with_torch, model.get_text_features, {"input_ids": torch.from_numpy(ids)}),
    }
    rates = {
        name: [_BATCH / value for value in values] for name, values in in_turns(ways, given.repeats, clock).items()
    }
    rows = [
        Row(name, "a second", rates[name], other, rates[other], more_is_better=True)
        for name, other in (("float32", "float32, padded"), ("float32", "torch, padded"), ("int8", "torch, padded"))
    ]
    longest = max(len(row) for row in tokens)
    note = f"texts of {min(map(len, tokens))} to {longest} tokens by the random checkpoint's small vocabulary"
    return Table(f"texts a second, {where}, {_BATCH} texts", rows, [note])
