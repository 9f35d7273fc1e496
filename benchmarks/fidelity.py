"""Stage of `make bench`: how near int8 is to float32 on real photos, and what an evaluation says of each backend.

With DATA=folder the photos are the user's, and if a `ground_truth.json` is in it every backend is evaluated on it;
without, the demo's photos and their edited copies are.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from bench_inputs import checkpoint, cuts
from stage import Given, Row, Table

from pipeline.embedders.onnx_clip.fidelity import (
    LEAST_AGREEMENT,
    LEAST_COSINE,
    PROBING_TEXTS,
    FidelityReport,
    compare,
    read_report,
    write_report,
)
from pipeline.embedders.registry import load_both
from storage.settings import Settings
from visual_search.collection import ImageCollection

_PICTURES, _PICTURES_QUICK = 108, 54
_MOST_POINTS = 0.5  # that a metric may move between backends, of 100
_METRICS = ("recall@1", "recall@5", "recall@10", "map", "mrr")
# name, backend, decoding; the first is what transformers computes, to the last bit of its input
_WAYS = (
    ("torch, full", "torch", "full"),
    ("torch", "torch", "reduced"),
    ("onnx", "onnx", "reduced"),
    ("onnx-int8", "onnx-int8", "reduced"),
)


def measure(given: Given) -> list[Table]:
    """The fidelity report, and the metrics of every backend against torch on whole pictures."""
    report = prepare_int8(given)
    rows = [
        Row("cosine of a picture, mean", "cosine", [report.cosine_mean], more_is_better=True),
        Row("all but the worst 1 %", "cosine", [report.cosine_low], aim=LEAST_COSINE, more_is_better=True),
        Row("worst picture", "cosine", [report.cosine_least], more_is_better=True),
        Row("worst text", "cosine", [report.text_cosine_least], aim=LEAST_COSINE, more_is_better=True),
        Row("ten nearest that are the same", "share", [report.agreement], aim=LEAST_AGREEMENT, more_is_better=True),
    ]
    note = (
        f"{report.images} different cuts of real photos; random weights of the real shape: they show that the "
        "arithmetic is sound, and say little about a trained network"
    )
    return [Table("int8 against float32, both through onnxruntime", rows, [note]), _evaluations(given)]


def prepare_int8(given: Given) -> FidelityReport:
    """Measure the checkpoint's int8 form on real photos and keep the report, as `models prepare` does."""
    exact, rounded = load_both(str(checkpoint(given)))
    found = read_report(rounded.folder)
    if found is None:
        pictures = cuts(given, _PICTURES_QUICK if given.quick else _PICTURES)
        made = []
        for embedder in (exact, rounded):
            vectors = embedder.embed_prepared([embedder.prepare(picture) for picture in pictures])
            made.append((vectors, embedder.embed_texts(PROBING_TEXTS)))
        found = compare(*made)
        write_report(rounded.folder, found)
    return found


def _evaluations(given: Given) -> Table:
    folder, truth = _data(given)
    scores = {name: _evaluated(given, folder, truth, (backend, decoding)) for name, backend, decoding in _WAYS}
    (_, before), *others = scores.items()
    rows = []
    for name, found in others:
        for metric in _METRICS:
            was, now = 100 * before[metric], 100 * found[metric]
            what = f"{name}: {metric} of {was:.2f} now {now:.2f}"
            rows.append(Row(what, "points moved", [round(abs(now - was), 2)], aim=_MOST_POINTS))
    return Table(f"evaluation of each backend against {_WAYS[0][0]}", rows, _evaluation_notes(given, before["queries"]))


def _evaluation_notes(given: Given, queries: float) -> list[str]:
    asked = "DATA" if given.data else "the demo, a photo to its edited copies"
    random = (
        "metrics of random weights mean nothing by themselves; that they stay where they were shows that the ways agree"
    )
    return [f"{queries:.0f} queries of {asked}; one query is {100 / queries:.2f} points of MRR at most", random]


def _data(given: Given) -> tuple[Path, Path]:
    """A folder of photos and its ground truth."""
    if given.data is not None and (given.data / "ground_truth.json").is_file():
        return given.data, given.data / "ground_truth.json"
    from visual_search.demo.photos import write_sample_photos

    folder = given.scratch / "evaluated" / "photos"
    folder.mkdir(parents=True)
    return folder, write_sample_photos(folder)


def _evaluated(given: Given, folder: Path, truth: Path, way: tuple[str, str]) -> dict[str, float]:
    """Index the folder in one way and evaluate it: means by metric, and the number of queries."""
    with tempfile.TemporaryDirectory(dir=given.scratch) as scratch:
        settings = Settings(
            data_dir=Path(scratch), model=str(checkpoint(given)), device="cpu", backend=way[0], decoding=way[1]
        )
        with ImageCollection("bench", settings=settings) as collection:
            collection.index(str(folder))
            result = collection.evaluate(truth)
    return {**result.means, "queries": float(len(result.queries))}
