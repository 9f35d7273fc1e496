"""Scheduled rebuilds and prunes of a collection: what they switch, what they keep, what the job list says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from storage.catalog import JobRecord
from storage.errors import UnknownCollection
from storage.settings import Schedule, Settings
from visual_search.collection import ImageCollection
from workers.beat import run_schedule

REBUILD = Schedule(cron="0 4 * * 0", action="rebuild")
PRUNE = Schedule(cron="0 5 * * 0", action="prune")


@pytest.fixture
def indexed(settings: Settings, tmp_path: Path, make_jpeg: Callable[..., bytes]) -> Settings:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(4):
        (folder / f"{number}.jpg").write_bytes(make_jpeg(number))
    with ImageCollection(settings=settings) as collection:
        collection.index(folder)
        collection.delete_images(["3.jpg"])
    return settings


def states(settings: Settings) -> list[str]:
    with ImageCollection(settings=settings) as collection:
        return [one.state for one in collection.catalog.generations.list(collection.record.id)]


def newest_job(settings: Settings) -> JobRecord:
    with ImageCollection(settings=settings) as collection:
        return collection.catalog.jobs.list()[0]


def test_a_scheduled_rebuild_switches_to_the_same_vectors_anew(indexed: Settings) -> None:
    with ImageCollection(settings=indexed) as collection:
        before = {name: collection.search_service.index.reconstruct(name) for name in ("0.jpg", "1.jpg", "2.jpg")}
    run_schedule(indexed, REBUILD)
    assert states(indexed) == ["standby", "active"]
    with ImageCollection(settings=indexed) as collection:
        index = collection.search_service.index
        assert set(index.ids()) == set(before)
        for name, vector in before.items():
            np.testing.assert_array_equal(index.reconstruct(name), vector)
    job = newest_job(indexed)
    assert (job.kind, job.state, job.counts) == ("rebuild", "finished", {"copied": 3})


def test_an_image_that_lacks_its_vector_does_not_hold_a_rebuild_up(indexed: Settings) -> None:
    with ImageCollection(settings=indexed) as collection:
        other = collection.generation.model.model_copy(update={"name": "other"})
        target = collection.catalog.lifecycle.begin(collection.record.id, other)
        collection.catalog.lifecycle.activate(target.id, missing_allowed=3)  # as with --allow-missing
    run_schedule(indexed, REBUILD)
    assert states(indexed) == ["standby", "standby", "active"]


def test_a_scheduled_prune_keeps_the_way_back(indexed: Settings) -> None:
    run_schedule(indexed, PRUNE)
    assert states(indexed) == ["active"]
    for _ in range(2):
        run_schedule(indexed, REBUILD)
    run_schedule(indexed, PRUNE)
    assert states(indexed) == ["retired", "standby", "active"]
    assert newest_job(indexed).counts == {"pruned": 1}


@pytest.mark.parametrize("schedule", [REBUILD, PRUNE])
def test_a_collection_that_is_not_there_is_told(settings: Settings, schedule: Schedule) -> None:
    with pytest.raises(UnknownCollection):
        run_schedule(settings, schedule)


def test_an_empty_collection_has_nothing_to_rebuild_and_the_job_says_so(settings: Settings) -> None:
    with ImageCollection(settings=settings):
        pass
    with pytest.raises(UnknownCollection, match="nothing to rebuild"):
        run_schedule(settings, REBUILD)
    assert newest_job(settings).state == "failed"
