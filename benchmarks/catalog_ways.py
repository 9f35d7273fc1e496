"""What `catalog_speed` measures: commits and reads of the catalog, and the same by the bare drivers.

Each function takes the address of a new database, and returns what its part that counts took.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from time import perf_counter, process_time

import numpy as np
from bare_drivers import Row, bare_database, read_all

from storage.catalog import (
    BatchItem,
    BatchResult,
    Catalog,
    Generation,
    IndexBatch,
    IndexedImage,
    JobOptions,
    JobRequest,
)
from storage.records import ImageMetadata, ModelIdentity
from workers.aggregator import GROUP_MESSAGES
from workers.wire import pack, unpack

_SEED = 20_261_128
DIMENSION = 512
_LARGE, _SMALL = 4096, 256  # images a commit: of a busy aggregator, and of `visual-search index`
_BATCH = 128  # images a message
_MODEL = ModelIdentity(
    name="m", revision="1", weights_fingerprint="w", preprocessing_fingerprint="p", dimension=DIMENSION
)
_OTHER = _MODEL.model_copy(update={"revision": "2"})

Timed = tuple[float, float]  # vectors a second, microseconds of this process's CPU for each


@dataclass(frozen=True)
class Work:
    """What is written; `standing` are there before the clock starts."""

    images: Sequence[IndexedImage]
    with_attributes: Sequence[IndexedImage]
    standing: Sequence[IndexedImage]


def make_work(count: int, standing: int) -> Work:
    """Seeded vectors; names as of a collection in folders, attributes as of a small sidecar."""
    rows = np.random.default_rng(_SEED).standard_normal((count + standing, DIMENSION), dtype=np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    images = [IndexedImage(_metadata(number), row) for number, row in enumerate(rows)]
    given = [
        replace(image, metadata=image.metadata.model_copy(update={"attributes": _attributes(number)}))
        for number, image in enumerate(images[:count])
    ]
    return Work(images[:count], given, images[count:])


def _metadata(number: int) -> ImageMetadata:
    name = f"{number // 1000:04}/{number:07}.jpg"
    return ImageMetadata(
        image_id=name, source_uri=f"file:///data/photos/{name}", etag=f"{number:x}-61a80", bytes=60_000,
        sha256=hashlib.sha256(name.encode()).hexdigest(), width=640, height=480, format="JPEG",
    )  # fmt: skip


def _attributes(number: int) -> dict[str, str | int | list[str]]:
    return {"year": 2000 + number % 25, "place": f"town {number % 100}", "tags": ["holiday", f"tag {number % 7}"]}


@contextmanager
def _timed(count: int, into: list[Timed]) -> Iterator[None]:
    started, busy = perf_counter(), process_time()
    yield
    into.append((count / (perf_counter() - started), (process_time() - busy) / count * 1e6))


@contextmanager
def _opened(address: str) -> Iterator[tuple[Catalog, Generation]]:
    with Catalog.open(address) as catalog:
        collection = catalog.collections.ensure("bench")
        yield catalog, catalog.generations.ensure_active(collection.id, _MODEL)


def _commit(catalog: Catalog, generation: Generation, images: Sequence[IndexedImage], size: int) -> None:
    for start in range(0, len(images), size):
        catalog.commit(generation.id, IndexBatch(upserts=images[start : start + size]))


def whole_images(address: str, images: Sequence[IndexedImage], size: int) -> Timed:
    """Commits of new images: rows, attributes, vectors, failures cleared."""
    times: list[Timed] = []
    with _opened(address) as (catalog, generation), _timed(len(images), times):
        _commit(catalog, generation, images, size)
    return times[0]


def vectors_alone(address: str, work: Work, size: int, standing: Sequence[IndexedImage] = ()) -> Timed:
    """Commits of a reindex, into a generation beside the active one that holds `standing` already."""
    times: list[Timed] = []
    with _opened(address) as (catalog, generation):
        _commit(catalog, generation, [*work.images, *standing], _LARGE)
        building = catalog.lifecycle.begin(generation.collection_id, _OTHER)
        for start in range(0, len(standing), _LARGE):
            catalog.commit(building.id, IndexBatch(upserts=standing[start : start + _LARGE], vectors_only=True))
        with _timed(len(work.images), times):
            for start in range(0, len(work.images), size):
                batch = IndexBatch(upserts=work.images[start : start + size], vectors_only=True)
                catalog.commit(building.id, batch)
    return times[0]


def group_commit(address: str, work: Work) -> Timed:
    """What the aggregator does with messages of embed workers: read them, commit so many in a transaction."""
    times: list[Timed] = []
    with _opened(address) as (catalog, generation):
        messages = [pack(result) for result in _results(catalog, generation, work.images)]
        lease = catalog.leases.acquire("aggregator", "benchmark", 600)
        with _timed(len(work.images), times):
            for start in range(0, len(messages), GROUP_MESSAGES):
                group = [unpack(message) for message in messages[start : start + GROUP_MESSAGES]]
                if not all(catalog.commit_results(lease, group)):
                    sys.exit("a batch was not committed: the figure would be wrong")
    return times[0]


def _results(catalog: Catalog, generation: Generation, images: Sequence[IndexedImage]) -> list[BatchResult]:
    """The images as results of a job's batches."""
    cut = [images[start : start + _BATCH] for start in range(0, len(images), _BATCH)]
    request = JobRequest(generation.collection_id, generation.id, "index", "file:///data/photos/", JobOptions())
    job, _ = catalog.jobs.open(request)
    items = [[BatchItem(i, i, i, "e", 1) for i in [image.metadata.image_id for image in part]] for part in cut]
    numbers = catalog.jobs.add_batches(job.id, items, listed_until="z", counts={"listed": len(images)})
    return [
        BatchResult(number, generation.id, IndexBatch(upserts=part), {"indexed": len(part)})
        for number, part in zip(numbers, cut, strict=True)
    ]


def feed(address: str, work: Work) -> Timed:
    """A full read of the changes feed, as a replica without a snapshot does."""
    times: list[Timed] = []
    with _opened(address) as (catalog, generation):
        _commit(catalog, generation, work.images, _LARGE)
        with _timed(len(work.images), times):
            count = sum(len(page.upserted_ids) for page in catalog.feed.changes(generation.id))
    if count != len(work.images):
        sys.exit(f"{count} of {len(work.images)} vectors were read: the figure would be wrong")
    return times[0]


def bare_commits(address: str, work: Work, size: int) -> Timed:
    """The same ids, hashes and vectors into one table by the bare driver."""
    times: list[Timed] = []
    with bare_database(address) as bare:
        rows = _bare_rows(work)
        with _timed(len(rows), times):
            for start in range(0, len(rows), size):
                bare.commit(rows[start : start + size])
    return times[0]


def bare_feed(address: str, work: Work) -> Timed:
    """A full read of that table by the bare driver."""
    times: list[Timed] = []
    with bare_database(address) as bare:
        rows = _bare_rows(work)
        for start in range(0, len(rows), _LARGE):
            bare.commit(rows[start : start + _LARGE])
        with _timed(len(rows), times):
            read_all(bare)
    return times[0]


def _bare_rows(work: Work) -> list[Row]:
    return [
        (image.metadata.image_id, number, bytes.fromhex(image.metadata.sha256), image.vector.tobytes())
        for number, image in enumerate(work.images, 1)
    ]


def ways(work: Work) -> dict[str, tuple[Callable[[str], Timed], str]]:
    """By name: what is measured on the address of a new database, and the limit that it is compared with."""
    large, small, read = "bare driver, 4,096 a commit", "bare driver, 256 a commit", "bare driver, read"
    found: dict[str, tuple[Callable[[str], Timed], str]] = {
        large: (partial(bare_commits, work=work, size=_LARGE), large),
        "vectors alone, 4,096 a commit": (partial(vectors_alone, work=work, size=_LARGE), large),
        "whole images, 4,096 a commit": (partial(whole_images, images=work.images, size=_LARGE), large),
        "with 4 attributes, 4,096 a commit": (partial(whole_images, images=work.with_attributes, size=_LARGE), large),
        "group commit, 32 messages of 128": (partial(group_commit, work=work), large),
        small: (partial(bare_commits, work=work, size=_SMALL), small),
        "vectors alone, 256 a commit": (partial(vectors_alone, work=work, size=_SMALL), small),
        "whole images, 256 a commit": (partial(whole_images, images=work.images, size=_SMALL), small),
        read: (partial(bare_feed, work=work), read),
        "feed": (partial(feed, work=work), read),
    }
    if work.standing:
        for size, limit in ((_LARGE, large), (_SMALL, small)):
            name = f"vectors alone, {size:,} a commit, {len(work.standing):,} standing"
            found[name] = (partial(vectors_alone, work=work, size=size, standing=work.standing), limit)
    return found
