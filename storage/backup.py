"""Backups of a data folder: the SQLite catalog and what was uploaded into it, with a manifest that is written last.

Uploads that `uploads_address` puts elsewhere are not copied: a bucket has versions and copies of its own. Everything
else (indexes, snapshots, the queue) can be made again. PostgreSQL has tools of its own for its database.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from storage.catalog.database.engine import Database
from storage.catalog.database.sqlite_copy import check_copy, copy_catalog
from storage.catalog.moved_sources import move_sources
from storage.errors import BackupError
from storage.images.file_uri import file_uri
from storage.settings import Settings

UPLOADS = "uploads"  # below the data folder: the only pictures that we keep and nobody else has
_CATALOG = "catalog.sqlite"
_MANIFEST = "manifest.json"
_PIECE_BYTES = 1 << 20

OnFile = Callable[[str], None]  # called with each file's name once it is done


class BackedUpFile(BaseModel):
    """One file, its name below the backup."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    bytes: int
    sha256: str


class Backup(BaseModel):
    """The manifest. A folder without one is no backup: what wrote it did not get to its end."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    made_at: datetime
    uploads_uri: str  # where the uploads lay: restored elsewhere, their addresses change
    files: tuple[BackedUpFile, ...]

    @property
    def bytes(self) -> int:
        """The size of all files."""
        return sum(file.bytes for file in self.files)


def make_backup(settings: Settings, folder: Path, on_file: OnFile = lambda _: None) -> Backup:
    """Back up into a new or empty folder, while workers may go on. Raises BackupError, CatalogUnavailable.

    Uploads are copied after the catalog, so that it names none that is missing.
    """
    _require_sqlite(settings)
    if not settings.catalog_path.is_file():
        raise BackupError(f"there is no catalog at {settings.catalog_path}: nothing to back up")
    _require_empty(folder)
    with _file_errors(folder):
        copy_catalog(settings.catalog_path, folder / _CATALOG)
        _sync(folder / _CATALOG)
        files = [_described(folder, _CATALOG)]
        on_file(_CATALOG)
        for name in _uploads(settings.data_dir):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(settings.data_dir / name, folder / name)  # with its time: the etag is made of it
            _sync(folder / name)
            files.append(_described(folder, name))
            on_file(name)
        backup = Backup(
            made_at=datetime.now(timezone.utc), uploads_uri=_uploads_uri(settings.data_dir), files=tuple(files)
        )
        _write_durably(folder / _MANIFEST, backup.model_dump_json(indent=1).encode())
    return backup


def check_backup(folder: Path, on_file: OnFile = lambda _: None) -> Backup:
    """Read all of it. Raises BackupError when something is missing or changed."""
    backup = _manifest(folder)
    with _file_errors(folder):
        for file in backup.files:
            if _described(folder, file.name) != file:
                raise BackupError(f"{folder / file.name} is not what was backed up")
            on_file(file.name)
    check_copy(folder / _CATALOG)
    return backup


def restore_backup(folder: Path, settings: Settings, on_file: OnFile = lambda _: None) -> Backup:
    """Check the backup, then put it into a data folder that has no catalog yet; the catalog comes last.

    Raises BackupError; broken off, it leaves no catalog and can be done again.
    """
    _require_sqlite(settings)
    backup = check_backup(folder)
    target = settings.catalog_path
    if target.exists():
        raise BackupError(f"{target} is there already: move it away first, nothing is overwritten")
    with _file_errors(settings.data_dir):
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        for file in backup.files[1:]:
            (settings.data_dir / file.name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(folder / file.name, settings.data_dir / file.name)
            on_file(file.name)
        part = target.with_name(f"{target.name}.restoring")
        part.unlink(missing_ok=True)
        shutil.copyfile(folder / _CATALOG, part)
        _move_uploads(part, backup.uploads_uri, _uploads_uri(settings.data_dir))
        _sync(part)
        os.replace(part, target)  # noqa: PTH105 - named with fsync, in the order that matters
        _sync(settings.data_dir)
        on_file(_CATALOG)
    return backup


def _move_uploads(catalog: Path, before: str, after: str) -> None:
    if before == after:
        return
    database = Database.open(catalog, create=False)
    try:
        move_sources(database, before, after)
    finally:
        database.close()
    for beside in ("-wal", "-shm"):  # closed by the last connection, so empty; they bear the old name
        catalog.with_name(catalog.name + beside).unlink(missing_ok=True)


def _require_sqlite(settings: Settings) -> None:
    if settings.database_url is not None:
        raise BackupError(
            "the catalog is in PostgreSQL: use `pg_dump --format=custom` and `pg_restore`, and copy "
            f"{settings.data_dir / UPLOADS} (see docs/operations.md)"
        )


def _require_empty(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BackupError(f"{folder} is there and not empty: a backup goes into a new folder")
    with _file_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)


def _manifest(folder: Path) -> Backup:
    try:
        backup = Backup.model_validate_json((folder / _MANIFEST).read_bytes())
    except FileNotFoundError as error:
        raise BackupError(f"{folder} holds no finished backup: there is no {_MANIFEST}") from error
    except (OSError, ValidationError) as error:
        raise BackupError(f"{folder / _MANIFEST} cannot be read: {error}") from error
    names = [file.name for file in backup.files]
    inside = all(Path(name).parts[:1] == (UPLOADS,) and ".." not in Path(name).parts for name in names[1:])
    if names[:1] != [_CATALOG] or not inside:
        raise BackupError(f"{folder / _MANIFEST} names files that no backup of ours has")
    return backup


def _uploads(data_dir: Path) -> Iterator[str]:
    root = data_dir / UPLOADS
    for path in sorted(root.rglob("*")) if root.is_dir() else []:
        if path.is_file() and not path.is_symlink():
            yield path.relative_to(data_dir).as_posix()


def _uploads_uri(data_dir: Path) -> str:
    return file_uri(data_dir.resolve() / UPLOADS).removesuffix("/") + "/"


def _described(folder: Path, name: str) -> BackedUpFile:
    digest, size = hashlib.sha256(), 0
    with (folder / name).open("rb") as file:
        while piece := file.read(_PIECE_BYTES):
            digest.update(piece)
            size += len(piece)
    return BackedUpFile(name=name, bytes=size, sha256=digest.hexdigest())


def _write_durably(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    _sync(path)
    _sync(path.parent)


def _sync(path: Path) -> None:
    """Have it on the disk, file or folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _file_errors(folder: Path) -> Iterator[None]:
    """What the operating system says becomes a BackupError."""
    try:
        yield
    except OSError as error:
        raise BackupError(f"{error.filename or folder}: {error.strerror or error}") from error
