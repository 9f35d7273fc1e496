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
from collections.abc import Iterator
from datetime import datetime, timezone

from storage.catalog import Catalog, Generation, PublishedFile, SnapshotRecord
from storage.errors import ImageNotFound, IndexFileError, StorageError
from storage.images.backend import StorageBackend
from storage.images.local import LocalStorage
from storage.images.locate import open_source
from storage.index_files import IndexContents
from storage.index_manifest import MANIFEST, FileEntry, Manifest, data_name, manifest_bytes, parse_manifest
from storage.saved_vectors import SavedVectors, unpack_vectors
from storage.settings import Settings

PART_BYTES = 64 * 1024 * 1024  # of one object: below the stores' cap on one file, and what a kill can leave behind
KEPT_SNAPSHOTS = 2  # the newest, and the one before it should that turn out damaged
_STRAY_SECONDS = 24 * 3600  # older files that no row names were left by a crash; younger ones may be on their way

_log = logging.getLogger(__name__)


class SnapshotStore:
    """Publishes, finds and prunes the snapshots of all generations of one catalog in one storage backend."""

    def __init__(self, catalog: Catalog, backend: StorageBackend, *, part_bytes: int = PART_BYTES) -> None:
        self._catalog = catalog
        self._backend = backend
        self._part_bytes = part_bytes

    def publish(self, generation: Generation, seq: int, contents: IndexContents) -> PublishedFile:
        """Write a snapshot that holds every change up to `seq`, check it, record it, and remove old ones.

        Raises StorageError or IndexFileError when the store refuses it (full, unreachable) or reads back other
        bytes than were written: nothing is recorded then, and the snapshots before it stay.
        """
        prefix = f"{_folder(generation)}/{seq:020d}-{secrets.token_hex(4)}-"
        try:
            manifest = Manifest(
                dimension=contents.dimension,
                count=contents.count,
                model=contents.model,
                files={name: self._write(prefix, name, data) for name, data in contents.files.items()},
                created_at=datetime.now(timezone.utc),
            )
            written = manifest_bytes(manifest)
            self._write_checked(prefix + MANIFEST, written)
        except (StorageError, IndexFileError):
            self._remove(prefix)
            raise
        uri = self._backend.uri(prefix + MANIFEST)
        published = PublishedFile(seq, contents.count, uri, hashlib.sha256(written).hexdigest())
        self._catalog.snapshots.record(generation.id, published)
        self._prune(generation)
        return published

    def valid(self, generation: Generation) -> Iterator[tuple[SnapshotRecord, SavedVectors]]:
        """Load whole snapshots, newest first, one for each step; what is wrong with the others is logged.

        Checked are the sha256 of every byte, model and dimension, and that the snapshot is not ahead of the
        catalog (which may have been restored from an older copy).
        """
        for record in self._catalog.snapshots.list(generation.id):
            try:
                saved = self.load(record, generation)
            except (StorageError, IndexFileError) as error:
                _log.warning("a snapshot of generation %d is passed over: %s", generation.id, error)
            else:
                yield record, saved

    def load(self, record: SnapshotRecord, generation: Generation) -> SavedVectors:
        """Read one snapshot. Raises IndexFileError (damaged, foreign, ahead of the catalog) or StorageError."""
        if record.seq > generation.last_seq:
            raise IndexFileError(f"{record.uri} holds change {record.seq}, the catalog only {generation.last_seq}")
        prefix = self._prefix_of(record)
        data = self._backend.get(prefix + MANIFEST)
        if hashlib.sha256(data).hexdigest() != record.sha256:
            raise IndexFileError(f"{record.uri} is damaged: its sha256 does not fit")
        manifest = parse_manifest(data, record.uri)
        return unpack_vectors(manifest, lambda name: self._read(prefix, manifest, name), generation.model, record.uri)

    def _write(self, prefix: str, name: str, data: bytes | bytearray) -> FileEntry:
        digest = hashlib.sha256(data).hexdigest()
        entry = FileEntry(name=data_name(name, digest), bytes=len(data), sha256=digest)
        view = memoryview(data)
        for key, start in self._parts(prefix, entry):
            self._write_checked(key, bytes(view[start : start + self._part_bytes]))
        return entry

    def _write_checked(self, key: str, data: bytes) -> None:
        """A failing disk may take bytes and keep others; found out now, it costs one try and not a boot."""
        self._backend.put(key, data)
        if self._backend.get(key) != data:
            raise IndexFileError(f"{self._backend.uri(key)} reads back other bytes than were written")

    def _read(self, prefix: str, manifest: Manifest, name: str) -> bytes:
        entry = manifest.files.get(name)
        if entry is None:
            raise IndexFileError(f"{self._backend.uri(prefix + MANIFEST)} has no {name}: another program published it")
        data = b"".join(self._backend.get(key) for key in self._existing_parts(prefix, entry))
        if len(data) != entry.bytes or hashlib.sha256(data).hexdigest() != entry.sha256:
            raise IndexFileError(f"{self._backend.uri(prefix + entry.name)} is damaged: its sha256 does not fit")
        return data

    def _parts(self, prefix: str, entry: FileEntry) -> Iterator[tuple[str, int]]:
        for number, start in enumerate(range(0, max(entry.bytes, 1), self._part_bytes)):
            yield f"{prefix}{entry.name}.{number:04d}", start

    def _existing_parts(self, prefix: str, entry: FileEntry) -> list[str]:
        """As listed, in order: the writer may have cut its parts at another size."""
        return [stored.key for stored in self._backend.list(f"{prefix}{entry.name}.")]

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
        except StorageError as error:
            _log.warning("old snapshots of generation %d cannot be removed yet: %s", generation.id, error)

    def _is_here(self, record: SnapshotRecord) -> bool:
        return record.uri.startswith(self._backend.uri(""))

    def _remove(self, prefix: str) -> None:
        try:
            for stored in list(self._backend.list(prefix)):
                self._delete(stored.key)
        except StorageError as error:
            _log.warning("files of a snapshot that failed cannot be removed yet: %s", error)

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
