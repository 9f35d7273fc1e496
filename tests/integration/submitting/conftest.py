"""What tests of submitting share: each database, a client, ten pictures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pictures import write_photos
from pydantic import SecretStr

from storage.settings import Settings
from workers.job_client import JobClient


@pytest.fixture(params=["sqlite", "postgresql"])
def settings(request: pytest.FixtureRequest, tmp_path: Path, redis_url: str) -> Settings:
    """The baseline model, a real Valkey, and each database."""
    database = SecretStr(request.getfixturevalue("postgres_url")) if request.param == "postgresql" else None
    return Settings(
        data_dir=tmp_path / "home",
        model="baseline",
        redis_url=SecretStr(redis_url),
        database_url=database,
        batch_images=4,
    )


@pytest.fixture
def client(settings: Settings) -> Iterator[JobClient]:
    with JobClient(settings) as opened:
        yield opened


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with ten pictures."""
    folder = tmp_path / "photos"
    write_photos(folder, 10)
    return folder
