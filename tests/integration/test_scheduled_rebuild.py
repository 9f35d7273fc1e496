"""Two real beats and one long rebuild: it is made by one of them, and by the other once the first is killed."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from pydantic import SecretStr
from servers import ROOT, environment_of, wait_for
from sqlalchemy import update

from storage.catalog import Catalog, catalog_of, tables
from storage.settings import Schedule, Settings
from visual_search.collection import ImageCollection

pytestmark = pytest.mark.slow  # real processes that wait for each other: `make test-slow`

LEASE_SECONDS = 25.0  # instead of two minutes, and renewed all the time: a machine may stand still for so long

# The beat itself. Only times are shorter, and its rebuild says that it begins and waits until it may go on.
BEAT = f"""
import os, sys, time
from pathlib import Path
from storage.catalog.lifecycle import Lifecycle
from workers import beat, lease_keeper, schedules

begun, go_on = map(Path, sys.argv[1:])
copy_vectors = Lifecycle.copy_vectors
def slowly(*arguments, **named):
    with begun.open("a") as file:
        file.write(f"{{os.getpid()}}\\n")
    while not go_on.exists():
        time.sleep(0.05)
    return copy_vectors(*arguments, **named)
Lifecycle.copy_vectors = slowly
schedules.RUN_SECONDS = {LEASE_SECONDS}
lease_keeper.RENEWALS_PER_LEASE = 100
beat._TICK_SECONDS = 0.2
sys.exit(beat.main())
"""


@dataclass
class Beats:
    """Beats of one installation, and the files by which their rebuilds speak with the test."""

    settings: Settings
    folder: Path
    running: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self) -> None:
        command = [sys.executable, "-c", BEAT, str(self.folder / "begun"), str(self.folder / "go-on")]
        with (self.folder / f"beat-{len(self.running)}.log").open("wb") as log:
            process = subprocess.Popen(command, cwd=ROOT, env=environment_of(self.settings), stdout=log, stderr=log)
        self.running.append(process)

    def begun(self) -> list[int]:
        """Which processes began a rebuild, in order."""
        path = self.folder / "begun"
        return [int(line) for line in path.read_text().splitlines()] if path.exists() else []

    def end(self, pid: int, how: signal.Signals) -> int:
        process = next(one for one in self.running if one.pid == pid)
        process.send_signal(how)
        return process.wait(180)

    def text(self) -> str:
        return "".join(log.read_text() for log in sorted(self.folder.glob("beat-*.log")))


@pytest.fixture(params=["sqlite", "postgresql"])
def beats(request: pytest.FixtureRequest, tmp_path: Path, make_jpeg: Callable[..., bytes]) -> Iterator[Beats]:
    """None is started yet; four images are indexed. The slot is two minutes ago: a beat makes up for that."""
    minute = (datetime.now(timezone.utc) - timedelta(minutes=2)).minute
    rebuild = Schedule(cron=f"{minute} * * * *", action="rebuild")
    settings = Settings(
        data_dir=tmp_path / "data", model="baseline", schedules=[rebuild], redis_url="redis://127.0.0.1:1"
    )
    if request.param == "postgresql":
        settings = Settings(
            **settings.model_dump(exclude_unset=True, exclude={"schedules"}),
            schedules=[rebuild],
            database_url=SecretStr(request.getfixturevalue("postgres_url")),
        )
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(4):
        (photos / f"{number}.jpg").write_bytes(make_jpeg(number))
    with ImageCollection(settings=settings) as collection:
        collection.index(photos)
    beats = Beats(settings, tmp_path)
    yield beats
    for process in beats.running:
        process.kill()
        process.wait()
    print(beats.text())


def lease_of(catalog: Catalog) -> tuple[str, datetime]:
    with catalog._database.read() as connection:
        row = connection.execute(tables.leases.select().where(tables.leases.c.name.like("schedule:%"))).one()
    return row.holder, row.expires_at


def let_the_lease_run_out(catalog: Catalog) -> None:
    """As if all of its time had passed by now."""
    over = datetime.now(timezone.utc) - timedelta(seconds=1)
    with catalog._database.write() as connection:
        held = tables.leases.c.name.like("schedule:%")
        assert connection.execute(update(tables.leases).where(held).values(expires_at=over)).rowcount == 1


def test_a_rebuild_longer_than_its_lease_is_made_once_and_taken_over_when_its_beat_is_killed(beats: Beats) -> None:
    """Its lease is renewed while it lasts, and not any more by one that is dead."""
    for _ in range(2):
        beats.start()
    with catalog_of(beats.settings) as catalog:
        wait_for(beats.begun, what="a rebuild to begin")
        _, first = lease_of(catalog)
        wait_for(
            lambda: lease_of(catalog)[1] > first + timedelta(seconds=LEASE_SECONDS), what="the end of the first lease"
        )
        [killed] = beats.begun()
        beats.end(killed, signal.SIGKILL)
        let_the_lease_run_out(catalog)
        wait_for(lambda: len(beats.begun()) == 2, what="the other one to take over")
        (beats.folder / "go-on").touch()
        wait_for(lambda: lease_of(catalog)[0].startswith("run: "), what="the slot to be noted as run")
        jobs = [(job.kind, job.state, dict(job.counts)) for job in catalog.jobs.list()]
        states = [one.state for one in catalog.generations.list(catalog.collections.get("default").id)]
    taken_over = beats.begun()[1]
    assert taken_over != killed
    assert set(beats.begun()[1:]) == {taken_over}
    assert jobs[:2] == [("rebuild", "finished", {"copied": 4}), ("rebuild", "interrupted", {})]
    assert states == ["standby", "active"]
    assert beats.end(taken_over, signal.SIGTERM) == 0
