"""The crash loop: seeded runs of a real system to which things happen, each checked image by image.

Usage: make crash ARGS="--seed 7 --runs 12". A run that fails keeps its folder and tells seed, run and ends of the logs.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from crash.crash_system import POISON, CrashSystem, crash_settings, new_valkey, seeded, wait_a_moment
from crash.faults import (
    AGGREGATOR_FAILPOINTS,
    COSTS_ATTEMPTS,
    FAULTS,
    SUBMIT_FAILPOINTS,
    WORKER_FAILPOINTS,
    NotPossible,
    Scene,
    give_back_disk,
    restart_database,
    small_disk,
)
from crash.totals import SEEN, Totals
from crash.verify import Expected, Verdict, gather, judge
from databases import PostgresServer, _binaries, running_server
from pictures import jpeg
from servers import ROOT, environment_of

from pipeline.audit import audit_source
from pipeline.embedding_service import EmbeddingService
from pipeline.indexing.selection import SourceSelection, source_at
from pipeline.replica import IndexReplica
from storage.catalog import catalog_of
from storage.errors import VisualSearchError
from storage.settings import Settings
from storage.snapshots import snapshots_of
from workers.job_client import JobClient

_FINISH_SECONDS = 240
_START_SECONDS = 20
_WHILE_WORKING = 0.75  # of the runs
_RUNNER = Path(__file__).with_name("role_with_failpoint.py")


def make_photos(folder: Path, chance: random.Random, *, poison: bool) -> Expected:
    """Seeded pictures: good ones, equal ones, broken ones and perhaps one that kills."""
    service = EmbeddingService("baseline")
    good, bad = {}, {}
    first = chance.randrange(10**6)
    for number in range(chance.randint(120, 200)):
        key = f"{number % 7}/{number:04}.jpg"
        path = folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        if number % 41 == 7:
            path.write_bytes(jpeg(first + number)[:400])
            bad[key] = "corrupt"
            continue
        path.write_bytes(jpeg(first + (number if number % 10 else 0)))
        good[key] = service.embed_image(path)
    if poison:
        (folder / "poison.jpg").write_bytes(jpeg(first - 1) + POISON.encode())
        bad["poison.jpg"] = "worker_crashed"
    return Expected(good, bad)


def run_once(seed: int, number: int, folder: Path, postgres: PostgresServer | None, totals: Totals) -> Verdict:
    """One run: make, submit, disturb, wait, judge."""
    chance = seeded(seed, number)
    poison = chance.random() < 0.25
    expected = make_photos(folder / "photos", chance, poison=poison)
    with ExitStack() as parts:
        disk = small_disk(folder / "disk")
        parts.callback(give_back_disk, disk)
        valkey = new_valkey(folder)
        parts.callback(valkey.kill)
        url = postgres.url(postgres.make_database()) if postgres else None
        settings = crash_settings(folder, valkey, url, max_attempts=2 if poison else 12)
        catalog = parts.enter_context(catalog_of(settings))
        system = CrashSystem(folder, settings, valkey, postgres)
        parts.callback(system.stop)
        scene = Scene(system, catalog, chance, disk)
        try:
            system.start_all(_failpoints(chance, workers=not poison))
            job_id = submit(settings, folder / "photos", chance, totals)
            disturb(scene, job_id, totals, poison=poison)
            wait_until_over(scene, job_id)
            expected = replace(expected, deleted=frozenset(scene.deleted))
            verdict = judge_run(scene, expected, job_id, folder / "photos", totals)
        except Exception as error:
            print(system.tails())
            raise SystemExit(f"seed {seed}, run {number} in {folder}: {error!r}") from error
        if not verdict.clean:
            print(system.tails())
        totals.deaths += system.deaths
        totals.deleted += len(scene.deleted)
        totals.seen.update(system.seen(SEEN))
        if system.fired.exists():
            totals.faults.update(system.fired.read_text().splitlines())
    return verdict


def _failpoints(chance: random.Random, *, workers: bool) -> dict[str, list[str]]:
    """One or two roles that are to die at a named place."""
    chosen = {"aggregator": chance.choice(AGGREGATOR_FAILPOINTS)}
    if workers:
        chosen[chance.choice(["worker-1", "worker-2"])] = chance.choice(WORKER_FAILPOINTS)
    return {
        name: ["--at", place, "--when", when, "--nth", str(chance.randint(1, 3))]
        for name, (place, when) in chosen.items()
    }


def submit(settings: Settings, photos: Path, chance: random.Random, totals: Totals) -> int:
    """Submit; in half of the runs by a process that dies while it lists, and then once more."""
    if chance.random() < 0.5:
        place, when = chance.choice(SUBMIT_FAILPOINTS)
        command = [sys.executable, str(_RUNNER), "visual_search.__main__", "--at", place, "--when", when, "--nth"]
        command += [str(chance.randint(1, 4)), "submit", str(photos)]
        environment = {**environment_of(settings), "PYTHONPATH": str(ROOT)}
        ended = subprocess.run(command, env=environment, capture_output=True, check=False, timeout=120)
        if ended.returncode == -9:
            totals.faults[f"failpoint: {when} {place.split(':')[1]}"] += 1
            totals.deaths += 1
    with JobClient(settings) as client:
        return client.submit(photos).job.id


def disturb(scene: Scene, job_id: int, totals: Totals, *, poison: bool) -> None:
    """A handful of faults while the job runs, seconds apart, two at once now and then.

    In most runs they wait until something is committed, else they hit roles that still start.
    """
    if scene.random.random() < _WHILE_WORKING:
        _wait_until_working(scene, job_id)
    without = COSTS_ATTEMPTS if poison else set()
    if scene.system.postgres is None:
        without = without | {restart_database}
    possible = [fault for fault in FAULTS if fault not in without]
    for fault in scene.random.sample(possible, k=scene.random.randint(4, 7)):
        try:
            fault(scene)
            totals.faults[fault.__name__] += 1
        except NotPossible:
            totals.skipped[fault.__name__] += 1
        wait_a_moment(scene.random.choice([0.0, 0.3, 0.8, 1.5]))
    totals.hit_a_running_job += not _is_over(scene, job_id)


def _wait_until_working(scene: Scene, job_id: int) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and scene.catalog.jobs.get(job_id).done == 0:
        wait_a_moment(0.05)


def wait_until_over(scene: Scene, job_id: int) -> None:
    """The system has to end the job by itself."""
    deadline = time.monotonic() + _FINISH_SECONDS
    while not _is_over(scene, job_id):
        if time.monotonic() > deadline:
            raise TimeoutError(f"job {job_id} is not over after {_FINISH_SECONDS} s: {scene.catalog.jobs.get(job_id)}")
        wait_a_moment(0.2)


def _is_over(scene: Scene, job_id: int) -> bool:
    try:
        return scene.catalog.jobs.get(job_id).is_over
    except VisualSearchError as error:
        if not error.retryable:
            raise
        return False


def judge_run(scene: Scene, expected: Expected, job_id: int, photos: Path, totals: Totals) -> Verdict:
    """Everything is looked at after the job, with the system still running."""
    settings, catalog = scene.system.settings, scene.catalog
    snapshots = snapshots_of(settings, catalog)
    state = gather(catalog, snapshots, settings.collection, job_id)
    verdict = judge(expected, state)
    problems = list(verdict.problems)
    generation = catalog.generations.active(catalog.collections.get(settings.collection).id)
    assert generation is not None
    replica = IndexReplica.boot(catalog, generation, snapshots)

    def caught_up() -> object:
        replica.catch_up()
        return replica.index

    source = source_at(photos, SourceSelection(), settings.max_image_bytes)
    report = audit_source(catalog, generation, source, caught_up)  # type: ignore[arg-type]
    if not report.clean:
        problems.append(f"the audit is not clean: {report.by_problem()}")
    with JobClient(settings) as client:
        again = client.submit(photos)
    if again.pending > len(expected.failures):  # what failed may be tried again, nothing else
        problems.append(f"a second submit of the same photos makes work: {again}")
    totals.submitted += len(expected.vectors) + len(expected.failures)
    totals.indexed += len(state.live)
    totals.failed.update(state.failures.values())
    totals.lost += len(verdict.lost)
    totals.doubled += len(verdict.doubled)
    totals.problems += len(problems)
    return Verdict(verdict.lost, verdict.doubled, problems)


@contextmanager
def _kept_when_it_fails() -> Iterator[Path]:
    folder = tempfile.TemporaryDirectory(prefix="visual-search-crash-", ignore_cleanup_errors=True)
    try:
        yield Path(folder.name)
    except BaseException:
        folder._finalizer.detach()  # type: ignore[attr-defined]
        raise
    folder.cleanup()


def main() -> int:
    """Run, print what happened, and fail unless nothing was lost, doubled or different."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--runs", type=int, default=8)
    parser.add_argument("--only", type=int, help="this run of the seed alone")
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}, {arguments.runs} runs", flush=True)
    totals, started, runs = Totals(), time.monotonic(), 0
    for number in range(arguments.runs) if arguments.only is None else [arguments.only]:
        began = time.monotonic()
        with _kept_when_it_fails() as folder, ExitStack() as parts:
            postgres = parts.enter_context(running_server(_binaries())) if number % 2 else None
            verdict = run_once(arguments.seed, number, folder, postgres, totals)
            if not verdict.clean:
                print(f"FAILED: lost {verdict.lost}\ndoubled {verdict.doubled}\nproblems {verdict.problems}")
                raise SystemExit(f"seed {arguments.seed}, run {number}; everything is kept in {folder}")
        runs += 1
        database = "PostgreSQL" if number % 2 else "SQLite"
        print(f"run {number} ({database}): clean after {time.monotonic() - began:.0f} s", flush=True)
    print(totals.told(runs, time.monotonic() - started))
    return 0


if __name__ == "__main__":
    sys.exit(main())
