"""The changes feed: sequence order is commit order, also between processes, and a kill loses nothing."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from storage.catalog import Catalog, ChangePage, Generation, IndexBatch, IndexedImage
from storage.errors import CatalogError, GenerationClosed
from storage.records import ImageMetadata, ModelIdentity

ROOT = Path(__file__).parents[2]
BATCH_IMAGES = 20

# Commits batches for ever (or so many), and says so after each commit: `acknowledged NUMBER`.
WRITER = """
import sys
import numpy as np
from storage.catalog import Catalog, IndexBatch, IndexedImage
from storage.records import ImageMetadata

address, name, batches, size = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
vector = np.array([1, 0, 0, 0], dtype=np.float32)
with Catalog.open(address, create=False) as catalog:
    generation = catalog.generations.active(catalog.collections.get("photos").id)
    print("ready", flush=True)
    sys.stdin.readline()
    for batch in range(batches):
        ids = [f"{name}/{batch}/{n}" for n in range(size)]
        images = [ImageMetadata(image_id=image_id, attributes={"batch": batch}) for image_id in ids]
        catalog.commit(generation.id, IndexBatch(upserts=[IndexedImage(image, vector) for image in images]))
        print(batch, flush=True)
"""


@pytest.fixture(params=["sqlite", "postgresql"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(request.getfixturevalue("postgres_url") if request.param == "postgresql" else tmp_path / "catalog.db")


@pytest.fixture
def catalog(address: str) -> Iterator[Catalog]:
    with Catalog.open(address) as opened:
        yield opened


@pytest.fixture
def generation(catalog: Catalog) -> Generation:
    model = ModelIdentity(name="m", revision="r", weights_fingerprint="w", preprocessing_fingerprint="p", dimension=4)
    return catalog.generations.ensure_active(catalog.collections.ensure("photos").id, model)


def unit(seed: int) -> np.ndarray:
    row = np.random.default_rng(seed).standard_normal(4).astype(np.float32)
    return row / np.linalg.norm(row)


def commit(catalog: Catalog, generation: Generation, ids: list[str], seed: int = 0) -> int:
    images = [IndexedImage(ImageMetadata(image_id=image_id), unit(seed + n)) for n, image_id in enumerate(ids)]
    return catalog.commit(generation.id, IndexBatch(upserts=images))


def apply(held: dict[str, bytes], page: ChangePage) -> None:
    held.update((i, v.tobytes()) for i, v in zip(page.upserted_ids, page.vectors, strict=True))
    for image_id in page.removed_ids:
        held.pop(image_id, None)


def start_writer(address: str, name: str, batches: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, address, name, str(batches), str(BATCH_IMAGES)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def let_go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


def read_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_pages_are_full_and_end_where_the_feed_ends(catalog: Catalog, generation: Generation) -> None:
    commit(catalog, generation, list("abcde"))
    pages = list(catalog.feed.changes(generation.id, page=2))
    assert [(page.last_seq, page.upserted_ids) for page in pages] == [
        (2, ["a", "b"]),
        (4, ["c", "d"]),
        (5, ["e"]),
    ]
    assert [page.vectors.shape for page in pages] == [(2, 4), (2, 4), (1, 4)]
    assert list(catalog.feed.changes(generation.id, 5)) == []


def test_a_followers_vectors_may_be_changed_in_place(catalog: Catalog, generation: Generation) -> None:
    commit(catalog, generation, ["a"])
    [page] = catalog.feed.changes(generation.id)
    page.vectors[0] = 0


def test_what_is_committed_while_reading_comes_in_the_same_reading(catalog: Catalog, generation: Generation) -> None:
    """No transaction stays open between two pages, so a slow follower neither blocks nor misses anything."""
    commit(catalog, generation, list("abcd"))
    changes = catalog.feed.changes(generation.id, page=2)
    assert next(changes).upserted_ids == ["a", "b"]
    commit(catalog, generation, ["d", "e"])  # `d` moves behind: it is met once, in its newest state
    catalog.images.delete(generation.collection_id, ["a"])
    rest = list(changes)
    assert [(page.upserted_ids, page.removed_ids) for page in rest] == [(["c", "d"], []), (["e"], ["a"])]


def test_any_follower_ends_with_what_was_committed(catalog: Catalog, generation: Generation) -> None:
    """Random upserts and deletions; followers read at random moments, apply pages twice or start late."""
    seed = 20260704
    print(f"seed {seed}")
    chance = random.Random(seed)
    truth: dict[str, bytes] = {}
    steady: dict[str, bytes] = {}
    position = 0
    for step in range(60):
        ids = chance.sample("abcdefghij", chance.randint(1, 4))
        if chance.random() < 0.3:
            catalog.images.delete(generation.collection_id, ids)
            truth = {image_id: vector for image_id, vector in truth.items() if image_id not in ids}
        else:
            commit(catalog, generation, ids, seed=step)
            truth.update((image_id, unit(step + n).tobytes()) for n, image_id in enumerate(ids))
        if chance.random() < 0.4:
            for page in catalog.feed.changes(generation.id, position, page=chance.randint(1, 5)):
                apply(steady, page)
                apply(steady, page)
                position = chance.choice([page.last_seq, position])  # sometimes it forgets where it was
            late: dict[str, bytes] = {}
            for page in catalog.feed.changes(generation.id):
                apply(late, page)
            assert late == truth
    for page in catalog.feed.changes(generation.id, position):
        apply(steady, page)
    assert steady == truth


def test_a_follower_ahead_of_the_catalog_is_told(catalog: Catalog, generation: Generation) -> None:
    """The catalog was restored from an older copy: silence would leave the follower wrong for ever."""
    commit(catalog, generation, ["a"])
    with pytest.raises(CatalogError, match="rebuild"):
        next(catalog.feed.changes(generation.id, 2))


def test_wrong_questions_are_refused(catalog: Catalog, generation: Generation) -> None:
    with pytest.raises(CatalogError, match="at least one"):
        next(catalog.feed.changes(generation.id, page=0))
    with pytest.raises(GenerationClosed):
        next(catalog.feed.changes(4711))


def test_two_processes_commit_in_one_gapless_order_that_a_follower_sees_grow(
    address: str, catalog: Catalog, generation: Generation
) -> None:
    batches = 40
    writers = [start_writer(address, name, batches) for name in ("one", "two")]
    assert [read_line(writer) for writer in writers] == ["ready", "ready"]
    for writer in writers:
        let_go(writer)
    seen: list[str] = []
    total = 2 * batches * BATCH_IMAGES
    deadline = time.monotonic() + 180
    while len(seen) < total and time.monotonic() < deadline:
        for page in catalog.feed.changes(generation.id, len(seen)):
            assert page.last_seq == len(seen) + len(page.upserted_ids)  # no number is missing or comes later
            seen.extend(page.upserted_ids)
    assert [writer.wait(timeout=180) for writer in writers] == [0, 0]
    for writer in writers:
        writer.communicate()
    expected = {
        f"{name}/{batch}/{n}" for name in ("one", "two") for batch in range(batches) for n in range(BATCH_IMAGES)
    }
    assert len(seen) == total
    assert set(seen) == expected
    blocks = [seen[start : start + BATCH_IMAGES] for start in range(0, total, BATCH_IMAGES)]
    assert all(len({image_id.rsplit("/", 1)[0] for image_id in block}) == 1 for block in blocks)


def test_a_writer_killed_at_any_moment_leaves_whole_batches_and_all_it_acknowledged(
    address: str, catalog: Catalog, generation: Generation
) -> None:
    seed = 7
    print(f"seed {seed}")
    chance = random.Random(seed)
    acknowledged: set[str] = set()
    for round_ in range(3):
        writer = start_writer(address, str(round_), 1_000_000)
        assert read_line(writer) == "ready"
        let_go(writer)
        for _ in range(3):
            read_line(writer)
        time.sleep(chance.uniform(0, 0.05))
        writer.kill()
        output, _ = writer.communicate(timeout=180)
        numbers = [int(line) for line in output.split("\n")[:-1]]
        acknowledged.update(f"{round_}/{batch}" for batch in (0, 1, 2, *numbers))
    stored = [image.image_id for image in catalog.images.list(generation.collection_id)]
    per_batch = Counter(image_id.rsplit("/", 1)[0] for image_id in stored)
    assert set(per_batch.values()) == {BATCH_IMAGES}
    assert acknowledged <= set(per_batch)
    followed = [image_id for page in catalog.feed.changes(generation.id) for image_id in page.upserted_ids]
    assert sorted(followed) == sorted(stored)
    [after] = catalog.generations.list(generation.collection_id)
    assert after.last_seq == len(stored)
