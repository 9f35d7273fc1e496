"""Real photos by real workers: from a folder and from S3, into SQLite and PostgreSQL, the same vectors each time."""

import time

import numpy as np
import pytest
from servers import wait_for

from storage.catalog import catalog_of
from storage.settings import Settings
from visual_search.collection import ImageCollection
from workers.job_client import JobClient

pytestmark = pytest.mark.slow  # real processes, 650 photos four times: `make test-slow`

PHOTOS = 650


def _vectors(settings: Settings) -> dict[str, np.ndarray]:
    with catalog_of(settings) as catalog:
        generation = catalog.generations.active(catalog.collections.get(settings.collection).id)
        assert generation is not None
        held: dict[str, np.ndarray] = {}
        for page in catalog.feed.changes(generation.id):
            held.update(zip(page.upserted_ids, page.vectors, strict=True))
        assert generation.last_seq == len(held), "an image was committed twice"
        return held


@pytest.fixture(scope="module")
def embedded_vectors(small_demo, tmp_path_factory):
    settings = Settings(data_dir=tmp_path_factory.mktemp("embedded"), model="baseline")
    with ImageCollection(settings=settings) as collection:
        collection.index(small_demo)
    return _vectors(settings)


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
@pytest.mark.parametrize("source", ["folder", "s3"])
def test_real_photos_become_the_vectors_of_the_embedded_mode(  # noqa: PLR0917 - fixtures are arguments
    source, database, small_demo, embedded_vectors, s3_bucket, redis_url, start_role, worker_process, tmp_path, request,
    monkeypatch,
):  # fmt: skip
    given = {"database_url": request.getfixturevalue("postgres_url")} if database == "postgresql" else {}
    settings = Settings(data_dir=tmp_path / "data", model="baseline", redis_url=redis_url, batch_images=64, **given)
    address = str(small_demo)
    if source == "s3":
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3_bucket.endpoint_url)
        for path in sorted(path for path in small_demo.rglob("*") if path.is_file()):
            key = path.relative_to(small_demo).as_posix()
            s3_bucket.client.put_object(Bucket=s3_bucket.name, Key=key, Body=path.read_bytes())
        address = f"s3://{s3_bucket.name}/"
    roles = [start_role("workers.aggregator", settings), *(worker_process(settings) for _ in range(2))]
    wait_for(lambda: roles[0].says("ready"), what="the aggregator to be ready")
    started = time.monotonic()
    with JobClient(settings) as client:
        job = client.submit(address).job.id
        wait_for(lambda: client.get(job).is_over, what="the job to be over")
        progress = client.get(job)
    print(f"{source} into {database}: {PHOTOS} photos in {time.monotonic() - started:.1f} s, {progress}")
    assert (progress.listed, progress.failed, progress.indexed + progress.reused) == (PHOTOS, 0, PHOTOS)
    with ImageCollection(settings=settings) as collection:
        report = collection.audit(address)
    assert report.clean, report.findings
    held = _vectors(settings)
    assert held.keys() == embedded_vectors.keys()
    assert all(np.array_equal(held[image_id], vector) for image_id, vector in embedded_vectors.items())
