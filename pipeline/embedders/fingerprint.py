"""Fingerprints: what must agree for two vectors to be comparable. Knows files and settings, no models."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_CHUNK_BYTES = 1 << 20  # hashing is no faster with more, and memory stays flat


def sha256_of_file(path: Path) -> str:
    """Return the sha256 hex of a file's bytes, as `sha256sum` and the hub show it. Raises OSError."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def sha256_of_files(paths: Sequence[Path]) -> str:
    """Return one sha256 hex over the files in the given order: of one file its own, else of all digests."""
    digests = [sha256_of_file(path) for path in paths]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def sha256_of_settings(settings: Mapping[str, Any]) -> str:
    """Return the sha256 hex over settings as canonical JSON: keys sorted, no spaces, floats exact."""
    canonical = json.dumps(settings, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()
