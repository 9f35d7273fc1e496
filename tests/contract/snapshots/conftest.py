"""What tests of snapshots share: a store in a folder and in S3."""

from __future__ import annotations

from pathlib import Path

import pytest
from buckets import Bucket
from snapshot_steps import PART_BYTES

from storage.catalog import Catalog
from storage.images.backend import StorageBackend
from storage.images.local import LocalStorage
from storage.images.s3 import S3Storage
from storage.snapshots import SnapshotStore


@pytest.fixture(params=["local", "s3"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> StorageBackend:
    if request.param == "local":
        return LocalStorage(tmp_path / "snap shots")
    bucket: Bucket = request.getfixturevalue("s3_bucket")
    return S3Storage(bucket.name, "some/where", endpoint_url=bucket.endpoint_url)


@pytest.fixture
def store(catalog: Catalog, backend: StorageBackend) -> SnapshotStore:
    return SnapshotStore(catalog, backend, part_bytes=PART_BYTES)
