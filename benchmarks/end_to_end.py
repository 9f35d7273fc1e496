"""Stage `end-to-end`: indexing against the model alone, the machine's limit, and a loop as one writes it by hand.

Every figure is of a fresh process (or of fresh roles), with models loaded and warm before the clock starts.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

from bench_inputs import SIZES, checkpoint, photos
from measuring import in_fresh_process
from photo_folders import write_photo_folder
from stage import Given, Row, Table
from systems import running

from pipeline.embedding_service import EmbeddingService
from pipeline.indexing.chunks import chunks
from storage.settings import Settings, allowed_threads
from visual_search.collection import ImageCollection

_SIZES = ("640x480", "1080p")
_SOURCES = 1000  # photos to cut from, at most
_WARM_UP = 32  # pictures
_AIM = 0.95  # of the model alone
_ALONE, _ONE_CALL, _DECODING = "the model alone", "the model alone, one call on all cores", "decoding alone"
_LIMIT = "model and decoding by turns, nothing else"
_EMBEDDED, _QUEUED = "visual-search index", "one queued embed worker"
_HAND, _HAND_16 = "by hand, one at a time", "by hand, 16 at a time"


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
        _complete(done, wanted)
        return Measured(wanted / wall, 1000 * cpu / wanted)


def _complete(done: int, wanted: int) -> None:
    if done != wanted:
        sys.exit(f"only {done} of {wanted} pictures were embedded: the figure would be wrong")


def _service(model: str) -> EmbeddingService:
    return EmbeddingService(model, device="cpu", backend="onnx")


def _prepared(service: EmbeddingService, photos: Sequence[Path]) -> list[Any]:
    with ThreadPoolExecutor(allowed_threads()) as pool:
        return [one.pixels for one in pool.map(service.prepare, photos)]


def model_rate(model: str, photos: Sequence[Path], *, calls: bool) -> Measured:
    """The model on prepared pictures: as many calls at once as indexing makes, or one after the other."""
    service = _service(model)
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


def decoding_rate(model: str, photos: Sequence[Path]) -> Measured:
    """Reading from the page cache, decoding and preparing, on all cores."""
    service = _service(model)
    _prepared(service, photos[:_WARM_UP])
    clock = Clock()
    return clock.measured(len(_prepared(service, photos)), len(photos))


def embedded_rate(model: str, photos: Sequence[Path]) -> Measured:
    """`visual-search index` of the folder into SQLite."""
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(data_dir=Path(folder), model=model, device="cpu", backend="onnx")
        with ImageCollection(settings=settings) as collection:
            service = collection.embedding_service
            _warm_up(service, _prepared(service, photos[: 2 * service.batch_size]))
            clock = Clock()
            return clock.measured(collection.index(photos[0].parent).indexed, len(photos))


def queued_rate(model: str, photos: Sequence[Path], warm_up: Path) -> Measured:
    """From `submit` to the last commit, with one embed worker on all cores and an aggregator beside it."""
    chosen = {"model": model, "device": "cpu", "backend": "onnx"}
    with running("sqlite", **chosen) as system:
        system.start("workers.aggregator")
        system.start("workers.embed_worker", OMP_NUM_THREADS=str(allowed_threads()))
        system.index(warm_up)
        job, seconds = system.index(photos[0].parent)
        _complete(job.indexed, len(photos))
        return Measured(len(photos) / seconds)  # the roles compute, not this process


def hand_rate(model: str, photos: Sequence[Path], batch: int) -> Measured:
    """The loop of `by_hand.py`; imported here, so that our own processes stay without torch."""
    from by_hand import ready_by_hand

    index_photos = ready_by_hand(model, photos, batch)
    clock = Clock()
    return clock.measured(index_photos(), len(photos))


def _ways(model: str, photos: list[Path], warm_up: Path) -> dict[str, Callable[[], Measured]]:
    fresh = in_fresh_process
    return {
        _ALONE: lambda: fresh(partial(model_rate, calls=True), model, photos),
        _ONE_CALL: lambda: fresh(partial(model_rate, calls=False), model, photos),
        _DECODING: lambda: fresh(decoding_rate, model, photos),
        _EMBEDDED: lambda: fresh(embedded_rate, model, photos),
        _QUEUED: lambda: queued_rate(model, photos, warm_up),
        _HAND: lambda: fresh(hand_rate, model, photos, 1),
        _HAND_16: lambda: fresh(hand_rate, model, photos, 16),
    }


def _table(size: str, count: int, measured: dict[str, list[Measured]]) -> Table:
    rates = {name: [one.rate for one in values] for name, values in measured.items()}
    limit = [1 / (1 / alone + 1 / decode) for alone, decode in zip(rates[_ALONE], rates[_DECODING], strict=True)]
    rate = partial(Row, unit="images/s", more_is_better=True)
    rows = [
        rate(_EMBEDDED, ours=rates[_EMBEDDED], against=_ALONE, theirs=rates[_ALONE], limit=True, aim=_AIM),
        rate(_EMBEDDED, ours=rates[_EMBEDDED], against=_LIMIT, theirs=limit, limit=True),
        rate(_EMBEDDED, ours=rates[_EMBEDDED], against=_HAND, theirs=rates[_HAND]),
        rate(_EMBEDDED, ours=rates[_EMBEDDED], against=_HAND_16, theirs=rates[_HAND_16]),
        rate(_QUEUED, ours=rates[_QUEUED], against=_ALONE, theirs=rates[_ALONE], limit=True, aim=_AIM),
        rate(_QUEUED, ours=rates[_QUEUED], against=_LIMIT, theirs=limit, limit=True),
        rate(_ALONE, ours=rates[_ALONE], against=_ONE_CALL, theirs=rates[_ONE_CALL]),
    ]
    cpu = {name: [one.cpu_ms for one in values if one.cpu_ms is not None] for name, values in measured.items()}
    rows += [
        Row(f"{_EMBEDDED}: processor time", "ms an image", cpu[_EMBEDDED], against=name, theirs=cpu[name])
        for name in (_ALONE, _ONE_CALL, _HAND_16)
    ]
    title = f"Indexing {count} JPEGs of {size} end to end, ViT-B/32 in float32, {allowed_threads()} threads"
    note = f"'{_LIMIT}' is computed from what both do alone: no more can be had of these cores."
    return Table(title, rows, [note])


def measure(given: Given) -> list[Table]:
    """Each size in turns; `quick` is one size and few photos."""
    model, real = str(checkpoint(given)), photos(given, _SOURCES)
    folder, count = given.scratch / "end-to-end", 48 if given.quick else 128
    warm_up = write_photo_folder(folder / "warm-up", real, _WARM_UP, (320, 240))[0].parent
    tables = []
    for name in _SIZES[:1] if given.quick else _SIZES:
        written = write_photo_folder(folder / name, real, count, SIZES[name])
        measured: dict[str, list[Measured]] = {}
        for _ in range(given.repeats):
            for way, measure_it in _ways(model, written, warm_up).items():
                measured.setdefault(way, []).append(measure_it())
        tables.append(_table(name, count, measured))
    return tables
