"""A scheduled audit compares a source with the catalog and leaves its result in the job list."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from storage.catalog import Catalog
from storage.errors import StorageError, UnknownCollection
from storage.settings import Schedule, Settings
from visual_search.collection import ImageCollection
from workers.beat import audit
from workers.machine.run_owners import this_process


@pytest.fixture
def folder(tmp_path: Path, make_jpeg: Callable[..., bytes]) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.jpg").write_bytes(make_jpeg(number))
    return folder


def newest_job(settings: Settings) -> tuple[str, str, dict[str, int]]:
    with ImageCollection(settings=settings) as collection:
        catalog: Catalog = collection.catalog
        job = catalog.jobs.list()[0]
    return job.kind, job.state, dict(job.counts)


def test_a_clean_audit_is_a_finished_job(settings: Settings, folder: Path) -> None:
    with ImageCollection(settings=settings) as collection:
        collection.index(folder)
    schedule = Schedule(cron="0 3 * * *", action="audit", source=str(folder))
    assert audit(settings, schedule).clean
    assert newest_job(settings) == ("audit", "finished", {"listed": 3, "indexed": 3})


def test_an_audit_that_finds_something_is_a_failed_job_and_says_what(
    settings: Settings, folder: Path, make_jpeg: Callable[..., bytes], caplog: pytest.LogCaptureFixture
) -> None:
    with ImageCollection(settings=settings) as collection:
        collection.index(folder)
    (folder / "new.jpg").write_bytes(make_jpeg(9))
    (folder / "skipped.jpg").write_bytes(make_jpeg(10))
    schedule = Schedule(cron="0 3 * * *", action="audit", source=str(folder), exclude=("skipped*",))
    with caplog.at_level(logging.ERROR):
        assert not audit(settings, schedule).clean
    assert "not_indexed: new.jpg" in caplog.text
    assert newest_job(settings) == ("audit", "failed", {"listed": 4, "indexed": 3, "not_indexed": 1})


def test_an_audit_that_cannot_be_made_is_a_failed_job(settings: Settings, folder: Path) -> None:
    with ImageCollection(settings=settings):
        pass
    schedule = Schedule(cron="0 3 * * *", action="audit", source=str(folder))
    with pytest.raises(UnknownCollection, match="nothing is indexed"):
        audit(settings, schedule)
    with ImageCollection(settings=settings) as collection:
        collection.index(folder)
    with pytest.raises(StorageError):
        audit(settings, schedule.model_copy(update={"source": str(folder / "gone")}))
    assert newest_job(settings) == ("audit", "failed", {})


def test_an_audit_whose_process_was_killed_does_not_stay_running(
    settings: Settings, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ImageCollection(settings=settings) as collection:
        collection.index(folder)
    schedule = Schedule(cron="0 3 * * *", action="audit", source=str(folder))
    with monkeypatch.context() as killed:
        killed.setattr("storage.catalog.queued.jobs.Jobs.finish", lambda *_: None)  # so it leaves the row
        killed.setattr("workers.beat.this_process", lambda: f"{this_process()}0")  # a process that is no more
        killed.setattr("workers.beat.audit_source", lambda *_: sys.exit("killed"))
        with pytest.raises(SystemExit):
            audit(settings, schedule)
    assert newest_job(settings)[:2] == ("audit", "running")
    assert audit(settings, schedule).clean
    with ImageCollection(settings=settings) as collection:
        assert [job.state for job in collection.catalog.jobs.list(limit=2)] == ["finished", "interrupted"]
