"""Setting attributes while images change or are deleted, at every statement of it: nothing but attributes is touched.

On PostgreSQL alone: SQLite lets one writer in at a time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from catalog_batches import MODEL, indexed, sha256, state_of_follower
from servers import wait_for
from sqlalchemy import event, text

from storage.catalog import Catalog, Generation, IndexBatch


@pytest.fixture
def catalog(postgres_url: str) -> Iterator[Catalog]:
    with Catalog.open(postgres_url) as opened:
        yield opened


@pytest.fixture
def other(postgres_url: str) -> Iterator[Catalog]:
    """Another process's connections."""
    with Catalog.open(postgres_url) as opened:
        yield opened


def waits_for_a_lock(catalog: Catalog) -> bool:
    asked = text(
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    )
    with catalog._database.read() as connection:
        return bool(connection.scalar(asked))


def between_statements(
    catalog: Catalog, other: Catalog, number: int, work: Callable[[], Any], act: Callable[[], Any]
) -> bool:
    """Do `work`, and `act` just before its statement of that number; whether it has as many.

    The work goes on when the act is done, or has come to where it waits for the work.
    """
    threads: list[threading.Thread] = []
    counted = 0

    def before(*_arguments: Any) -> None:
        nonlocal counted
        counted += 1
        if counted == number + 1:
            thread = threading.Thread(target=act)
            threads.append(thread)
            thread.start()
            wait_for(lambda: not thread.is_alive() or waits_for_a_lock(other), what="the other to end or to wait")

    engine = catalog._database._writers
    event.listen(engine, "before_cursor_execute", before)
    try:
        work()
    finally:
        event.remove(engine, "before_cursor_execute", before)
        for thread in threads:
            thread.join()
    return bool(threads)


def prepared(catalog: Catalog, name: str) -> Generation:
    generation = catalog.generations.ensure_active(catalog.collections.ensure(name).id, MODEL)
    catalog.commit(generation.id, IndexBatch(upserts=[indexed(one, attributes={"by": "job"}) for one in "ab"]))
    return generation


def test_an_image_that_is_deleted_meanwhile_stays_deleted(catalog: Catalog, other: Catalog) -> None:
    for number in range(100):
        generation = prepared(catalog, f"photos-{number}")
        collection = generation.collection_id

        def describe(collection: int = collection) -> None:
            catalog.images.set_attributes(collection, {one: {"by": "user"} for one in "ba"})

        def delete(collection: int = collection) -> None:
            other.images.delete(collection, ["a"])

        happened = between_statements(catalog, other, number, describe, delete)
        if not happened:
            break
        assert set(catalog.images.get_many(collection, "ab")) == {"b"}, f"at statement {number}"
        assert set(state_of_follower(catalog, generation.id)) == {"b"}
    assert number > 1


def test_an_image_whose_content_changes_meanwhile_keeps_its_new_content(catalog: Catalog, other: Catalog) -> None:
    for number in range(100):
        generation = prepared(catalog, f"photos-{number}")
        collection = generation.collection_id

        def describe(collection: int = collection) -> None:
            catalog.images.set_attributes(collection, {one: {"by": "user"} for one in "ba"})

        def change(generation: Generation = generation) -> None:
            other.commit(generation.id, IndexBatch(upserts=[indexed("a", 7, "new content")]))

        happened = between_statements(catalog, other, number, describe, change)
        if not happened:
            break
        assert catalog.images.get(collection, "a").sha256 == sha256("new content"), f"at statement {number}"
        assert catalog.lifecycle.missing_count(generation.id) == 0
    assert number > 1
