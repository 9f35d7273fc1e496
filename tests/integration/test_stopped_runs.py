"""A run of `visual-search index` that is ended or killed does not stand in the job list as running for ever."""

import os
import signal
import subprocess

import pytest
from pictures import write_photos
from servers import ROOT, RoleProcess, environment_of, wait_for
from slow_reading import SLOWLY

from storage.catalog import Catalog
from storage.settings import Settings
from visual_search import ImageCollection
from workers.machine.run_owners import PROCESS, end_dead_runs, this_process


@pytest.fixture
def settings(tmp_path):
    return Settings(data_dir=tmp_path / "home", model="baseline", fetch_threads=1, commit_images=10)


def _jobs(settings):
    with Catalog.open(settings.catalog_path) as catalog:
        return catalog.jobs.list()


@pytest.fixture
def under_way(settings, tmp_path):
    """A run of `index` that has begun, and that a slow disk keeps at work for long enough."""
    write_photos(tmp_path / "photos", 300)
    log = tmp_path / "index.log"
    command = [*SLOWLY, "index", str(tmp_path / "photos")]
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=ROOT, env=environment_of(settings), stdout=output, stderr=output)
    run = RoleProcess(process, log)
    wait_for(lambda: settings.catalog_path.exists() and _jobs(settings), what="the run to begin")
    yield run
    run.stop(signal.SIGKILL)


def test_sigterm_ends_a_run_as_ctrl_c_does(under_way, settings):
    assert under_way.stop(signal.SIGTERM) == 130
    assert [job.state for job in _jobs(settings)] == ["interrupted"]
    assert "the same command carries on" in under_way.text()


def test_a_killed_run_is_told_by_the_next_one(under_way, settings, tmp_path):
    under_way.stop(signal.SIGKILL)
    assert [job.state for job in _jobs(settings)] == ["running"]
    with ImageCollection(settings=settings) as images:
        report = images.index(tmp_path / "photos")
    assert report.failed == 0
    assert [job.state for job in _jobs(settings)] == ["finished", "interrupted"]


@pytest.mark.parametrize(
    ("process", "state"),
    [
        (this_process(), "running"),
        (f"{this_process()}1", "interrupted"),  # its process id is another process's by now
        (f"elsewhere:{os.getpid()}:1", "running"),  # of another machine nothing is known
        ("", "running"),
    ],
    ids=["this process", "its id is another's by now", "another machine", "unknown"],
)
def test_only_runs_that_are_known_to_be_dead_are_ended(tmp_path, process, state):
    with Catalog.open(tmp_path / "catalog.sqlite") as catalog:
        collection = catalog.collections.ensure("default")
        catalog.jobs.start(collection.id, "index", "file:///photos/", {PROCESS: process})
        assert end_dead_runs(catalog, collection.id) == (state == "interrupted")
        assert [job.state for job in catalog.jobs.list()] == [state]
