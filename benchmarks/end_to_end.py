"""Images per second of indexing, against the model alone, the machine's limit, and a loop as one writes it by hand.

The model has the real ViT-B/32 shape and random weights, made here. Every figure is of a fresh process (or of fresh
roles), models loaded and warm before the clock starts; the ways are measured in turns.

Usage: python benchmarks/end_to_end.py [PHOTOS] [--quick] [--images N] [--repeats N] [--backend onnx|torch]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

from measuring import in_fresh_process, keep, show, spread
from photo_folders import write_photo_folder
from systems import System, running

from pipeline.embedding_service import EmbeddingService
from pipeline.indexing.chunks import chunks
from storage.settings import Settings, allowed_threads
from visual_search.collection import ImageCollection
from workers.job_client import JobClient

_SIZES = ((640, 480), (1920, 1080))
_WARM_UP = 32  # pictures
_ALONE, _ONE_CALL, _DECODING = "model alone", "model alone, one call on all cores", "decoding alone"
_EMBEDDED, _QUEUED = "embedded: visual-search index", "queued: one embed worker"


@dataclass(frozen=True)
class Measured:
    """Pictures per second, and milliseconds of processor time a picture, which a busy machine disturbs less."""

    rate: float
    cpu_ms: float | None = None


class Clock:
    """Wall and processor time of this process from here on."""

    def __init__(self) -> None:
        self._wall, self._cpu = perf_counter(), process_time()

    def measured(self, done: int, wanted: int) -> Measured:
        """So many pictures were done; other than wanted ends the run."""
        wall, cpu = perf_counter() - self._wall, process_time() - self._cpu
        if done != wanted:
            sys.exit(f"only {done} of {wanted} pictures were embedded: the figure would be wrong")
        return Measured(wanted / wall, 1000 * cpu / wanted)


def _service(model: str, backend: str) -> EmbeddingService:
    return EmbeddingService(model, device="cpu", backend="torch" if backend == "torch" else "onnx")


def _prepared(service: EmbeddingService, photos: Sequence[Path]) -> list[Any]:
    with ThreadPoolExecutor(allowed_threads()) as pool:
        return [one.pixels for one in pool.map(service.prepare, photos)]


def model_rate(model: str, backend: str, photos: Sequence[Path], *, calls: bool) -> Measured:
    """The model on prepared pictures: as many calls at once as indexing makes, or one after the other."""
    service = _service(model, backend)
    batches = list(chunks(_prepared(service, photos), service.batch_size))
    threads, embed = (service.thread_use.calls, service.embed_batch) if calls else (1, service.embed_prepared)
    _warm_up(service, batches[0])
    embed(batches[0])
    with ThreadPoolExecutor(threads) as pool:
        clock = Clock()
        vectors = sum(len(part) for part in pool.map(embed, batches))
        return clock.measured(vectors, len(photos))


def _warm_up(service: EmbeddingService, batch: list[Any]) -> None:
    """Open what is opened at first use, and let each thread's memory grow to what it will be."""
    calls = service.thread_use.calls
    with ThreadPoolExecutor(calls) as pool:
        list(pool.map(service.embed_batch, [batch[: service.batch_size]] * calls))


def decoding_rate(model: str, backend: str, photos: Sequence[Path]) -> Measured:
    """Reading from the page cache, decoding and preparing, on all cores."""
    service = _service(model, backend)
    _prepared(service, photos[:_WARM_UP])
    clock = Clock()
    return clock.measured(len(_prepared(service, photos)), len(photos))


def embedded_rate(model: str, backend: str, photos: Sequence[Path]) -> Measured:
    """`visual-search index` of the folder into SQLite."""
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(data_dir=Path(folder), model=model, device="cpu", backend=_service_backend(backend))
        with ImageCollection(settings=settings) as collection:
            service = collection.embedding_service
            _warm_up(service, _prepared(service, photos[: 2 * service.batch_size]))
            clock = Clock()
            return clock.measured(collection.index(photos[0].parent).indexed, len(photos))


def queued_rate(model: str, backend: str, photos: Sequence[Path], warm_up: Path) -> Measured:
    """From `submit` to the last commit, with one embed worker on all cores and an aggregator beside it."""
    chosen = {"model": model, "device": "cpu", "backend": _service_backend(backend)}
    with running("sqlite", **chosen) as system:
        system.start("workers.aggregator")
        system.start("workers.embed_worker", OMP_NUM_THREADS=str(allowed_threads()))
        _indexed(system, warm_up)
        clock = Clock()
        done = _indexed(system, photos[0].parent)
        return replace(clock.measured(done, len(photos)), cpu_ms=None)  # the roles compute, not this process


def hand_rate(model: str, photos: Sequence[Path], batch: int) -> Measured:
    """The loop of `by_hand.py`; imported here, so that our own processes stay without torch."""
    from by_hand import ready_by_hand

    index_photos = ready_by_hand(model, photos, batch)
    clock = Clock()
    return clock.measured(index_photos(), len(photos))


def save_model(folder: Path) -> str:
    """The random checkpoint, made in a process of its own for the same reason."""
    from checkpoints import save_random_vit_b_32

    return str(save_random_vit_b_32(folder))


def _indexed(system: System, folder: Path) -> int:
    with JobClient(system.settings) as client:
        job = client.submit(folder)
        for progress in client.watch(job.job.id, seconds=0.02):
            job = progress
        return job.indexed


def _service_backend(backend: str) -> Any:
    return "torch" if backend == "torch" else "onnx"


def _ways(model: str, backend: str, photos: list[Path], warm_up: Path) -> dict[str, Callable[[], Measured]]:
    fresh = in_fresh_process
    return {
        _ALONE: lambda: fresh(partial(model_rate, calls=True), model, backend, photos),
        _ONE_CALL: lambda: fresh(partial(model_rate, calls=False), model, backend, photos),
        _DECODING: lambda: fresh(decoding_rate, model, backend, photos),
        _EMBEDDED: lambda: fresh(embedded_rate, model, backend, photos),
        _QUEUED: lambda: queued_rate(model, backend, photos, warm_up),
        "by hand, one at a time": lambda: fresh(hand_rate, model, photos, 1),
        "by hand, 16 at a time": lambda: fresh(hand_rate, model, photos, 16),
    }


def _rows(measured: dict[str, list[Measured]]) -> list[tuple[str, ...]]:
    """Each way with its ratio to the model alone, and to the limit: model and decoding by turns, and nothing else."""
    rates = {name: [one.rate for one in values] for name, values in measured.items()}
    limits = [1 / (1 / alone + 1 / decode) for alone, decode in zip(rates[_ALONE], rates[_DECODING], strict=True)]
    rows = []
    for name, values in {**rates, "limit: model and decoding by turns": limits}.items():
        cpu = [one.cpu_ms for one in measured.get(name, []) if one.cpu_ms is not None]
        ratios = _ratio(values, rates[_ALONE]), _ratio(values, limits)
        rows.append((name, spread(values, 1), *ratios, spread(cpu, 1) if cpu else ""))
    return rows


def _ratio(values: Sequence[float], reference: Sequence[float]) -> str:
    return spread([100 * one / other for one, other in zip(values, reference, strict=True)], 1)


def main() -> None:
    """Measure in turns, print a table for each size, keep."""
    arguments = _arguments()
    sizes = _SIZES[:1] if arguments.quick else _SIZES
    kept: dict[str, dict[str, list[Measured]]] = {}
    with tempfile.TemporaryDirectory(prefix="visual-search-bench-") as scratch:
        model = in_fresh_process(save_model, Path(scratch) / "vit-b-32-random")
        warm_up = write_photo_folder(Path(scratch) / "warm-up", _WARM_UP, (320, 240), arguments.photos)
        for width, height in sizes:
            folder = Path(scratch) / f"{width}x{height}"
            photos = sorted(write_photo_folder(folder, arguments.images, (width, height), arguments.photos).iterdir())
            ways, measured = _ways(model, arguments.backend, photos, warm_up), kept.setdefault(folder.name, {})
            for _ in range(arguments.repeats):
                for name, way in ways.items():
                    measured.setdefault(name, []).append(way())
            title = f"{len(photos)} JPEG of {folder.name}, ViT-B/32 ({arguments.backend}), {allowed_threads()} threads"
            columns = ["way", "images/s", "% of the model alone", "% of the limit", "CPU ms an image"]
            show(title, columns, _rows(measured))
    given = {**vars(arguments), "photos": str(arguments.photos or "scikit-image"), "threads": allowed_threads()}
    keep("end_to_end", {**given, "measured": _plain(kept)})


def _plain(kept: dict[str, dict[str, list[Measured]]]) -> dict[str, Any]:
    return {
        size: {
            name: {"images_per_second": [one.rate for one in values], "cpu_ms_an_image": [one.cpu_ms for one in values]}
            for name, values in ways.items()
        }
        for size, ways in kept.items()
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", nargs="?", type=Path, help="folder with photos; by default the demo's")
    parser.add_argument("--quick", action="store_true", help="one size, 64 photos, once: to find what is slow")
    parser.add_argument("--images", type=int)
    parser.add_argument("--repeats", type=int)
    parser.add_argument("--backend", choices=("onnx", "torch"), default="onnx")
    arguments = parser.parse_args()
    arguments.images = arguments.images or (64 if arguments.quick else 256)
    arguments.repeats = arguments.repeats or (1 if arguments.quick else 3)
    return arguments


if __name__ == "__main__":
    main()
