"""Snapshots: index files in a storage backend, and the row that points at them. Knows no FAISS and no model.

A snapshot saves start-up time and nothing else: every one of them may be lost or damaged without harm. Its
files are written first, under names of their own, read back and compared, and only then recorded; a row never
points at files that were not complete when it was written.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
import time
from collections.abc import Iterable, Iterator
from datetime import datetime, timezone

from storage.catalog import Catalog, Generation, PublishedFile, SnapshotRecord
from storage.errors import GenerationClosed, ImageNotFound, IndexFileError, SnapshotDamaged, StorageError
from storage.images.backend import StorageBackend
from storage.images.local import LocalStorage
from storage.images.locate import open_source
from storage.index_manifest import MANIFEST, Manifest, manifest_bytes, parse_manifest
from storage.mapped_vectors import LiveVectors, MappedVectors
from storage.settings import Settings
from storage.snapshot_files import PART_BYTES, SnapshotFiles

KEPT_SNAPSHOTS = 2  # the newest, and the one before it should that turn out damaged
_STRAY_SECONDS = 24 * 3600  # older files that no row names were left by a crash; younger ones may be on their way

_log = logging.getLogger(__name__)


class SnapshotStore:
    """Publishes, finds and prunes the snapshots of all generations of one catalog in one storage backend."""

    def __init__(self, catalog: Catalog, backend: StorageBackend, *, part_bytes: int = PART_BYTES) -> None:
        self._catalog = catalog
        self._backend = backend
        self._part_bytes = part_bytes

    @property
    def maps_files(self) -> bool:
        """Whether what is loaded is mapped from a folder, and so costs no memory."""
        return isinstance(self._backend, LocalStorage)

    def publish(self, generation: Generation, seq: int, vectors: LiveVectors) -> PublishedFile:
        """Write a snapshot that holds every change up to `seq`, check it, record it, and remove old ones.

        Raises StorageError or IndexFileError when the store refuses it (full, unreachable) or reads back other
        bytes than were written, SnapshotDamaged when the index rests on files that changed since it was loaded,
        GenerationClosed when the generation was pruned: nothing is recorded then, and the snapshots before it stay.
        """
        prefix = f"{_folder(generation)}/{seq:020d}-{secrets.token_hex(4)}-"
        count, files = len(vectors.image_ids), self._files(prefix)
        try:
            manifest = Manifest(
                dimension=vectors.dimension,
                count=count,
                model=vectors.model,
                files=files.write_vectors(vectors, self._part_bytes),
                created_at=datetime.now(timezone.utc),
            )
            written = manifest_bytes(manifest)
            files.write(MANIFEST, written)
            vectors.check()  # last: whatever was read of the files before stood in them so
        except (StorageError, IndexFileError, SnapshotDamaged):
            self._remove(prefix)
            raise
        files.remember_checked(files.written)
        published = PublishedFile(seq, count, self._backend.uri(prefix + MANIFEST), hashlib.sha256(written).hexdigest())
        try:
            self._catalog.snapshots.record(generation.id, published)
        except GenerationClosed:  # pruned while its snapshot was written
            self._remove(prefix)
            raise
        self._prune(generation)
        return published

    def remove_retired(self, generations: Iterable[Generation]) -> None:
        """Remove the files of those that are retired, whose rows are gone; what cannot be removed goes the next time.

        Who has mapped one of them keeps what is mapped.
        """
        for generation in generations:
            if generation.state == "retired":
                self._remove(_folder(generation) + "/", unfinished_of=generation)

    def valid(self, generation: Generation) -> Iterator[tuple[SnapshotRecord, MappedVectors]]:
        """Open whole snapshots, newest first, one for each step; what is wrong with the others is logged.

        Checked are every file as `load` says, model and dimension, and that the snapshot is not ahead of the
        catalog (which may have been restored from an older copy).
        """
        for record in self._catalog.snapshots.list(generation.id):
            try:
                vectors = self.load(record, generation)
            except (StorageError, IndexFileError) as error:
                _log.warning("a snapshot of generation %d is passed over: %s", generation.id, error)
            else:
                yield record, vectors

    def load(self, record: SnapshotRecord, generation: Generation) -> MappedVectors:
        """Open one snapshot: in a folder its files are mapped, from elsewhere they are read into memory.

        The manifest's sha256 is compared with the catalog's, and each file's with the manifest's: at each load
        of what is read, and once for a mapped file as it stands on this disk (by inode, size and times; see
        `SnapshotFiles`). Raises IndexFileError (damaged, foreign, ahead of the catalog) or StorageError.
        """
        if record.seq > generation.last_seq:
            raise IndexFileError(f"{record.uri} holds change {record.seq}, the catalog only {generation.last_seq}")
        prefix = self._prefix_of(record)
        data = self._backend.get(prefix + MANIFEST)
        if hashlib.sha256(data).hexdigest() != record.sha256:
            raise IndexFileError(f"{record.uri} is damaged: its sha256 does not fit")
        manifest = parse_manifest(data, record.uri)
        if manifest.model != generation.model:
            model = manifest.model or "no known model"
            raise IndexFileError(f"the snapshot {record.uri} is of {model}, not of {generation.model}")
        return self._files(prefix).open_vectors(manifest)

    def _files(self, prefix: str) -> SnapshotFiles:
        return SnapshotFiles(self._backend, prefix)

    def _prefix_of(self, record: SnapshotRecord) -> str:
        store = self._backend.uri("")
        if not record.uri.startswith(store) or not record.uri.endswith(MANIFEST):
            raise IndexFileError(f"{record.uri} stands in another store than {store}")
        return record.uri[len(store) : -len(MANIFEST)]

    def _prune(self, generation: Generation) -> None:
        """The row goes first: what is still found is still there. What cannot be removed goes the next time."""
        records = self._catalog.snapshots.list(generation.id)
        for record in records[KEPT_SNAPSHOTS:]:
            self._catalog.snapshots.forget(record.id)
        kept = tuple(self._prefix_of(one) for one in records[:KEPT_SNAPSHOTS] if self._is_here(one))
        dropped = tuple(self._prefix_of(one) for one in records[KEPT_SNAPSHOTS:] if self._is_here(one))
        young = time.time() - _STRAY_SECONDS
        try:
            for stored in list(self._backend.list(_folder(generation) + "/")):
                stray = stored.modified_at < young and not stored.key.startswith(kept)
                if stray or stored.key.startswith(dropped):
                    self._delete(stored.key)
            self._remove_unfinished(generation, young)
        except StorageError as error:
            _log.warning("old snapshots of generation %d cannot be removed yet: %s", generation.id, error)

    def _remove_unfinished(self, generation: Generation, before: float) -> None:
        if isinstance(self._backend, LocalStorage):
            self._backend.remove_unfinished(_folder(generation), before)

    def _is_here(self, record: SnapshotRecord) -> bool:
        return record.uri.startswith(self._backend.uri(""))

    def _remove(self, prefix: str, *, unfinished_of: Generation | None = None) -> None:
        try:
            for stored in list(self._backend.list(prefix)):
                self._delete(stored.key)
            if unfinished_of is not None:
                self._remove_unfinished(unfinished_of, time.time())
        except StorageError as error:
            _log.warning("files of a snapshot that is not used cannot be removed yet: %s", error)

    def _delete(self, key: str) -> None:
        try:
            self._backend.delete(key)
        except ImageNotFound:
            _log.debug("%s was removed by another process", key)


def _folder(generation: Generation) -> str:
    """A name that no other catalog gives, should two of them share one store."""
    made = f"{generation.created_at:%Y%m%dt%H%M%S%f}"
    return f"generation-{generation.id}-{made}-{generation.model.fingerprint[:12]}"


def snapshots_of(settings: Settings, catalog: Catalog) -> SnapshotStore:
    """Open the store that the settings name, a folder in `data_dir` by default. Raises StorageError."""
    address = settings.snapshot_address
    if address is not None and "://" in address:
        return SnapshotStore(catalog, open_source(address))
    return SnapshotStore(catalog, LocalStorage(address or settings.data_dir / "snapshots"))


def prune_generations(
    catalog: Catalog, snapshots: SnapshotStore, collection_id: int, *, building: bool = False, keep: int = 0
) -> list[Generation]:
    """Prune as `Lifecycle.prune` does, and remove the snapshots of all that were ever pruned; return the former."""
    pruned = catalog.lifecycle.prune(collection_id, building=building, keep=keep)
    snapshots.remove_retired(catalog.generations.list(collection_id))
    return pruned
