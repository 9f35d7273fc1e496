"""Images and commits per second through the queue, apart from the model, and all of it against the embedded mode.

Usage: python benchmarks/queue_throughput.py [--images N] [--vectors N] [--repeats N]
"""

from __future__ import annotations

import argparse
import hashlib
import io
import statistics
import sys
import tempfile
from pathlib import Path
from time import perf_counter, sleep

import numpy as np
from measuring import keep, show, spread
from PIL import Image
from redis import Redis
from systems import System, running

from pipeline.embedders.baseline import BASELINE_NAME
from pipeline.embedding_service import EmbeddingService
from storage.catalog import (
    BatchItem,
    BatchResult,
    Generation,
    IndexBatch,
    IndexedImage,
    JobOptions,
    JobRequest,
    catalog_of,
)
from storage.records import ImageMetadata
from storage.settings import Settings
from visual_search.collection import ImageCollection
from workers.aggregator import GROUP_MESSAGES
from workers.result_stream import ResultStream

_BATCH = 128
_SEED = 20_261_124
_SIZE = (640, 480)


def write_photos(folder: Path, count: int) -> None:
    """Seeded 640x480 JPEG pictures with some texture, about 60 KB each."""
    random = np.random.default_rng(_SEED)
    folder.mkdir()
    for number in range(count):
        coarse = Image.fromarray(random.integers(0, 256, (30, 40, 3), dtype=np.uint8))
        buffer = io.BytesIO()
        coarse.resize(_SIZE, Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=85)
        (folder / f"{number:06}.jpg").write_bytes(buffer.getvalue())


def aggregator_rate(database: str, images: int) -> float:
    """Images per second from the stream into SQL by a real aggregator, with vectors made before."""
    with running(database, stream_messages=10_000, snapshot_seconds=3600) as system:
        generation, batches = _job_of(system, images)
        stream = ResultStream(Redis.from_url(system.settings.redis_url.get_secret_value(), protocol=2), 10_000)
        for batch_id, ids in batches:
            stream.publish(_result(generation, batch_id, ids))
        started = perf_counter()
        system.start("workers.aggregator", ready=" ")
        with catalog_of(system.settings) as catalog:
            # from the first commit that is seen to the last: the start of the process is not the aggregator's speed
            while (first := catalog.generations.get(generation.id).last_seq) == 0:
                sleep(0.005)
            started = perf_counter()
            while (last := catalog.generations.get(generation.id).last_seq) < images:
                sleep(0.005)
        if last == first:
            sys.exit("all was committed before the first look: take more --vectors")
        return (last - first) / (perf_counter() - started)


def _job_of(system: System, images: int) -> tuple[Generation, list[tuple[int, list[str]]]]:
    """A job whose batches are all leased, as if workers had them."""
    ids = [f"{number:07}.jpg" for number in range(images)]
    cut = [ids[start : start + _BATCH] for start in range(0, images, _BATCH)]
    with catalog_of(system.settings) as catalog:
        collection = catalog.collections.ensure("default")
        generation = catalog.generations.ensure_active(collection.id, EmbeddingService(BASELINE_NAME).identity)
        request = JobRequest(collection.id, generation.id, "index", "file:///photos/", JobOptions())
        job, _ = catalog.jobs.open(request)
        items = [[BatchItem(one, one, f"file:///photos/{one}", "e", 60_000) for one in part] for part in cut]
        numbers = catalog.jobs.add_batches(job.id, items, listed_until=ids[-1], counts={"listed": images})
        catalog.jobs.listing_done(job.id)
        for number in numbers:
            catalog.batches.lease(number, "benchmark", 3600)
    return generation, list(zip(numbers, cut, strict=True))


def _result(generation: Generation, batch_id: int, ids: list[str]) -> BatchResult:
    vectors = np.random.default_rng(batch_id).standard_normal((len(ids), generation.model.dimension), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    upserts = [
        IndexedImage(
            ImageMetadata(
                image_id=one, source_uri=f"file:///photos/{one}", etag="e", width=640, height=480, format="JPEG",
                sha256=hashlib.sha256(one.encode()).hexdigest(), bytes=60_000,
            ),
            vector,
        )
        for one, vector in zip(ids, vectors, strict=True)
    ]  # fmt: skip
    return BatchResult(batch_id, generation.id, IndexBatch(upserts=upserts), {"indexed": len(ids)})


def commit_rate(database: str, images: int, group: int) -> float:
    """Transactions per second of what the aggregator commits, so many batches in each, called one after the other."""
    with running(database) as system:
        generation, batches = _job_of(system, images)
        results = [_result(generation, batch_id, ids) for batch_id, ids in batches]
        groups = [results[start : start + group] for start in range(0, len(results), group)]
        with catalog_of(system.settings) as catalog:
            lease = catalog.leases.acquire("aggregator", "benchmark", 600)
            started = perf_counter()
            for one in groups:
                if not all(catalog.commit_results(lease, one)):
                    sys.exit("a batch was not committed: the figure would be wrong")
            return len(groups) / (perf_counter() - started)


def embedded_rate(photos: Path, count: int) -> float:
    """Images per second of `visual-search index`, model loaded before."""
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(data_dir=Path(folder), model=BASELINE_NAME)
        with ImageCollection(settings=settings) as collection:
            collection.embedding_service.embed_prepared([])
            report = collection.index(photos)
            _complete(report.indexed, count)
            return report.indexed / report.seconds


def queued_rate(database: str, photos: Path, count: int, workers: int) -> float:
    """Images per second from `submit` to the last commit, roles started before."""
    with running(database, batch_images=64) as system:
        system.start("workers.aggregator")
        for _ in range(workers):
            system.start("workers.embed_worker")
        job, seconds = system.index(photos)
        _complete(job.indexed + job.reused, count)
        return count / seconds


def _complete(done: int, count: int) -> None:
    if done != count:
        sys.exit(f"only {done} of {count} images were indexed: the figure would be wrong")


def main() -> None:
    """Measure in turns, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1500)
    parser.add_argument("--vectors", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    rates: dict[str, list[float]] = {}
    commits: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        photos = Path(scratch) / "photos"
        write_photos(photos, arguments.images)
        for _ in range(arguments.repeats):
            cases = {
                "embedded (visual-search index), SQLite": lambda: embedded_rate(photos, arguments.images),
                "queued, 1 worker, SQLite": lambda: queued_rate("sqlite", photos, arguments.images, 1),
                "queued, 1 worker, PostgreSQL": lambda: queued_rate("postgresql", photos, arguments.images, 1),
                "queued, 2 workers, SQLite": lambda: queued_rate("sqlite", photos, arguments.images, 2),
                "aggregator alone, SQLite": lambda: aggregator_rate("sqlite", arguments.vectors),
                "aggregator alone, PostgreSQL": lambda: aggregator_rate("postgresql", arguments.vectors),
            }
            for name, measure in cases.items():
                rates.setdefault(name, []).append(measure())
            for name, database in (("SQLite", "sqlite"), ("PostgreSQL", "postgresql")):
                for group in (1, GROUP_MESSAGES):
                    case = f"{name}, {group * _BATCH:,} images a commit"
                    commits.setdefault(case, []).append(commit_rate(database, arguments.vectors, group))
    embedded = statistics.median(next(iter(rates.values())))
    rows = [
        (
            name,
            spread(values),
            f"{1000 / statistics.median(values):.3f}",
            "-" if name.startswith("aggregator") else _overhead(statistics.median(values), embedded),
        )
        for name, values in rates.items()
    ]
    show(
        f"{arguments.images} JPEG of 640x480 with `baseline`; {arguments.vectors} vectors of 512-d made before",
        ["way", "images/s", "ms/image", "more than embedded, ms/image"],
        rows,
    )
    show(
        "what the aggregator commits, in this process",
        ["database", "commits/s"],
        [(name, spread(values, 1)) for name, values in commits.items()],
    )
    figures = {"images_per_second": rates, "commits_per_second": commits}
    keep("queue_throughput", {"seed": _SEED, **vars(arguments), **figures})


def _overhead(rate: float, embedded: float) -> str:
    return f"{1000 / rate - 1000 / embedded:+.3f}"


if __name__ == "__main__":
    main()
