"""The exported models on this machine: a folder for each, named by what went into it. Knows no graph and no runtime.

A folder is built beside and renamed, so that it is complete when it is there; exporting twice at once is harmless.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from platformdirs import user_cache_path

from pipeline.embedders.checkpoint import Checkpoint
from pipeline.embedders.fingerprint import sha256_of_files, sha256_of_settings
from pipeline.errors import ModelError

_MANIFEST = "model.json"


@dataclass(frozen=True)
class ExportedModel:
    """What an export's manifest says; `bytes` are those of all its files."""

    name: str
    revision: str
    precision: str
    dimension: int
    export_version: int
    weights_fingerprint: str
    bytes: int


class ExportFiles:
    """The folder of all exports; by default the user's cache folder, which may be emptied at any time."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = root or user_cache_path("visual-search", appauthor=False) / "models"

    def folder(self, key: str) -> Path | None:
        """The complete export of this key, None when there is none."""
        folder = self.root / key
        return folder if (folder / _MANIFEST).is_file() else None

    @contextmanager
    def building(self, key: str) -> Iterator[Path]:
        """Give an empty folder to write into; it becomes the export when the block ends well. Raises ModelError."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            folder = Path(mkdtemp(prefix=".building-", dir=self.root))
        except OSError as error:
            raise ModelError(f"no export can be written to {self.root}: {error}. {_CHOICES}") from error
        try:
            yield folder
            self._publish(folder, key)
        except OSError as error:
            raise ModelError(f"the export could not be written to {self.root}: {error}. {_CHOICES}") from error
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def list(self) -> list[tuple[Path, ExportedModel]]:
        """Every complete export, by name and precision."""
        folders = sorted(self.root.glob(f"*/{_MANIFEST}")) if self.root.is_dir() else []
        found = [(path.parent, read_manifest(path.parent)) for path in folders if not path.parent.name.startswith(".")]
        return sorted(found, key=lambda entry: (entry[1].name, entry[1].precision))

    def weights_fingerprint(self, checkpoint: Checkpoint) -> str:
        """The sha256 over the weights, remembered as long as the files' sizes and times stay the same."""
        state = [_state(path) for path in checkpoint.weight_files]
        memory = self.root / "hashes" / sha256_of_settings({"files": state})
        try:
            return memory.read_text(encoding="ascii")
        except OSError:
            fingerprint = sha256_of_files(checkpoint.weight_files)
        self._remember(memory, fingerprint)
        return fingerprint

    def _remember(self, memory: Path, fingerprint: str) -> None:
        """Keep it if that can be done: without, it is computed again, which takes a second."""
        beside = memory.with_name(f".{memory.name}.{os.getpid()}")
        try:
            memory.parent.mkdir(parents=True, exist_ok=True)
            beside.write_text(fingerprint, encoding="ascii")
            beside.replace(memory)
        except OSError:
            beside.unlink(missing_ok=True)

    def _publish(self, folder: Path, key: str) -> None:
        for path in (*folder.iterdir(), folder):
            _to_disk(path)
        try:
            folder.rename(self.root / key)
        except OSError:
            if self.folder(key) is None:  # else another process was faster, with the same content
                raise


_CHOICES = "Free space there, set XDG_CACHE_HOME to another folder, or choose backend = torch"


def write_manifest(folder: Path, exported: ExportedModel) -> None:
    """Write what the export is, last of all its files."""
    (folder / _MANIFEST).write_text(json.dumps(asdict(exported), indent=2), encoding="utf-8")


def read_manifest(folder: Path) -> ExportedModel:
    """Read what an export is. Raises ModelError when that is damaged."""
    try:
        content: dict[str, Any] = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
        return ExportedModel(**content)
    except (OSError, ValueError, TypeError) as error:
        raise ModelError(f"the export in {folder} is damaged ({error}); remove that folder") from error


def _state(path: Path) -> list[Any]:
    real = path.resolve()
    found = real.stat()
    return [str(real), found.st_size, found.st_mtime_ns]


def _to_disk(path: Path) -> None:
    """Make a file or folder survive a power cut; without it a complete name may stand for empty files."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
