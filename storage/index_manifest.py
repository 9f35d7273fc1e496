"""The manifest of a saved index: what it says, and how it is checked. Knows nothing of how files are written.

It carries a checksum over itself, so that an edited or damaged manifest is refused like a damaged data file.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from storage.errors import IndexFileError
from storage.records import ModelIdentity

FORMAT = "visual-search index"
VERSION = 1
MANIFEST = "manifest.json"
PREVIOUS_MANIFEST = "manifest.previous.json"
MAX_MANIFEST_BYTES = 1024 * 1024  # a real one has about 1 KiB; more is something else
LOGICAL_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
WHAT_TO_DO = (
    "Index the images again, or go back to the index saved before it, if there is one, by renaming "
    "manifest.previous.json to manifest.json."
)


class FileEntry(BaseModel):
    """One data file: its name in the folder, its size and the sha256 (hex) of its content."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    bytes: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Manifest(BaseModel):
    """What a saved index says of itself; `files` and `attachments` go from logical name to data file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: str = FORMAT
    version: int = VERSION
    dimension: int = Field(gt=0)
    count: int = Field(ge=0)
    model: ModelIdentity | None
    files: dict[str, FileEntry]
    attachments: dict[str, FileEntry] = Field(default_factory=dict)
    created_at: datetime


def read_manifest(folder: Path, name: str = MANIFEST) -> Manifest:
    """Read and check the manifest. Raises IndexFileError: missing, damaged, edited or not one of ours."""
    path = folder / name
    with disk_errors(f"cannot read {path}"):
        if not path.is_file():
            message = f"there is no saved index in {folder} ({name} is missing). Save one there first."
            raise IndexFileError(message)
        if path.stat().st_size > MAX_MANIFEST_BYTES:
            message = f"{path} is no manifest of a saved index: it is larger than {MAX_MANIFEST_BYTES} bytes"
            raise IndexFileError(message)
        data = path.read_bytes()
    return parse_manifest(data, str(path))


def parse_manifest(data: bytes, path: str) -> Manifest:
    """Check a manifest that stood at `path`. Raises IndexFileError: damaged, edited or not one of ours."""
    content = parse_json(data, path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        message = f"{path} is no manifest of a saved index: name the folder that an index was saved in"
        raise IndexFileError(message)
    if content.get("version") != VERSION:
        message = f"{path} has format version {content.get('version')!r}, this program reads {VERSION}: upgrade it"
        raise IndexFileError(message)
    return _checked_manifest(content, path)


def _checked_manifest(content: dict[str, Any], path: str) -> Manifest:
    claimed = content.pop("checksum", None)
    try:
        fits = claimed == _checksum(content)
        manifest = Manifest.model_validate(content) if fits else None
    except (ValidationError, RecursionError) as error:
        message = f"{path} is not a usable manifest: {error}"
        raise IndexFileError(message) from error
    if manifest is None:
        message = f"{path} is damaged or was edited: its checksum does not fit. {WHAT_TO_DO}"
        raise IndexFileError(message)
    for name, entry in (*manifest.files.items(), *manifest.attachments.items()):
        if not LOGICAL_NAME.fullmatch(name) or entry.name != data_name(name, entry.sha256):
            message = f"{path} points at {entry.name!r}, which is no data file of a saved index"
            raise IndexFileError(message)
    return manifest


def parse_json(data: bytes, name: str) -> Any:
    """Parse JSON from a file that may hold anything. Raises IndexFileError."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:  # ValueError covers bad JSON and bad UTF-8
        message = f"{name} is damaged or no file of a saved index: {error}. {WHAT_TO_DO}"
        raise IndexFileError(message) from error


def manifest_bytes(manifest: Manifest) -> bytes:
    """The manifest as it is written: JSON with a checksum over everything else in it."""
    content = manifest.model_dump(mode="json")
    return json.dumps({**content, "checksum": _checksum(content)}, indent=2).encode()


def _checksum(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def data_name(name: str, digest: str) -> str:
    """The name in the folder of the data file with this logical name and sha256."""
    return f"vsindex-{digest}-{name}"


@contextlib.contextmanager
def disk_errors(doing: str) -> Iterator[None]:
    """Turn what the operating system refuses into an IndexFileError that begins with what was being done."""
    try:
        yield
    except OSError as error:
        message = f"{doing}: {error}"
        raise IndexFileError(message) from error
