"""A saved index on disk: a folder of data files named by their content, and one manifest that points at them.

Owns how a save survives a crash and how damage is found; what the files hold is the caller's business. Every
data file is written beside the old ones, then `manifest.json` is replaced: that one rename is the switch, and
whatever happens before it leaves the old index as it was. The index saved before stays as
`manifest.previous.json` with its files. One process at a time may save into a folder; any number may read.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

from storage.errors import IndexFileError
from storage.index_manifest import (
    FORMAT,
    LOGICAL_NAME,
    MANIFEST,
    MAX_MANIFEST_BYTES,
    PREVIOUS_MANIFEST,
    WHAT_TO_DO,
    FileEntry,
    Manifest,
    data_name,
    disk_errors,
    manifest_bytes,
    read_manifest,
)
from storage.records import ModelIdentity

OWN_FILE = re.compile(r"vsindex-([0-9a-f]{64}-.+|[0-9a-f]{16}\.tmp)")  # nothing else in the folder is ever deleted


@dataclass(frozen=True)
class IndexContents:
    """What to save: the shape, the model of the vectors, and the bytes of each file by logical name."""

    dimension: int
    count: int
    model: ModelIdentity | None
    files: Mapping[str, bytes | bytearray]
    attachments: Mapping[str, bytes | bytearray] = field(default_factory=dict)


def write_index_folder(folder: Path, contents: IndexContents) -> Manifest:
    """Save into the folder, all or nothing, made durable by fsync; the index saved before is kept beside it.

    Raises IndexFileError when the folder holds somebody else's manifest.json, or when the disk refuses (full,
    read-only): the index saved before can then still be loaded.
    """
    for name in (*contents.files, *contents.attachments):
        if not LOGICAL_NAME.fullmatch(name):
            message = f"{name!r} cannot name a file of a saved index: use letters, digits, '.', '_' and '-'"
            raise IndexFileError(message)
    with disk_errors(f"cannot save the index in {folder} (an index saved there before is unharmed)"):
        _make_folder(folder)
        _refuse_foreign(folder)
        manifest = Manifest(
            dimension=contents.dimension,
            count=contents.count,
            model=contents.model,
            files={name: _write_data(folder, name, data) for name, data in contents.files.items()},
            attachments={name: _write_data(folder, name, data) for name, data in contents.attachments.items()},
            created_at=datetime.now(timezone.utc),
        )
        _sync_folder(folder)  # the data files' names are on disk before anything points at them
        _keep_previous(folder)
        _write_file(folder, MANIFEST, manifest_bytes(manifest))
        _sync_folder(folder)
    _prune(folder)
    return manifest


def read_data(folder: Path, manifest: Manifest, name: str) -> bytes:
    """Read the data file with this logical name, checked by size and sha256. Raises IndexFileError."""
    entry = manifest.files.get(name)
    if entry is None:
        message = f"the saved index in {folder} has no {name}: it was saved by another program"
        raise IndexFileError(message)
    return _read_entry(folder, entry)


def read_attachment(path: str | os.PathLike[str], name: str) -> bytes:
    """Read what was saved beside the index under this name, checked like the index. Raises IndexFileError."""
    folder = Path(path)
    entry = read_manifest(folder).attachments.get(name)
    if entry is None:
        message = f"the saved index in {folder} has no attachment {name!r}"
        raise IndexFileError(message)
    return _read_entry(folder, entry)


def _read_entry(folder: Path, entry: FileEntry) -> bytes:
    path = folder / entry.name
    with disk_errors(f"cannot read {path}"):
        if not path.is_file():
            message = f"{path} is missing from the saved index. {WHAT_TO_DO}"
            raise IndexFileError(message)
        size = path.stat().st_size
        data = path.read_bytes() if size == entry.bytes else b""
    if size != entry.bytes:
        message = f"{path} is damaged: {size} bytes instead of {entry.bytes}. {WHAT_TO_DO}"
        raise IndexFileError(message)
    if hashlib.sha256(data).hexdigest() != entry.sha256:
        message = f"{path} is damaged: its sha256 does not fit. {WHAT_TO_DO}"
        raise IndexFileError(message)
    return data


def _refuse_foreign(folder: Path) -> None:
    path = folder / MANIFEST
    if not path.exists():
        return
    with path.open("rb") as file:
        ours = FORMAT.encode() in file.read(MAX_MANIFEST_BYTES)  # also when damaged elsewhere: saving mends it
    if not ours:
        message = f"{path} is not ours and would be replaced: save the index in another folder"
        raise IndexFileError(message)


def _keep_previous(folder: Path) -> None:
    try:
        read_manifest(folder)
    except IndexFileError:
        return  # nothing saved yet, or damaged: that must not push out the good one kept before
    _write_file(folder, PREVIOUS_MANIFEST, (folder / MANIFEST).read_bytes())


def _prune(folder: Path) -> None:
    wanted: set[str] = set()
    for name in (MANIFEST, PREVIOUS_MANIFEST):
        with contextlib.suppress(IndexFileError):  # a first save has no previous one; a damaged one needs no files
            manifest = read_manifest(folder, name)
            wanted.update(entry.name for entry in (*manifest.files.values(), *manifest.attachments.values()))
    with contextlib.suppress(OSError):  # the save is done; what is held open (Windows) goes the next time
        for path in folder.iterdir():
            if OWN_FILE.fullmatch(path.name) and path.name not in wanted:
                path.unlink()


def _write_data(folder: Path, name: str, data: bytes | bytearray) -> FileEntry:
    digest = hashlib.sha256(data).hexdigest()
    entry = FileEntry(name=data_name(name, digest), bytes=len(data), sha256=digest)
    _write_file(folder, entry.name, data)  # also when it is there already: it may be damaged
    return entry


def _write_file(folder: Path, name: str, data: bytes | bytearray) -> None:
    temporary = folder / f"vsindex-{secrets.token_hex(8)}.tmp"
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, folder / name)  # noqa: PTH105  # named with fsync, in the order that matters
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def _make_folder(folder: Path) -> None:
    if not folder.is_dir():
        if folder != folder.parent:  # a missing Windows drive is its own parent
            _make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # Windows cannot open a folder to sync it; its renames are journaled
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
