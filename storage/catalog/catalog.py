"""The catalog as one object: opens the database, brings its schema up to date, and holds its parts."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

from storage.catalog.collections import Collections
from storage.catalog.commit import commit_batch
from storage.catalog.engine import Database
from storage.catalog.failures import Failures
from storage.catalog.feed import Feed
from storage.catalog.generations import Generations
from storage.catalog.images import Images
from storage.catalog.jobs import Jobs
from storage.catalog.records import IndexBatch
from storage.catalog.schema import ensure_schema
from storage.catalog.snapshots import Snapshots
from storage.errors import CatalogError


class Catalog:
    """The one truth: collections, images, vectors, failures, jobs. Threads and processes may share it.

    Any method raises CatalogUnavailable when the database does not answer, is locked for 30 s, or is full.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self.collections = Collections(database)
        self.generations = Generations(database)
        self.images = Images(database)
        self.feed = Feed(database)
        self.failures = Failures(database)
        self.jobs = Jobs(database)
        self.snapshots = Snapshots(database)

    @classmethod
    def open(cls, url: str | Path, *, create: bool = True) -> Catalog:
        """Open a SQLite file (path or sqlite:///path), make it if missing, migrate it forward.

        Raises CatalogUnavailable (cannot be opened, no database, missing while `create` is false) and
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

    def close(self) -> None:
        """Close all connections."""
        self._database.close()

    def __enter__(self) -> Catalog:  # noqa: PYI034 - typing.Self needs Python 3.11
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
