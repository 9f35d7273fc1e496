"""The examples of docs/extending.md, run as they stand there, through the contract tests of what ships."""

from __future__ import annotations

import re
from itertools import count, islice
from pathlib import Path
from types import ModuleType

import pytest
import test_embedders
import test_storage_backends
from pictures import picture

from pipeline.embedding_service import EmbeddingService
from pipeline.results import SearchResult
from storage.images.backend import StorageBackend

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "extending.md"
NEED_REGISTRATION = {
    "test_an_address_lies_below_the_stores_own_and_gives_the_key_back",
    "test_every_recorded_address_can_be_read_again",
    "test_a_store_reopened_from_an_address_gives_the_same_addresses_and_etags",
}

for _module in (test_storage_backends, test_embedders):
    for _name, _value in vars(_module).items():
        if _name.startswith("test_") and _name not in NEED_REGISTRATION:
            globals()[_name] = _value  # with the fixtures of this file, `storage` and `embedder`


def example(path: str) -> ModuleType:
    """The block of the page that is headed by this path, as a module."""
    blocks = re.findall(r"```python\n# (\S+)\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    module = ModuleType(Path(path).stem)
    exec(compile(dict(blocks)[path], f"{PAGE}: {path}", "exec"), module.__dict__)  # noqa: S102 - our own page
    return module


@pytest.fixture
def storage(tmp_path: Path) -> StorageBackend:
    made: StorageBackend = example("storage/images/sqlite_file.py").SqliteFileStorage(
        tmp_path / "images.sqlite", max_bytes=test_storage_backends.MAX_BYTES
    )
    return made


@pytest.fixture(scope="module")
def embedder():
    return example("pipeline/embedders/thumbnail.py").ThumbnailEmbedder()


def test_the_library_takes_an_embedder_that_is_not_registered(embedder) -> None:
    service = EmbeddingService(embedder=embedder)
    assert service.embed_image(picture(1)).shape == (192,)


def results(makers: str) -> list[SearchResult]:
    return [
        SearchResult(rank=1, image_id=str(n), score=-n, distance=n, attributes={"maker": maker})
        for n, maker in enumerate(makers)
    ]


def test_the_step_puts_off_and_loses_nothing() -> None:
    step = example("pipeline/rerank/in_a_row.py").limit_in_a_row
    makers = [result.attributes["maker"] for result in step(iter(results("aaaabbab")), "maker", 2)]
    assert "".join(makers) == "aabaabab"


def test_the_step_is_lazy() -> None:
    step = example("pipeline/rerank/in_a_row.py").limit_in_a_row
    read: list[int] = []

    def endless():
        for n in count():
            read.append(n)
            yield SearchResult(rank=1, image_id=str(n), score=-n, distance=n, attributes={"maker": n % 3})

    assert [one.image_id for one in islice(step(endless(), "maker", 1), 4)] == ["0", "1", "2", "3"]
    assert len(read) <= 5


def test_every_file_that_the_page_names_is_there() -> None:
    for path in re.findall(r"`((?:storage|pipeline|tests)/[\w/]+\.py)`", PAGE.read_text(encoding="utf-8")):
        assert (ROOT / path).is_file(), path
