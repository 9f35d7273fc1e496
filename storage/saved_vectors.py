"""What a saved vector index holds: a standard FAISS IndexFlatL2 file and the image id of each of its rows.

FAISS's own reader trusts what a file claims, so the file is written and read here, with our own checks and
without importing FAISS. Layout (faiss/impl/index_write.cpp, little-endian): `IxF2`, int32 dimension, int64
rows, two int64 of 2^20 that nobody reads, one byte "is trained", int32 metric (1 = L2), uint64 count of
float32 numbers, then the rows.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from storage.errors import IndexFileError
from storage.index_files import IndexContents, read_data
from storage.index_manifest import WHAT_TO_DO, Manifest, parse_json, read_manifest
from storage.mapped_vectors import LiveVectors
from storage.records import ModelIdentity
from storage.vector_checks import Vectors

VECTORS_FILE = "vectors.faiss"
IDS_FILE = "ids.json"  # in row order
HEADER = struct.Struct("<4siqqqBiQ")
FLAT_L2 = b"IxF2"
METRIC_L2 = 1
_COPY_ROWS = 16_384  # at a time: 32 MiB at 512-d beside the file itself
UNUSED = 1 << 20  # what FAISS writes in the two fields it keeps for old files


@dataclass(frozen=True)
class SavedVectors:
    """The (n, d) float32 vectors, the image id of each, and the model that made them."""

    vectors: Vectors
    image_ids: list[str]
    model: ModelIdentity | None


def pack_vectors(vectors: LiveVectors, attachments: Mapping[str, bytes]) -> IndexContents:
    """Copy what `write_index_folder` is to save; the vectors and ids may change as soon as this returns."""
    count, dimension = len(vectors.image_ids), vectors.dimension
    flat_file = bytearray(HEADER.size + 4 * count * dimension)
    HEADER.pack_into(flat_file, 0, FLAT_L2, dimension, count, UNUSED, UNUSED, 1, METRIC_L2, count * dimension)
    rows = np.frombuffer(flat_file, dtype="<f4", offset=HEADER.size).reshape(count, dimension)
    for start in range(0, count, _COPY_ROWS):
        rows[start : start + _COPY_ROWS] = vectors.rows(start, min(start + _COPY_ROWS, count))
    files: dict[str, bytes | bytearray] = {
        VECTORS_FILE: flat_file,
        IDS_FILE: json.dumps(list(vectors.image_ids)).encode(),
    }
    return IndexContents(dimension, count, vectors.model, files, attachments)


def read_vectors(folder: Path, expected_model: ModelIdentity | None) -> SavedVectors:
    """Load the vectors as a read-only view of the file's bytes.

    Raises IndexFileError when it is missing, damaged, foreign, or not of the expected model (None: any will
    do).
    """
    manifest = read_manifest(folder)
    return unpack_vectors(manifest, lambda name: read_data(folder, manifest, name), expected_model, str(folder))


def unpack_vectors(
    manifest: Manifest, read: Callable[[str], bytes], expected_model: ModelIdentity | None, place: str
) -> SavedVectors:
    """Take the vectors out of the files that `pack_vectors` made; `read` gives a file's bytes by logical name.

    Raises IndexFileError as `read_vectors` does; `place` says in its message where the files stand.
    """
    if expected_model is not None and manifest.model != expected_model:
        message = f"the index in {place} is of {manifest.model or 'no known model'}, not of {expected_model}"
        raise IndexFileError(message)
    vectors = _flat_rows(read(VECTORS_FILE), manifest.dimension, manifest.count)
    image_ids = parse_json(read(IDS_FILE), IDS_FILE)
    if not isinstance(image_ids, list) or len(image_ids) != manifest.count:
        message = f"the index in {place} lacks one id for each of its {manifest.count} vectors. {WHAT_TO_DO}"
        raise IndexFileError(message)
    return SavedVectors(vectors, image_ids, manifest.model)


def _flat_rows(data: bytes, dimension: int, count: int) -> Vectors:
    if len(data) < HEADER.size:
        message = f"the saved vectors are no FAISS IndexFlatL2 file: too short. {WHAT_TO_DO}"
        raise IndexFileError(message)
    kind, columns, rows, _, _, trained, metric, numbers = HEADER.unpack_from(data)
    if (kind, trained, metric) != (FLAT_L2, 1, METRIC_L2):
        message = f"the saved vectors are no FAISS IndexFlatL2 file (kind {kind!r}, metric {metric}). {WHAT_TO_DO}"
        raise IndexFileError(message)
    if (columns, rows) != (dimension, count):
        message = f"the saved vectors are {rows} x {columns}, the manifest says {count} x {dimension}. {WHAT_TO_DO}"
        raise IndexFileError(message)
    if numbers != rows * columns or len(data) != HEADER.size + 4 * numbers:
        message = f"the saved vectors have {len(data)} bytes, which does not fit {rows} x {columns}. {WHAT_TO_DO}"
        raise IndexFileError(message)
    return np.frombuffer(data, dtype="<f4", offset=HEADER.size).reshape(rows, columns)
