"""What lies at the edges of what a catalog takes: the longest ids, many rows at once, odd values in them."""

from __future__ import annotations

import random

import pytest
from catalog_batches import failure, indexed, state_of_follower, vector

from storage.catalog import Catalog, Generation, IndexBatch
from storage.catalog.database.many_rows import COPY_ROWS
from storage.catalog.database.statements import CHUNK
from storage.filters import Exists
from storage.records import (
    MAX_IMAGE_ID_BYTES,
    MAX_IMAGE_ID_CHARACTERS,
    failure_id,
    image_id_problem,
)


def random_text(characters: int, bytes_each: int, seed: int) -> str:
    """Text that no database can shrink to fit it into an index: of letters with that many bytes each as UTF-8."""
    first, last = {1: (0x21, 0x7E), 2: (0xA1, 0x7FF), 3: (0x4E00, 0x9FFF), 4: (0x20000, 0x2A6DF)}[bytes_each]
    chance = random.Random(seed)
    return "".join(chr(chance.randint(first, last)) for _ in range(characters))


@pytest.mark.parametrize(("characters", "bytes_each"), [(1024, 1), (1024, 2), (682, 3), (512, 4)])
def test_the_longest_image_id_works_with_the_longest_attribute(
    catalog: Catalog, generation: Generation, characters: int, bytes_each: int
) -> None:
    """PostgreSQL takes 2,704 bytes into an index entry."""
    image_id, key = random_text(characters, bytes_each, 1), random_text(128, 4, 2)
    assert image_id_problem(image_id) is None
    text = random_text(500, 4, 3)
    catalog.commit(generation.id, IndexBatch(upserts=[indexed(image_id, 1, attributes={key: text})]))
    assert catalog.images.get(generation.collection_id, image_id).attributes == {key: text}
    assert catalog.images.matching_ids(generation.collection_id, Exists(key=key)) == {image_id}
    assert state_of_follower(catalog, generation.id) == {image_id: vector(1).tobytes()}
    assert catalog.images.delete(generation.collection_id, [image_id]) == 1


def test_an_id_too_long_for_an_index_is_none() -> None:
    assert "bytes" in str(image_id_problem("猫" * 683))
    assert "characters" in str(image_id_problem("x" * (MAX_IMAGE_ID_CHARACTERS + 1)))
    assert image_id_problem("\udcff" * (MAX_IMAGE_ID_BYTES // 3)) is None  # no valid Unicode: refused elsewhere


def test_images_with_ids_too_long_fail_each_with_a_row_of_its_own(catalog: Catalog, generation: Generation) -> None:
    stem = random_text(1500, 4, 4)
    ids = [stem + "a", stem + "b", random_text(2300, 1, 5)]
    catalog.commit(generation.id, IndexBatch(failures=[failure(image_id) for image_id in ids]))
    recorded = [record.image_id for record in catalog.failures.list(generation.collection_id)]
    assert sorted(recorded) == sorted(failure_id(image_id) for image_id in ids)
    for image_id in recorded:
        assert failure_id(image_id) == image_id
        assert image_id_problem(image_id) is not None  # so that a retry does not index it under the shortened id
    catalog.commit(generation.id, IndexBatch(failures=[failure(image_id) for image_id in recorded]))
    assert [record.attempts for record in catalog.failures.list(generation.collection_id)] == [2, 2, 2]


@pytest.mark.parametrize("count", [1, COPY_ROWS - 1, COPY_ROWS, CHUNK + 1])
def test_any_number_of_rows_keeps_every_value(catalog: Catalog, generation: Generation, count: int) -> None:
    """Small and large batches go different ways into PostgreSQL."""
    odd = {"text": "a\tb\\N\n'\"猫", "list": ["x", ""], "number": 0.1, "yes": True, "big": 2**53}
    images = [indexed(f"{n:05}\\'{n}", n, attributes={**odd, "n": n}) for n in range(count)]
    assert catalog.commit(generation.id, IndexBatch(upserts=images)) == count
    stored = list(catalog.images.list(generation.collection_id))
    assert [image.image_id for image in stored] == [image.metadata.image_id for image in images]
    for image, given in zip(stored, images, strict=True):
        times = {"created_at", "updated_at"}
        assert image.model_dump(exclude=times) == given.metadata.model_dump(exclude=times)
    held = state_of_follower(catalog, generation.id)
    assert held == {image.metadata.image_id: image.vector.tobytes() for image in images}
    assert catalog.commit(generation.id, IndexBatch(upserts=images)) == 2 * count  # the same rows again
    assert catalog.images.count(generation.collection_id) == count


def test_many_failures_of_one_image_in_a_batch_are_counted(catalog: Catalog, generation: Generation) -> None:
    """Two file names that become one id when written down: PostgreSQL refuses to touch a row twice."""
    batch = [failure(f"f{n:03}", "first") for n in range(COPY_ROWS)] + [failure("f000", "second")]
    catalog.commit(generation.id, IndexBatch(failures=batch))
    records = catalog.failures.list(generation.collection_id)
    assert len(records) == COPY_ROWS
    assert (records[0].reason, records[0].attempts) == ("second", 2)


def test_ids_are_looked_up_exactly_as_they_are(catalog: Catalog, generation: Generation) -> None:
    """A NUL ends a text in places where it may not: `a` is not found under what only begins with it."""
    ids = ["a", 'a"b', "a\\", "a'", "[a]", "A", " a", "猫", "é", "e\u0301"]
    catalog.commit(generation.id, IndexBatch(upserts=[indexed(image_id, n) for n, image_id in enumerate(ids)]))
    known = catalog.images.known(generation.collection_id, generation.id, [*ids[1:], "a\0b", "a\0", "\0", "b"])
    assert sorted(known) == sorted(ids[1:])
    assert catalog.images.delete(generation.collection_id, ["a\0", "é"]) == 1
    assert sorted(state_of_follower(catalog, generation.id)) == sorted(set(ids) - {"é"})
