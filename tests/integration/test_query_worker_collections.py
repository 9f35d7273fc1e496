"""What a query worker searches when snapshots, rows or the whole catalog are not as they should be."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from query_collections import MODEL, store, vector
from servers import wait_for
from sqlalchemy import delete, event, update

from pipeline.replica import IndexReplica
from query_service import worker
from query_service.answers.asked import Served
from query_service.serving import served as served_module
from query_service.serving.served import ServedCollections
from query_service.serving.taken_requests import RequestQueue
from storage.catalog import Catalog, Generation, tables
from storage.errors import CatalogUnavailable
from storage.images.local import LocalStorage
from storage.settings import Settings
from storage.snapshots import SnapshotStore
from storage.vector_index import VectorIndex

NAMES = [f"{number:02}.jpg" for number in range(10)]


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    with Catalog.open(tmp_path / "catalog.db") as opened:
        yield opened


@pytest.fixture
def snapshots(catalog: Catalog, tmp_path: Path) -> SnapshotStore:
    return SnapshotStore(catalog, LocalStorage(tmp_path / "snapshots"))


@pytest.fixture
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served_module, "_RETRY_SECONDS", 0.2)
    monkeypatch.setattr(served_module, "_SHORT_RETRY_SECONDS", 0.1)


def collection(catalog: Catalog, name: str) -> Generation:
    made = catalog.generations.ensure_active(catalog.collections.ensure(name).id, MODEL)
    store(catalog, made, NAMES)
    return made


@contextmanager
def following(catalog: Catalog, snapshots: SnapshotStore) -> Iterator[ServedCollections]:
    with ServedCollections(catalog, snapshots, lambda _: None) as served:
        assert served.wait_until_loaded(60, threading.Event())
        yield served


def holds(one: Served) -> dict[str, list[float]]:
    ids = one.replica.index.ids()
    return {name: row.tolist() for name, row in zip(ids, one.replica.index.reconstruct_many(ids), strict=True)}


def rewrite(catalog: Catalog, generation: Generation, name: str, row: bytes, seq: int) -> None:
    """Write a row as change `seq`, unchecked, in one step with the generation's number."""
    columns, generations = tables.vectors.c, tables.generations.c
    where = (columns.generation_id == generation.id, columns.image_id == name)
    with catalog._database.write() as connection:
        connection.execute(update(tables.vectors).where(*where).values(vector=row, seq=seq))
        connection.execute(update(tables.generations).where(generations.id == generation.id).values(last_seq=seq))


# -- rows ---------------------------------------------------------------------------------------------------------


def test_a_damaged_row_keeps_no_other_collection_from_being_followed(
    catalog: Catalog, snapshots: SnapshotStore, caplog: pytest.LogCaptureFixture
) -> None:
    hurt, fine = collection(catalog, "a-hurt"), collection(catalog, "fine")
    with following(catalog, snapshots) as served, caplog.at_level(logging.WARNING):
        rewrite(catalog, hurt, NAMES[0], b"short", 11)
        store(catalog, fine, ["new.jpg"])
        wait_for(lambda: "new.jpg" in served.current()["fine"].replica.index)
        assert served.current()["a-hurt"].replica.seq == 10, "searched on as it was"
    assert "the catalog is damaged" in caplog.text


@pytest.mark.usefixtures("quick_retries")
def test_changes_that_cannot_be_applied_cost_only_their_collection_and_only_until_they_can(
    catalog: Catalog, snapshots: SnapshotStore
) -> None:
    """Half a change may be in the index then: it is not searched any more, and loaded anew."""
    hurt = collection(catalog, "hurt")
    collection(catalog, "fine")
    with following(catalog, snapshots) as served:
        rewrite(catalog, hurt, NAMES[0], np.full(8, np.nan, dtype="<f4").tobytes(), 11)
        wait_for(lambda: "hurt" not in served.current())
        assert served.is_loading("hurt")
        assert not served.is_loading("fine")
        assert "fine" in served.current()
        rewrite(catalog, hurt, NAMES[0], vector("mended").astype("<f4").tobytes(), 12)
        wait_for(lambda: "hurt" in served.current())
        assert holds(served.current()["hurt"])[NAMES[0]] == vector("mended").tolist()
        assert served.current()["hurt"].replica.seq == 12


def test_a_collection_that_is_deleted_is_searched_no_more(catalog: Catalog, snapshots: SnapshotStore) -> None:
    gone, _ = collection(catalog, "gone"), collection(catalog, "stays")
    with following(catalog, snapshots) as served:
        assert set(served.current()) == {"gone", "stays"}
        with catalog._database.write() as connection:
            where = tables.collections.c.id == gone.collection_id
            connection.execute(update(tables.collections).where(where).values(active_generation_id=None))
            for table in (tables.vectors, tables.images, tables.generations):
                column = table.c.generation_id if table is tables.vectors else table.c.collection_id
                owner = gone.id if table is tables.vectors else gone.collection_id
                connection.execute(delete(table).where(column == owner))
            connection.execute(delete(tables.collections).where(where))
        wait_for(lambda: set(served.current()) == {"stays"})
        assert not served.is_loading("gone")
        assert set(served._followed) == {served.current()["stays"].generation.id}, "its index is not kept"


def test_an_index_that_was_loaded_for_nothing_is_not_kept(catalog: Catalog, snapshots: SnapshotStore) -> None:
    """A switch back while the successor is being loaded."""
    first = collection(catalog, "default")
    second = catalog.lifecycle.begin(first.collection_id, MODEL, rebuild=True)
    store(catalog, second, NAMES)
    loading, go_on = threading.Event(), threading.Event()

    def prepare(generation: Generation) -> None:
        if generation.id == second.id:
            loading.set()
            assert go_on.wait(60)

    with ServedCollections(catalog, snapshots, prepare) as served:
        assert served.wait_until_loaded(60, threading.Event())
        catalog.lifecycle.activate(second.id)
        assert loading.wait(60)
        catalog.lifecycle.activate(first.id)
        go_on.set()
        wait_for(lambda: not served._loads)
        assert set(served._followed) == {first.id}
        assert served.current()["default"].generation.id == first.id


def test_a_switch_in_the_middle_of_a_look_loses_no_collection(postgres_url: str) -> None:
    """On PostgreSQL each statement sees its own moment: such a collection was unknown for one look."""
    with Catalog.open(postgres_url) as catalog, Catalog.open(postgres_url) as other:
        first = collection(catalog, "default")
        second = catalog.lifecycle.begin(first.collection_id, MODEL, rebuild=True)
        store(catalog, second, NAMES)
        switched: list[int] = []

        def switch(*arguments: Any) -> None:
            if "FROM collections" in arguments[2] and not switched:
                switched.append(second.id)
                other.lifecycle.activate(second.id)

        event.listen(catalog._database._readers, "after_cursor_execute", switch)
        seen = [generation.id for _, generation in catalog.generations.all_active()]
        assert switched
        assert seen in ([first.id], [second.id])


def test_an_index_that_is_loaded_anew_is_not_shown_before_it_stands_as_late_as_the_one_before(
    catalog: Catalog, snapshots: SnapshotStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQL goes away just when it was loaded: what is removed since must not come back."""
    generation = collection(catalog, "default")
    booted, go_on = threading.Event(), threading.Event()

    def prepare(_: Generation) -> None:
        booted.set()
        assert go_on.wait(60)

    served = ServedCollections(catalog, snapshots, prepare)  # its steps are made by hand
    go_on.set()
    served._look()
    wait_for(served._loads[generation.id].done)
    served._look()
    booted.clear()
    go_on.clear()
    monkeypatch.setattr(served.current()["default"].replica, "is_of_changed_files", lambda: True)
    served._look()  # loads it anew, as it stands now
    assert booted.wait(60)
    catalog.images.delete(generation.collection_id, [NAMES[0]])
    served._look()
    assert NAMES[0] not in served.current()["default"].replica.index
    go_on.set()
    wait_for(served._loads[generation.id].done)
    changes = IndexReplica.changes

    def away(*_: Any) -> Any:
        raise CatalogUnavailable("away")

    monkeypatch.setattr(IndexReplica, "changes", away)
    served._look()
    assert NAMES[0] not in served.current()["default"].replica.index
    monkeypatch.setattr(IndexReplica, "changes", changes)
    served._not_before.clear()
    served._look()
    assert not served._loads, "the new one is shown"
    assert NAMES[0] not in served.current()["default"].replica.index
    served._pool.shutdown()


# -- snapshots ----------------------------------------------------------------------------------------------------


def test_a_broken_snapshot_is_passed_over_for_an_older_one_and_that_for_the_rows_in_sql(
    catalog: Catalog, snapshots: SnapshotStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    generation = collection(catalog, "default")
    replica = IndexReplica(catalog, generation)
    files: list[set[Path]] = [set()]
    for name in ("one.jpg", "two.jpg"):
        replica.catch_up()
        replica.publish(snapshots)
        files.append({path for path in (tmp_path / "snapshots").rglob("*") if path.is_file()})
        store(catalog, generation, [name])
        catalog.images.delete(generation.collection_id, [NAMES[0]])
    expected = {name: vector(name).tolist() for name in [*NAMES[1:], "one.jpg", "two.jpg"]}
    for broken in range(3):  # none, the newest, both
        with caplog.at_level(logging.WARNING), following(catalog, snapshots) as served:
            assert holds(served.current()["default"]) == expected
        assert ("is passed over" in caplog.text) == (broken > 0)
        for path in files[2 - broken] - files[1 - broken] if broken < 2 else ():
            path.write_bytes(path.read_bytes()[:-1] + b"?")


def test_a_snapshot_of_another_dimension_is_passed_over(
    catalog: Catalog, snapshots: SnapshotStore, caplog: pytest.LogCaptureFixture
) -> None:
    generation = collection(catalog, "default")
    foreign = IndexReplica(catalog, generation)
    foreign.index = VectorIndex(16, model=MODEL.model_copy(update={"dimension": 16}))
    foreign.index.add_many(["x.jpg"], np.eye(16, dtype=np.float32)[:1])
    foreign.seq = 5
    foreign.publish(snapshots)
    with caplog.at_level(logging.WARNING), following(catalog, snapshots) as served:
        assert set(holds(served.current()["default"])) == set(NAMES)
    assert "is passed over" in caplog.text


# -- the catalog away, and ends -----------------------------------------------------------------------------------


def test_before_the_first_look_every_collection_counts_as_loading(
    catalog: Catalog, snapshots: SnapshotStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a search would be told that its collection does not exist, when only the catalog was away."""
    collection(catalog, "default")
    look = catalog.generations.all_active
    away = threading.Event()
    away.set()

    def all_active() -> Any:
        if away.is_set():
            raise CatalogUnavailable("away")
        return look()

    monkeypatch.setattr(catalog.generations, "all_active", all_active)
    with ServedCollections(catalog, snapshots, lambda _: None) as served:
        assert not served.wait_until_loaded(0.5, threading.Event())
        assert served.is_loading("default")
        away.clear()
        wait_for(lambda: "default" in served.current())
        assert not served.is_loading("nothing")
        away.set()
        assert len(served.current()["default"].replica.index) == 10, "searches go on from memory"


def test_sql_that_is_silent_does_not_keep_a_worker_from_ending(
    catalog: Catalog, snapshots: SnapshotStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(served_module, "_LAST_SECONDS", 0.1)
    asked, answers = threading.Event(), threading.Event()

    def all_active() -> Any:
        asked.set()
        answers.wait()
        raise CatalogUnavailable("away")

    monkeypatch.setattr(catalog.generations, "all_active", all_active)
    with ServedCollections(catalog, snapshots, lambda _: None) as served:
        assert asked.wait(60)
    assert served._thread.is_alive(), "it still waits for SQL, and nobody for it"
    assert served._thread.daemon
    answers.set()
    served._thread.join()


def test_a_collection_that_appears_just_while_another_one_is_found_broken_is_not_unknown(
    catalog: Catalog, snapshots: SnapshotStore
) -> None:
    """The follower names it while the searching thread looks: what one of both says must not undo the other's word."""
    collection(catalog, "hurt")

    class FollowerSteps(frozenset[str]):
        def __or__(self, others: Any) -> frozenset[str]:
            served._loading = frozenset({"new"})
            return frozenset.__or__(self, others)

    with following(catalog, snapshots) as served:
        pass  # nothing follows any more: now it is this test that does
    served._table["hurt"][1].broken = True
    served._loading = FollowerSteps()
    assert served.current() == {}
    assert served.loading() is not None
    assert served.is_loading("new")
    assert served.is_loading("hurt")


def test_a_worker_that_fails_in_a_way_nobody_expected_ends(
    tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It must not hang, neither working nor gone: whoever started it can start it anew."""

    def broken(*_: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr(RequestQueue, "read", broken)
    ended: list[BaseException] = []

    def run() -> None:
        try:
            worker.run_worker(Settings(data_dir=tmp_path / "data", redis_url=redis_url), threading.Event())
        except ZeroDivisionError as error:
            ended.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(60)
    assert ended
