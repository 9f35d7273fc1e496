"""Crash runs of searches: workers die, freeze and come back under load while the collection and its model change.

Usage: PYTHONPATH=.:tests python -m crash.searches --seed 7 --runs 4. Every search has to be answered, every answer
is compared with brute force over what the catalog held, and nothing may be left in Redis. The folders are kept.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from crash.crash_system import new_valkey
from crash.search_history import SearchHistory, problems
from crash.search_system import FAILPOINTS, Asker, Workers, Writer
from databases import PostgresServer, _binaries, running_server
from servers import wait_for

from query_service.client import SearchClient
from query_service.transport.request_queue import CANCELLED, DEAD_LETTERS, STREAMS
from storage.catalog import catalog_of
from storage.errors import VisualSearchError
from storage.settings import Settings

NAMES = ("worker-1", "worker-2")
_ASKERS = 6
_START_SECONDS = 240.0  # of a machine that is busy with other tests
_REPLY_SECONDS = 12.0  # after which a reply that nobody fetched is gone
_LEAST_WORKERS = 4  # that answered: two at the start, and those that came for the killed ones
_LEAST_GENERATIONS = 2  # before and after the switch
_LEAST_ANSWERS = 250


@dataclass
class Report:
    """What happened in a run. `problems` empty: all is well."""

    answers: int = 0
    batches: int = 0
    deaths: int = 0
    commits: int = 0
    generations: int = 0
    taken_over_after: float = 0.0  # seconds: the longest wait for an answer
    faults: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)


def run_once(seed: int, number: int, folder: Path, postgres: PostgresServer | None, faults: int = 7) -> Report:
    """One run: two workers, a writer, clients; things happen; then everything is judged."""
    chance, history, report = random.Random(f"{seed}/{number}"), SearchHistory(), Report()
    with ExitStack() as parts:
        valkey = new_valkey(folder)
        parts.callback(valkey.kill)
        database = {"database_url": postgres.url(postgres.make_database())} if postgres else {}
        settings = Settings(data_dir=folder / "data", redis_url=valkey.url, search_batch=16, **database)
        catalog = parts.enter_context(catalog_of(settings))
        writer = Writer(catalog, history, random.Random(chance.random()))
        workers = Workers(folder, settings)
        parts.callback(workers.stop)
        for name in NAMES:
            workers.start(name)
        wait_for(lambda: workers.ready() == len(NAMES), seconds=_START_SECONDS, what="the workers to be ready")
        workers.watch()
        askers = [Asker(valkey.url, random.Random(chance.random())) for _ in range(_ASKERS)]
        writer.start()
        for asker in askers:
            asker.start()
        wait_for(lambda: len(_seen(askers)[0]) == len(NAMES), seconds=_START_SECONDS, what="answers of both workers")
        _disturb(workers, writer, chance, report, faults)
        wait_for(lambda: _show_enough(askers), seconds=_START_SECONDS, what="answers of new workers and the new model")
        for asker in askers:
            asker.stop()
        newest = writer.stop()
        _judge(askers, history, report)
        with SearchClient(settings) as client:
            _check_freshness(client, (newest.id, newest.last_seq), report)
        report.faults.update(workers.fired.read_text().splitlines() if workers.fired.exists() else ())
        report.deaths, report.commits = workers.deaths, writer.commits
        ends = workers.stop()
        # the signal itself: it had only just been started; SIGKILL: a failpoint was reached at last; None: it hung
        if set(ends) - {0, -signal.SIGTERM, -signal.SIGKILL}:
            report.problems.append(f"the workers ended with {ends} when they were told to stop")
        with valkey.client() as redis:
            report.problems += _left_in_redis(redis)
    return report


def _disturb(workers: Workers, writer: Writer, chance: random.Random, report: Report, faults: int) -> None:
    """A new model is prepared early and switched to in the middle of it all."""
    names = ["kill", "kill_both", "freeze", *(chance.choice(["kill", "freeze", "die"]) for _ in range(faults - 3))]
    chance.shuffle(names)
    switch = chance.randrange(1, len(names))
    for place, name in enumerate(names):
        if place == switch - 1:
            writer.begin_reindex()
        if place == switch:
            writer.switch()
            report.faults["switch"] += 1
        _FAULTS[name](workers, chance)
        report.faults[name] += 1
        time.sleep(chance.uniform(0.5, 2.5))
    some_new = len(NAMES) + 2
    wait_for(lambda: workers.ready() >= some_new, seconds=_START_SECONDS, what="workers that came for killed ones")
    time.sleep(2.0)


def _seen(askers: list[Asker]) -> tuple[set[str], set[int]]:
    """The workers and the generations that answers came from so far."""
    told = [answer.provenance for asker in askers for _, answer in list(asker.answers)]
    return {one.worker for one in told}, {one.generation_id for one in told}


def _show_enough(askers: list[Asker]) -> bool:
    """Whether the run may end: a machine that stood still meanwhile has fewer answers than one that did not."""
    workers, generations = _seen(askers)
    enough = len(workers) >= _LEAST_WORKERS and len(generations) >= _LEAST_GENERATIONS
    return enough and sum(len(asker.answers) for asker in askers) >= _LEAST_ANSWERS


def _kill(workers: Workers, chance: random.Random) -> None:
    workers.signal(chance.choice(NAMES), signal.SIGKILL)


def _kill_both(workers: Workers, _: random.Random) -> None:
    for name in NAMES:
        workers.signal(name, signal.SIGKILL)


def _freeze(workers: Workers, chance: random.Random) -> None:
    """Past the time after which the other one takes over; then it wakes with searches in hand that are not its own."""
    name = chance.choice(NAMES)
    workers.signal(name, signal.SIGSTOP)
    time.sleep(chance.uniform(2.5, 4.0))
    workers.signal(name, signal.SIGCONT)


def _die(workers: Workers, chance: random.Random) -> None:
    """Another worker comes, and dies at a named place; whoever takes its place lives."""
    place, when = chance.choice(FAILPOINTS)
    nth = str(chance.randint(1, 20))
    failpoint = ["--at", place, "--when", when, "--nth", nth, "--fired", str(workers.fired)]
    workers.start(f"worker-{len(workers.running) + 1}", failpoint)


_FAULTS: dict[str, Callable[[Workers, random.Random], None]] = {
    "kill": _kill,
    "kill_both": _kill_both,
    "freeze": _freeze,
    "die": _die,
}


def _judge(askers: list[Asker], history: SearchHistory, report: Report) -> None:
    """Every search has an answer, and every answer is exact."""
    workers, generations = _seen(askers)
    for asker in askers:
        if asker.thread is not None and asker.thread.is_alive():
            report.problems.append("a client hangs")
        report.problems += [f"LOST: {error.reason}: {error}" for _, error in asker.errors]
        for asked, answer in asker.answers:
            wrong = problems(asked, answer, history)
            if wrong:
                report.problems.append(f"WRONG: {asked.request} -> {answer.provenance}: {wrong}")
            report.taken_over_after = max(report.taken_over_after, answer.provenance.stage_seconds["queued"])
        report.answers += len(asker.answers)
    report.generations = len(generations)
    if len(generations) < _LEAST_GENERATIONS:
        report.problems.append(f"the run shows nothing: all answers are of generation {generations}")
    if len(workers) < _LEAST_WORKERS:
        report.problems.append(f"the run shows nothing: only {len(workers)} workers answered")


def _check_freshness(client: SearchClient, newest: tuple[int, int], report: Report) -> None:
    """Once nobody writes, everybody soon answers from the last change."""
    end, seen = time.monotonic() + 60, set()
    while time.monotonic() < end:
        try:
            told = client.search(vector=[1.0] + [0.0] * 31, timeout=60).provenance
        except VisualSearchError as error:
            report.problems.append(f"LOST in peace: {error.reason}: {error}")
            return
        if (told.generation_id, told.seq) == newest:
            return
        seen.add((told.generation_id, told.seq))
        time.sleep(0.1)
    report.problems.append(f"never searched up to {newest}, but {seen}")


def _left_in_redis(redis: Any) -> list[str]:
    """Nothing is pending or waits, and what nobody fetched is soon gone."""
    found = []
    for stream in STREAMS.values():
        if redis.xlen(stream):
            found.append(f"{redis.xlen(stream)} searches are left in {stream}")
        if redis.xpending(stream, "query")["pending"]:
            found.append(f"searches are pending in {stream}")
    if redis.exists(DEAD_LETTERS):
        found.append(f"dead letters: {redis.xrange(DEAD_LETTERS)}")
    end, known = time.monotonic() + _REPLY_SECONDS, {name.encode() for name in STREAMS.values()}
    while (keys := _unknown(redis, known)) and time.monotonic() < end:
        time.sleep(0.2)
    return [*found, f"left in Redis: {keys}"] if keys else found


def _unknown(redis: Any, known: set[bytes]) -> list[bytes]:
    signs = b"vs:heartbeat:"  # of killed workers, for ten minutes
    return [key for key in redis.keys("*") if key not in known and not key.startswith(signs) and key != CANCELLED]


def main() -> int:
    """Run, print what happened, and fail unless every search was answered exactly."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--runs", type=int, default=4)
    parser.add_argument("--only", type=int, help="this run of the seed alone")
    parser.add_argument("--faults", type=int, default=12)
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}, {arguments.runs} runs", flush=True)
    for number in range(arguments.runs) if arguments.only is None else [arguments.only]:
        began, folder = time.monotonic(), Path(tempfile.mkdtemp(prefix="visual-search-crash-searches-"))
        with ExitStack() as parts:
            postgres = parts.enter_context(running_server(_binaries())) if number % 2 else None
            report = run_once(arguments.seed, number, folder, postgres, arguments.faults)
        print(f"run {number} ({'PostgreSQL' if number % 2 else 'SQLite'}): {told(report)}", flush=True)
        print(f"  after {time.monotonic() - began:.0f} s", flush=True)
        if report.problems:
            print("\n".join(report.problems[:20]))
            raise SystemExit(f"seed {arguments.seed}, run {number}; logs are kept in {folder}")
    return 0


def told(report: Report) -> str:
    """One line of numbers."""
    lost = sum(one.startswith("LOST") for one in report.problems)
    wrong = sum(one.startswith("WRONG") for one in report.problems)
    others = len(report.problems) - lost - wrong
    return (
        f"{report.answers} answers of {report.generations} generations while {report.commits} commits were made and "
        f"{report.deaths} workers died; lost {lost}, wrong {wrong}, other problems {others}; "
        f"longest wait {report.taken_over_after:.1f} s; {dict(sorted(report.faults.items()))}"
    )


if __name__ == "__main__":
    sys.exit(main())
