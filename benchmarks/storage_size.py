"""What an image costs on disk and in memory: the catalog in SQLite and PostgreSQL, a snapshot, a backup, an index.

Fills a new catalog of each kind with seeded 512-d vectors, each an image with an address of some thirty characters
and two attributes, and looks at files and processes: nothing here is a time, so other work on the machine does no harm.
Memory is what a fresh process holds more of, alone, once it has the index (Linux).
Usage: python benchmarks/storage_size.py [--vectors N]
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import psycopg
from measuring import in_fresh_process, keep, show
from replica_start import boot
from searched_system import DIMENSION, fill, unit_vectors
from systems import System, running

from pipeline.replica import IndexReplica
from storage.backup import make_backup
from storage.catalog import catalog_of
from storage.snapshots import snapshots_of

_MIB = 1024 * 1024
_VECTOR_BYTES = 4 * DIMENSION


def bytes_of(folder: Path) -> int:
    """All files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def postgresql_bytes(system: System) -> int:
    """What the server says the database takes, indexes and TOAST tables included."""
    assert system.settings.database_url is not None  # noqa: S101 - it was asked for
    with psycopg.connect(system.settings.database_url.get_secret_value()) as connection:
        row = connection.execute("SELECT pg_database_size(current_database())").fetchone()
    assert row is not None  # noqa: S101 - one row, always
    return int(row[0])


def measure_postgresql(count: int) -> Iterator[tuple[str, float]]:
    """Bytes of the database per image, less those of the empty one."""
    with running("postgresql") as system:
        with catalog_of(system.settings):
            empty = postgresql_bytes(system)
        with catalog_of(system.settings) as catalog:
            fill(catalog, "photos", unit_vectors(count))
        yield "catalog, PostgreSQL, on disk", (postgresql_bytes(system) - empty) / count


def measure_sqlite(count: int) -> Iterator[tuple[str, float]]:
    """Bytes per image of the closed catalog's file, of a snapshot, of a backup, and of memory."""
    with running() as system:
        data = system.settings.data_dir
        with catalog_of(system.settings) as catalog:
            generation = fill(catalog, "photos", unit_vectors(count))
        yield "catalog, SQLite, on disk", system.settings.catalog_path.stat().st_size / count
        with catalog_of(system.settings) as catalog:
            store = snapshots_of(system.settings, catalog)
            IndexReplica.boot(catalog, generation, store).publish(store)
        yield "snapshot, on disk", bytes_of(data / "snapshots") / count
        make_backup(system.settings, system.folder / "backup")
        yield "backup, on disk", bytes_of(system.folder / "backup") / count
        for way, snapshots in (("from SQL", system.folder / "none"), ("from a snapshot", data / "snapshots")):
            figures = in_fresh_process(boot, system.settings, str(snapshots))
            yield f"index in memory, {way}: of the process alone", figures["added_private_mib"] * _MIB / count


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vectors", type=int, default=100_000)
    count = parser.parse_args().vectors
    figures = dict([*measure_sqlite(count), *measure_postgresql(count)])
    rows = [(what, f"{each:,.0f}", f"{1024**3 / each:,.0f}") for what, each in figures.items() if each > 1]
    show(
        f"{count:,} images of {DIMENSION} dimensions ({_VECTOR_BYTES:,} bytes a vector)",
        ("what", "bytes an image", "images a GiB"),
        rows,
    )
    keep("storage_size", {"vectors": count, "bytes_an_image": figures})


if __name__ == "__main__":
    main()
