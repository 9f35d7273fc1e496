"""What tests of answering share: a filled catalog, and one whose replica lags behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from answering_bench import Bench, fill
from checkpoints import save_tiny_clip

from pipeline.embedding_service import EmbeddingService
from storage.catalog import Catalog
from storage.settings import Settings
from workers.models import LoadedModels


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("answering")
    checkpoint = save_tiny_clip(folder / "clip")
    models = LoadedModels(Settings(data_dir=folder, model=str(checkpoint)))
    service = EmbeddingService(str(checkpoint))
    with Catalog.open(folder / "catalog.db") as catalog:
        bench = fill(catalog, models, service)
        yield bench
        bench.answering.close()


@pytest.fixture
def lagging(tmp_path: Path) -> Iterator[Callable[[list[str]], Bench]]:
    """A bench of its own, whose catalog deletes images without its replica catching up."""
    models, service = LoadedModels(Settings(data_dir=tmp_path)), EmbeddingService("baseline")
    with Catalog.open(tmp_path / "catalog.db") as catalog:
        bench = fill(catalog, models, service)

        def after_deleting(names: list[str]) -> Bench:
            catalog.images.delete(bench.served.collection.id, names)
            return bench

        yield after_deleting
        bench.answering.close()
