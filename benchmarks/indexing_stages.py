"""Images per second and peak memory of each stage of indexing, and of all stages overlapped.

Each measurement runs in a fresh process (peak memory is the process's own), stages in turn, repeated; the table
shows the median with the spread. A stage of `make bench`, with CLIP in int8 and in float32 on real photos; alone:
python benchmarks/indexing_stages.py [FOLDER] [--model M] [--repeats N]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from time import perf_counter

from bench_inputs import checkpoint, jpegs
from fidelity import prepare_int8
from peak_memory import peak_mib
from rich.console import Console
from rich.table import Table as RichTable
from stage import Given, Row, Table

from pipeline.embedding_service import EmbeddingService
from pipeline.indexing.fetch import Fetched, fetch
from pipeline.indexing.plan import plan
from pipeline.indexing.source import Source
from storage.catalog import Catalog, IndexBatch, IndexedImage
from storage.images.locate import open_source
from storage.settings import Settings
from visual_search.collection import ImageCollection

DEFAULT_FOLDER = Path(__file__).resolve().parents[2] / "shared" / "data" / "small-demo"
RESULTS = Path(__file__).parent / "results"
_BATCH = 32
_COMMIT = 256
_AIM = 0.95  # of the model alone: all else is to be hidden behind it


def _service(model: str) -> EmbeddingService:
    return EmbeddingService(model, backend=Settings().backend)


def _fetched(source: Source) -> list[Fetched]:
    return [fetch(source.backend, plan(item, None, {})) for item in source.items()]


def stage_list(folder: str, model: str) -> tuple[int, float]:
    """Walk the folder."""
    del model
    source = Source(open_source(folder))
    started = perf_counter()
    count = sum(1 for _ in source.items())
    return count, perf_counter() - started


def stage_fetch(folder: str, model: str) -> tuple[int, float]:
    """Read and hash every file, on one thread, from the page cache; the bytes are dropped."""
    del model
    source = Source(open_source(folder))
    planned = [plan(item, None, {}) for item in source.items()]
    started = perf_counter()
    for one in planned:
        fetch(source.backend, one)
    return len(planned), perf_counter() - started


def stage_decode(folder: str, model: str) -> tuple[int, float]:
    """Decode and preprocess on one thread."""
    service = _service(model)
    fetched = _fetched(Source(open_source(folder)))
    started = perf_counter()
    for one in fetched:
        service.prepare(one.data)
    return len(fetched), perf_counter() - started


def stage_embed(folder: str, model: str) -> tuple[int, float]:
    """Run the model on prepared pictures, in batches of its own choice."""
    service = _service(model)
    pixels = [service.prepare(one.data).pixels for one in _fetched(Source(open_source(folder)))]
    service.embed_prepared(pixels[: service.batch_size])  # warm-up
    started = perf_counter()
    for start in range(0, len(pixels), service.batch_size):
        service.embed_prepared(pixels[start : start + service.batch_size])
    return len(pixels), perf_counter() - started


def stage_commit(folder: str, model: str) -> tuple[int, float]:
    """Write images, vectors and feed into SQLite, 256 a transaction."""
    service = EmbeddingService("baseline")
    del model
    images = []
    for one in _fetched(Source(open_source(folder))):
        prepared = service.prepare(one.data)
        vector = service.embed_prepared([prepared.pixels])[0]
        images.append(
            IndexedImage(metadata=one.metadata(prepared.width, prepared.height, prepared.format), vector=vector)
        )
    with tempfile.TemporaryDirectory() as scratch, Catalog.open(Path(scratch) / "catalog.sqlite") as catalog:
        collection = catalog.collections.ensure("bench")
        generation = catalog.generations.ensure_active(collection.id, service.identity)
        started = perf_counter()
        for start in range(0, len(images), _COMMIT):
            catalog.commit(generation.id, IndexBatch(upserts=images[start : start + _COMMIT]))
        return len(images), perf_counter() - started


def stage_all(folder: str, model: str) -> tuple[int, float]:
    """`visual-search index`, model loaded before the clock starts."""
    with tempfile.TemporaryDirectory() as scratch:
        settings = Settings(data_dir=Path(scratch), model=model)
        with ImageCollection("bench", settings=settings) as collection:
            collection.embedding_service.embed_prepared([])
            report = collection.index(folder)
            return report.done, report.seconds


def stage_again(folder: str, model: str) -> tuple[int, float]:
    """The second `visual-search index` of the same folder: nothing to embed, no model loaded."""
    with tempfile.TemporaryDirectory() as scratch:
        settings = Settings(data_dir=Path(scratch), model=model)
        with ImageCollection("bench", settings=settings) as collection:
            collection.index(folder)
        with ImageCollection("bench", settings=settings) as collection:
            report = collection.index(folder)
            return report.done, report.seconds


STAGES: dict[str, Callable[[str, str], tuple[int, float]]] = {
    "list": stage_list,
    "fetch": stage_fetch,
    "decode": stage_decode,
    "embed": stage_embed,
    "commit": stage_commit,
    "all, overlapped": stage_all,
    "all, second run": stage_again,
}


def _measured(stage: str, folder: str, model: str) -> tuple[int, float, float]:
    count, seconds = STAGES[stage](folder, model)
    return count, seconds, peak_mib()


def in_own_process(stage: str, folder: str, model: str) -> tuple[int, float, float]:
    """Run one stage in a fresh process: (images, seconds, peak MiB)."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        return process.submit(partial(_measured, stage, folder, model)).result()


def measure(given: Given) -> list[Table]:
    """A table for each backend; of CLIP with random weights, on the demo's photos."""
    prepare_int8(given)
    folder = str(jpegs(given, "640x480", 12 if given.quick else 96)[0].parent)
    tables = []
    for backend in ("onnx", "onnx-int8"):
        os.environ["VISUAL_SEARCH_BACKEND"] = backend
        measured = _in_turns(folder, str(checkpoint(given)), given.repeats)
        rates = {name: [count / seconds for count, seconds, _ in found] for name, found in measured.items()}
        rows = [Row(name, "images/s", rates[name], more_is_better=True) for name in measured]
        whole, model_alone = rates["all, overlapped"], rates["embed"]
        rows.append(
            Row("all, overlapped", "images/s", whole, "embed", model_alone, _AIM, limit=True, more_is_better=True)
        )
        rows.append(Row("all, overlapped: peak", "MiB", [peak for *_, peak in measured["all, overlapped"]]))
        tables.append(Table(f"images a second of each stage of indexing, backend {backend}", rows))
    return tables


def _in_turns(folder: str, model: str, repeats: int) -> dict[str, list[tuple[int, float, float]]]:
    """Images, seconds and peak MiB of each stage in each repeat, so that a slow minute of the machine hits them all."""
    runs: dict[str, list[tuple[int, float, float]]] = {name: [] for name in STAGES}
    for _ in range(repeats):
        for name in STAGES:
            runs[name].append(in_own_process(name, folder, model))
    return runs


def main() -> None:
    """Measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=DEFAULT_FOLDER)
    parser.add_argument("--model", default="baseline")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    if not arguments.folder.is_dir():
        sys.exit(f"no folder at {arguments.folder}: name one with photos, e.g. make bench DATA=~/Pictures")
    runs = _in_turns(str(arguments.folder), arguments.model, arguments.repeats)
    rows = [_row(name, measured) for name, measured in runs.items()]
    table = RichTable("stage", "images", "images/s (median)", "min", "max", "ms/image", "peak MiB", box=None)
    for row in rows:
        table.add_row(
            row["stage"], str(row["images"]), *(f"{row[key]:,.0f}" for key in ("median", "min", "max")),
            f"{1000 / row['median']:.3f}", f"{row['peak_mib']:.0f}",
        )  # fmt: skip
    Console().print(table)
    _write(rows, arguments)


def _row(name: str, measured: list[tuple[int, float, float]]) -> dict[str, str | int | float]:
    rates = [count / seconds for count, seconds, _ in measured]
    return {
        "stage": name,
        "images": measured[0][0],
        "median": statistics.median(rates),
        "min": min(rates),
        "max": max(rates),
        "peak_mib": statistics.median(peak for *_, peak in measured),
    }


def _write(rows: list[dict[str, str | int | float]], arguments: argparse.Namespace) -> None:
    RESULTS.mkdir(exist_ok=True)
    document = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "model": arguments.model,
        "repeats": arguments.repeats,
        "cpu_count": os.cpu_count(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "stages": rows,
    }
    target = RESULTS / "indexing_stages.json"
    target.write_text(json.dumps(document, indent=2) + "\n")
    Console().print(f"written to {target.relative_to(Path.cwd()) if target.is_relative_to(Path.cwd()) else target}")


if __name__ == "__main__":
    main()
