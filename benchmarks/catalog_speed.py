"""Vectors a second into the catalog and out of it, on SQLite and PostgreSQL, beside the bare drivers.

Each figure is taken on a database of its own; ours and the bare driver take turns, again and again. Vectors have
512 dimensions and are the same in every run. PostgreSQL runs without fsync, as in the tests: its figures are the
work, not the disk. Usage: python benchmarks/catalog_speed.py [--quick] [--vectors N] [--standing N] [--repeats N]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter

from catalog_ways import DIMENSION, Timed, Work, make_work, ways
from measuring import keep, show, spread
from systems import new_postgres_databases

NewDatabase = Callable[[], str]


def measure(new_database: NewDatabase, work: Work, repeats: int) -> dict[str, list[Timed]]:
    """Every way in turn, so many times."""
    measured: dict[str, list[Timed]] = {name: [] for name in ways(work)}
    for _ in range(repeats):
        for name, (way, _) in ways(work).items():
            measured[name].append(way(new_database()))
    return measured


def report(database: str, work: Work, measured: dict[str, list[Timed]]) -> None:
    """Print the table: the ratio is of medians, to the limit of the same run."""
    median = {name: statistics.median(rate for rate, _ in times) for name, times in measured.items()}
    rows = [
        [
            name,
            spread([rate for rate, _ in measured[name]]),
            spread([cpu for _, cpu in measured[name]], 1),
            f"{median[name] / median[limit]:.2f}",
        ]
        for name, (_, limit) in ways(work).items()
    ]
    title = f"{database}: {len(work.images):,} vectors of {DIMENSION}-d"
    show(title, ["way", "vectors/s: median (min-max)", "µs of CPU here for each", "of the limit"], rows)


def main() -> None:
    """Measure, print the tables, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few vectors, for finding what is slow")
    parser.add_argument("--vectors", type=int, default=49_152)
    parser.add_argument("--standing", type=int, default=0, help="vectors that are there before, in ways of their own")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--database", choices=["sqlite", "postgresql"], action="append")
    arguments = parser.parse_args()
    vectors, repeats = (8_192, 2) if arguments.quick else (arguments.vectors, arguments.repeats)
    work = make_work(vectors, arguments.standing)
    figures = {}
    for database in arguments.database or ["sqlite", "postgresql"]:
        with sqlite_files() if database == "sqlite" else new_postgres_databases() as new_database:
            measured = measure(new_database, work, repeats)
        report(database, work, measured)
        figures[database] = {
            name: {"vectors_per_second": [rate for rate, _ in times], "cpu_microseconds": [cpu for _, cpu in times]}
            for name, times in measured.items()
        }
    keep("catalog_speed", {"vectors": vectors, "standing": arguments.standing, "repeats": repeats, **figures})


@contextmanager
def sqlite_files() -> Iterator[NewDatabase]:
    """Makes new SQLite files; each one before is removed, so that the disk does not fill."""
    with tempfile.TemporaryDirectory() as folder:

        def new_file() -> str:
            for old in Path(folder).iterdir():
                old.unlink()
            return str(Path(folder) / f"{perf_counter()}.sqlite")

        yield new_file


if __name__ == "__main__":
    main()
