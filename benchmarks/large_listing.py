"""Submitting a source of very many images: time, memory, and that a second submit finds nothing to do.

The images are indexed in between without pixels: their outcomes go straight to the catalog, as workers' would, so that
what is measured is listing and planning.
Usage: python benchmarks/large_listing.py [--images N] [--source folder|s3|both]
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
import tempfile
import threading
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from measuring import MIB, in_fresh_process, keep, show
from peak_memory import peak_mib
from systems import running

from pipeline.embedders.baseline import BASELINE_NAME
from pipeline.embedding_service import EmbeddingService
from storage.catalog import BatchResult, Catalog, Generation, IndexBatch, IndexedImage, catalog_of
from storage.records import ImageMetadata
from storage.settings import Settings
from workers.job_client import JobClient

_BUCKET = "many"


def submit(settings: dict[str, Any], address: str) -> dict[str, float]:
    """Submit in this process: seconds, counts, memory before, in the first tenth of the listing, and at most."""
    with JobClient(Settings(**settings)) as client:
        EmbeddingService(BASELINE_NAME)
        before = _resident_mib()
        samples: list[float] = []
        done = threading.Event()
        watcher = threading.Thread(target=_sample, args=(samples, done))
        watcher.start()
        started = perf_counter()
        job = client.submit(address)
        seconds = perf_counter() - started
        done.set()
        watcher.join()
    tenth = samples[: max(1, len(samples) // 10)]
    return {
        "seconds": seconds, "listed": job.listed, "pending": job.pending, "unchanged": job.unchanged, "job": job.job.id,
        "before_mib": before, "tenth_mib": max(tenth), "peak_mib": max(samples), "process_peak_mib": peak_mib(),
    }  # fmt: skip


def _sample(samples: list[float], done: threading.Event) -> None:
    while True:
        samples.append(_resident_mib())
        if done.wait(0.05):
            return


def _resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / MIB


def settle(settings: Settings, job_id: int) -> float:
    """Commit an outcome for every image of every batch, with random vectors; images per second."""
    with catalog_of(settings) as catalog:
        generation = catalog.generations.active(catalog.collections.get(settings.collection).id)
        if generation is None:
            sys.exit("the submit bound no model to the collection")
        started, done = perf_counter(), 0
        while unsent := _open(catalog, job_id):
            for batch_id in unsent:
                done += _settle_one(catalog, generation, batch_id)
        return done / (perf_counter() - started)


def _open(catalog: Catalog, job_id: int) -> list[int]:
    from storage.catalog import tables

    columns = tables.job_batches.c
    with catalog._database.read() as connection:  # noqa: SLF001 - the benchmark stands in for workers
        statement = tables.job_batches.select().where(columns.job_id == job_id, columns.state == "pending").limit(500)
        return [row.id for row in connection.execute(statement)]


def _settle_one(catalog: Catalog, generation: Generation, batch_id: int) -> int:
    leased = catalog.batches.lease(batch_id, "benchmark", 600)
    if leased is None:
        return 0
    vectors = np.random.default_rng(batch_id).standard_normal((len(leased.items), 512), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    upserts = [
        IndexedImage(
            ImageMetadata(
                image_id=one.image_id, source_uri=one.uri, etag=one.etag, width=1, height=1, format="JPEG",
                sha256=hashlib.sha256(one.image_id.encode()).hexdigest(), bytes=one.size_bytes,
            ),
            vector,
        )
        for one, vector in zip(leased.items, vectors, strict=True)
    ]  # fmt: skip
    counts = {"indexed": len(upserts)}
    catalog.commit_results(None, [BatchResult(batch_id, generation.id, IndexBatch(upserts=upserts), counts)])
    return len(upserts)


def make_folder(folder: Path, images: int) -> None:
    """Small files in folders of 1,000, as cameras make them."""
    for number in range(images):
        path = folder / f"{number // 1000:04}" / f"IMG_{number:07}.jpg"
        if number % 1000 == 0:
            path.parent.mkdir(parents=True)
        path.write_bytes(b"\xff\xd8" + number.to_bytes(8, "little"))


def make_bucket(endpoint: str, images: int) -> None:
    """The same as objects of the S3 server in this process, straight into its memory: PUTs would take 20 minutes."""
    import boto3.session
    from moto.backends import get_backend
    from moto.core import DEFAULT_ACCOUNT_ID

    client = boto3.session.Session().client("s3", endpoint_url=endpoint, region_name="us-east-1")
    client.create_bucket(Bucket=_BUCKET)
    store = get_backend("s3")[DEFAULT_ACCOUNT_ID]["aws"]
    for number in range(images):
        store.put_object(
            _BUCKET, f"{number // 1000:04}/IMG_{number:07}.jpg", b"\xff\xd8" + number.to_bytes(8, "little")
        )


def measure(database: str, address: str) -> list[dict[str, float]]:
    """Submit, settle, submit again."""
    with running(database) as system:
        given = {name: getattr(system.settings, name) for name in system.settings.model_fields_set}
        first = in_fresh_process(submit, given, address)
        first["settled_per_second"] = settle(system.settings, int(first["job"]))
        second = in_fresh_process(submit, given, address)
        if second["pending"] or second["unchanged"] != first["listed"]:
            sys.exit(f"the second submit found work: {second}")
        return [first, second]


def main() -> None:
    """Measure folder and S3 on both databases, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=120_000)
    parser.add_argument("--source", choices=["folder", "s3", "both"], default="both")
    parser.add_argument("--databases", nargs="+", default=["sqlite", "postgresql"])
    arguments = parser.parse_args()
    figures: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        if arguments.source != "s3":
            make_folder(Path(scratch) / "photos", arguments.images)
            for database in arguments.databases:
                figures[f"folder, {database}"] = measure(database, str(Path(scratch) / "photos"))
        if arguments.source != "folder":
            from moto.server import ThreadedMotoServer

            os.environ |= {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing"}
            server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
            server.start()
            host, port = server.get_host_and_port()
            os.environ["AWS_ENDPOINT_URL_S3"] = f"http://{host}:{port}"
            make_bucket(f"http://{host}:{port}", arguments.images)
            for database in arguments.databases:
                figures[f"s3, {database}"] = measure(database, f"s3://{_BUCKET}/")
            server.stop()
    rows = [
        (
            f"{name}, {which} submit", f"{one['seconds']:.1f}", f"{one['listed'] / one['seconds']:,.0f}",
            f"{one['pending']:,.0f}", f"{one['unchanged']:,.0f}",
            f"{one['before_mib']:.0f} / {one['tenth_mib']:.0f} / {one['peak_mib']:.0f}",
        )
        for name, both in figures.items()
        for which, one in zip(("first", "second"), both, strict=True)
    ]  # fmt: skip
    columns = ["source", "seconds", "images/s", "to do", "unchanged", "MiB: before / at a tenth / at most"]
    show(f"{arguments.images:,} images", columns, rows)
    keep("large_listing", {"images": arguments.images, "figures": figures})


if __name__ == "__main__":
    main()
