"""The files of one snapshot: how vectors and ids are cut into parts, checked, and mapped. Knows no catalog row.

The parts are raw float32 rows, whole rows each, so that a part in a local folder is mapped as it lies: nothing is
read before it is searched, and all processes of a machine share it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import mmap
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from storage.errors import IndexFileError, SnapshotDamaged, StorageError
from storage.id_table import IdTable, pack_ids
from storage.images.backend import StorageBackend
from storage.images.local import LocalStorage
from storage.index_manifest import MANIFEST, FileEntry, Manifest, data_name
from storage.mapped_vectors import LiveVectors, MappedVectors, nothing_to_check
from storage.vector_checks import UNIT_TOLERANCE, Vectors

PART_BYTES = 64 * 1024 * 1024  # of one object: below the stores' cap on one file, and what a kill can leave behind
SHAPE, ROWS, IDS = "shape.json", "rows", "ids"
CHECKED = "checked.json"
_CHECKED_ROWS = 8192  # looked at together: 16 MiB at 512-d
_MOST_DEVIATION = 2 * UNIT_TOLERANCE + UNIT_TOLERANCE**2  # of a squared length, where lengths may be off so far
_ROUNDING = 1e-5  # float32 lengths summed in another order

Marks = dict[str, list[int]]  # by name of file: inode, size, times of modification and change

_log = logging.getLogger(__name__)


class _Shape(BaseModel):
    """How far the squared length of a row may be from 1 at most."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    deviation: float = Field(ge=0, le=_MOST_DEVIATION)


class SnapshotFiles:
    """Writes and opens the files whose keys start with `prefix`.

    A file is hashed whole before it is trusted. For mapped files that is done once on a disk: `checked.json`
    beside them remembers inode, size and times (modification and change) of each; a file of which any of these
    is another is hashed again. So every write since is found out, through whatever program; bits that the disk
    itself loses later are not. What is mapped must not be shortened (the system would end the process): files are
    never written twice here, only removed, and a removed file stays for those who have mapped it.
    """

    def __init__(self, backend: StorageBackend, prefix: str) -> None:
        self.written: Marks = {}  # of the data files written here, as they were before they were read back
        self._backend = backend
        self._prefix = prefix
        self._folder = backend.root if isinstance(backend, LocalStorage) else None

    def write(self, name: str, data: bytes) -> None:
        """Write one file and read it back: a failing disk may take bytes and keep others. Raises IndexFileError."""
        key = self._prefix + name
        self._backend.put(key, data)
        if self._folder is not None and name != MANIFEST:
            self.written[name] = _mark(self._folder / key)
        if self._backend.get(key) != data:
            raise IndexFileError(f"{self._backend.uri(key)} reads back other bytes than were written")

    def write_vectors(self, vectors: LiveVectors, part_bytes: int) -> dict[str, FileEntry]:
        """Write all parts, of so many bytes at most, and return them by logical name."""
        shape = _Shape(deviation=vectors.deviation)
        files = {SHAPE: self._write_data(SHAPE, shape.model_dump_json().encode())}
        count, part_rows = len(vectors.image_ids), max(1, part_bytes // (4 * vectors.dimension))
        for number, start in enumerate(range(0, count, part_rows)):
            rows = vectors.rows(start, min(start + part_rows, count)).astype("<f4", copy=False)
            files[_part(ROWS, number)] = self._write_data(_part(ROWS, number), rows.tobytes())
        table = pack_ids(vectors.image_ids)
        for number, start in enumerate(range(0, len(table), part_bytes)):
            files[_part(IDS, number)] = self._write_data(_part(IDS, number), table[start : start + part_bytes])
        return files

    def open_vectors(self, manifest: Manifest) -> MappedVectors:
        """Map or read everything. Raises IndexFileError: missing, damaged, foreign; StorageError."""
        marks = self.marks(manifest)  # first: what is changed from here on is hashed again the next time
        known = self._is_checked(marks)
        data = {name: self._data(name, entry, known=known) for name, entry in manifest.files.items()}
        if SHAPE not in data or _part(IDS, 0) not in data:
            raise IndexFileError(f"{self._uri('')} has no {SHAPE} or no ids: another program published it")
        table_parts = [data[name] for name in _parts(IDS, manifest)]
        table = table_parts[0] if len(table_parts) == 1 else memoryview(b"".join(table_parts))
        try:
            shape = _Shape.model_validate_json(bytes(data[SHAPE]))
        except ValidationError as error:
            raise IndexFileError(f"{self._uri(SHAPE)} is not usable: {error}") from error
        vectors = MappedVectors(
            dimension=manifest.dimension,
            model=manifest.model,
            deviation=shape.deviation,
            ids=IdTable(table, self._uri("")),
            parts=[self._rows(data[name], manifest.dimension) for name in _parts(ROWS, manifest)],
            check=self._check_of(manifest),
            changed=self._changed_since(marks),
        )
        self._check_counts(vectors, manifest)
        if not known:
            self._check_contents(vectors)
            self.remember_checked(marks)
        return vectors

    def remember_checked(self, marks: Marks) -> None:
        """Note that the files held what the manifest says when they had these marks on this disk."""
        if self._folder is None:
            return
        try:
            self._backend.put(self._prefix + CHECKED, json.dumps(marks).encode())
        except (StorageError, OSError) as error:  # a folder that may only be read: then they are hashed each time
            _log.debug("not remembered that the files of %s are whole: %s", self._uri(""), error)

    def _check_of(self, manifest: Manifest) -> Callable[[], None]:
        """What hashes the mapped files again, also once they are removed: through a mapping that is only read."""
        if self._folder is None:
            return nothing_to_check
        mapped = [(entry, self._mapped(entry, mmap.ACCESS_READ)) for entry in manifest.files.values()]

        def check() -> None:
            for entry, data in mapped:
                if hashlib.sha256(data).hexdigest() != entry.sha256:
                    raise SnapshotDamaged(f"{self._path(entry.name)} was changed after it was loaded")

        return check

    def _changed_since(self, marks: Marks) -> Callable[[], bool]:
        """What compares the marks of the files with these; a file that is removed stays what it is for its mappings."""
        told = False

        def changed() -> bool:
            nonlocal told
            for name, mark in marks.items():
                try:
                    found = _mark(self._path(name))
                except OSError:
                    continue
                if found != mark:
                    if not told:
                        _log.warning("%s was changed while it is in use: its snapshot is loaded anew", self._uri(name))
                    told = True
                    return True
            return False

        return changed

    def _is_checked(self, marks: Marks) -> bool:
        if self._folder is None:
            return False
        try:
            return bool(json.loads(self._backend.get(self._prefix + CHECKED)) == marks)
        except (StorageError, OSError, ValueError, RecursionError):
            return False

    def marks(self, manifest: Manifest) -> Marks:
        """How the data files stand on this disk, those that are there; empty where they are not mapped."""
        if self._folder is None:
            return {}
        paths = {entry.name: self._path(entry.name) for entry in manifest.files.values()}
        return {name: _mark(path) for name, path in paths.items() if path.is_file()}

    def _write_data(self, name: str, data: bytes) -> FileEntry:
        digest = hashlib.sha256(data).hexdigest()
        entry = FileEntry(name=data_name(name, digest), bytes=len(data), sha256=digest)
        self.write(entry.name, data)
        return entry

    def _data(self, name: str, entry: FileEntry, *, known: bool) -> memoryview:
        data = self._mapped(entry) if self._folder is not None else self._read(entry)
        if len(data) != entry.bytes or (not known and hashlib.sha256(data).hexdigest() != entry.sha256):
            raise IndexFileError(f"{self._uri(entry.name)} is damaged: its sha256 or size does not fit ({name})")
        return data

    def _read(self, entry: FileEntry) -> memoryview:
        return memoryview(bytearray(self._backend.get(self._prefix + entry.name)))  # may be written, as a mapped one

    def _mapped(self, entry: FileEntry, access: int = mmap.ACCESS_COPY) -> memoryview:
        """The file; by default copied on write: page by page, for this process alone."""
        path = self._path(entry.name)
        try:
            size = path.stat().st_size if path.is_file() else -1  # opening a fifo would wait for its writer
            if size != entry.bytes:
                raise IndexFileError(f"{path} is missing or damaged: {max(size, 0)} bytes instead of {entry.bytes}")
            with path.open("rb") as file:
                # nothing cannot be mapped
                return memoryview(mmap.mmap(file.fileno(), size, access=access) if size else bytearray())
        except (OSError, ValueError) as error:
            raise IndexFileError(f"cannot map {path}: {error}") from error

    def _rows(self, data: memoryview, dimension: int) -> Vectors:
        if len(data) % (4 * dimension):
            raise IndexFileError(f"a part of {self._uri('')} holds no whole rows of {dimension} numbers")
        return np.frombuffer(data, dtype="<f4").reshape(-1, dimension)

    def _check_counts(self, vectors: MappedVectors, manifest: Manifest) -> None:
        rows = sum(len(part) for part in vectors.parts)
        if not rows == len(vectors.ids) == manifest.count:
            counts = f"{rows} vectors, {len(vectors.ids)} ids"
            raise IndexFileError(f"{self._uri('')} holds {counts}, its manifest says {manifest.count}")

    def _check_contents(self, vectors: MappedVectors) -> None:
        vectors.ids.check()
        for block in _blocks(vectors):
            with np.errstate(all="ignore"):
                worst = np.abs(np.einsum("ij,ij->i", block, block) - 1.0).max()
            if not worst <= vectors.deviation + _ROUNDING:  # NaN neither
                raise IndexFileError(f"{self._uri('')} holds vectors that are not of unit length")

    def _path(self, name: str) -> Path:
        assert self._folder is not None  # noqa: S101 - asked for local folders only
        return self._folder / (self._prefix + name)

    def _uri(self, name: str) -> str:
        return self._backend.uri(self._prefix + name)


def _mark(path: Path) -> list[int]:
    info = path.stat()
    return [info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns]


def _blocks(vectors: MappedVectors) -> Iterator[Vectors]:
    for part in vectors.parts:
        for start in range(0, len(part), _CHECKED_ROWS):
            yield part[start : start + _CHECKED_ROWS]


def _part(name: str, number: int) -> str:
    return f"{name}.{number:06d}"


def _parts(name: str, manifest: Manifest) -> list[str]:
    """The logical names of all parts, in order."""
    return sorted(one for one in manifest.files if one.startswith(f"{name}."))
