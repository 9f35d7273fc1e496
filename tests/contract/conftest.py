"""Fixtures of the contract tests: each boundary once for every implementation."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from catalog_batches import MODEL
from pydantic import SecretStr

from storage.catalog import Catalog, Generation
from storage.settings import Settings


@pytest.fixture(scope="session")
def empty_sqlite_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite catalog with its schema, made once: each test works on a copy."""
    path = tmp_path_factory.mktemp("catalog") / "empty.db"
    Catalog.open(path).close()
    return path


@pytest.fixture(params=["sqlite", "postgresql"])
def catalog_address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty catalog, once for each database."""
    if request.param == "postgresql":
        return str(request.getfixturevalue("postgres_url"))
    empty_sqlite_file: Path = request.getfixturevalue("empty_sqlite_file")
    path = tmp_path / "catalog.db"
    shutil.copyfile(empty_sqlite_file, path)
    return f"sqlite:///{path.as_posix()}"


@pytest.fixture
def catalog(catalog_address: str) -> Iterator[Catalog]:
    """An empty catalog."""
    with Catalog.open(catalog_address) as opened:
        yield opened


@pytest.fixture
def generation(catalog: Catalog) -> Generation:
    """The active generation of a collection named `photos`."""
    return catalog.generations.ensure_active(catalog.collections.ensure("photos").id, MODEL)


@pytest.fixture
def settings(catalog_address: str, tmp_path: Path) -> Settings:
    """Settings with the `baseline` model that lead to that empty catalog."""
    if catalog_address.startswith("postgresql"):
        return Settings(data_dir=tmp_path, model="baseline", database_url=SecretStr(catalog_address))
    (tmp_path / "catalog.db").rename(tmp_path / "catalog.sqlite")
    return Settings(data_dir=tmp_path, model="baseline")
