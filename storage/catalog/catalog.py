"""The catalog as one object: opens the database, brings its schema up to date, and holds its parts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from storage.catalog.attribute_values import AttributeValues
from storage.catalog.collections import Collections
from storage.catalog.commit import commit_batch
from storage.catalog.database.engine import Database, shown_address
from storage.catalog.failures import Failures
from storage.catalog.generations import Generations
from storage.catalog.images import Images
from storage.catalog.lifecycle import Lifecycle
from storage.catalog.queued.batch_results import commit_results
from storage.catalog.queued.batches import Batches
from storage.catalog.queued.job_records import BatchResult, Lease
from storage.catalog.queued.jobs import Jobs
from storage.catalog.queued.leases import Leases
from storage.catalog.records import IndexBatch
from storage.catalog.schema import ensure_schema, stored_revision
from storage.catalog.vectors.feed import Feed
from storage.catalog.vectors.snapshots import Snapshots
from storage.errors import CatalogError
from storage.settings import Settings


class Catalog:
    """The one truth: collections, images, vectors, failures, jobs. Threads and processes may share it.

    Any method raises CatalogUnavailable when the database does not answer, is locked for 30 s, or is full.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self.collections = Collections(database)
        self.generations = Generations(database)
        self.lifecycle = Lifecycle(database)
        self.images = Images(database)
        self.attribute_values = AttributeValues(database)
        self.feed = Feed(database)
        self.failures = Failures(database)
        self.jobs = Jobs(database)
        self.batches = Batches(database)
        self.leases = Leases(database)
        self.snapshots = Snapshots(database)

    @classmethod
    def open(cls, url: str | Path, *, create: bool = True) -> Catalog:
        """Open a SQLite file (path or sqlite:///path), made if missing, or a postgresql:// database; migrate it.

        Processes that do so at once wait for each other. Raises CatalogUnavailable (cannot be opened or reached,
        missing while `create` is false), CatalogError (PostgreSQL refuses user, database or permission) and
        SchemaMismatch (written by a newer version, or another program's).
        """
        database = Database.open(url, create=create)
        try:
            ensure_schema(database, create=create)
        except CatalogError:
            database.close()
            raise
        return cls(database)

    def commit(self, generation_id: int, batch: IndexBatch) -> int:
        """Write the batch in one transaction, all or nothing; return the generation's newest sequence number.

        Removals come first, then upserts and refreshes, which clear their images' failures, then failures.
        An upsert brings a deleted image back; a refresh of one that is not live is skipped. Raises
        GenerationClosed, DuplicateImageId (an id twice), InvalidVector, InvalidAttribute.
        """
        return commit_batch(self._database, generation_id, batch)

    def commit_results(self, lease: Lease | None, results: Sequence[BatchResult]) -> list[bool]:
        """Write what workers made of batches in one transaction; return for each result whether it was written.

        A batch is written once: it is skipped when it is done or cancelled already. So are images that were
        deleted after the job began, and all of a batch whose generation is retired. Raises LeaseLost when the
        lease is another's by now (None: no lease is checked), and what `commit` raises; then nothing is written.
        """
        return commit_results(self._database, lease, results)

    @property
    def name(self) -> str:
        """Where it is, for people: the file, or the database and its host; never a password."""
        return self._database.name

    def size_bytes(self) -> int:
        """What it takes on the disk; on PostgreSQL the whole database, whoever else uses it."""
        return self._database.size_bytes()

    def close(self) -> None:
        """Close all connections."""
        self._database.close()

    def __enter__(self) -> Catalog:  # noqa: PYI034 - typing.Self needs Python 3.11
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def catalog_of(settings: Settings, *, create: bool = True) -> Catalog:
    """Open the catalog that the settings name: `database_url`, else the SQLite file in `data_dir`.

    Raises what `Catalog.open` does.
    """
    return Catalog.open(_address(settings), create=create)


def catalog_exists(settings: Settings) -> bool:
    """Whether anything was ever stored there; makes nothing. Raises CatalogError when the server does not answer."""
    if settings.database_url is None:
        return settings.catalog_path.exists()
    database = Database.open(_address(settings), create=False)
    try:
        with database.read() as connection:
            return stored_revision(connection) is not None
    finally:
        database.close()


def catalog_place(settings: Settings) -> str:
    """Where that catalog is or would be, for people: the data folder, or the database and its host."""
    return str(settings.data_dir) if settings.database_url is None else shown_address(_address(settings))


def _address(settings: Settings) -> str | Path:
    url = settings.database_url
    return settings.catalog_path if url is None else url.get_secret_value()
