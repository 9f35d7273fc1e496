"""The vector index: exact nearest neighbours by image id, over FAISS IndexFlatL2 and the mapped rows of a snapshot.

It is derived from the catalog and can be rebuilt from it at any moment; it must not know SQL, models or
images. Rows are addressed by number, so the ids stand beside them.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from storage.errors import DuplicateImageId, IndexFileError, UnknownImageId, VectorIndexError
from storage.exact_search import Hit, SearchSpace, exact_search
from storage.index_files import IndexContents, write_index_folder
from storage.mapped_vectors import LiveVectors, MappedVectors, nothing_to_check
from storage.records import ModelIdentity
from storage.row_ids import RowIds
from storage.row_store import RowStore
from storage.saved_vectors import SavedVectors, pack_vectors, read_vectors
from storage.vector_checks import (
    Positions,
    Vectors,
    check_dimension,
    check_id_collection,
    check_ids,
    check_ks,
    check_vector,
    check_vectors,
)

__all__ = ["Hit", "VectorIndex"]

MOST_SKIPPED = 4096  # excluded rows that a search skips after it has fetched them; more are left out before
COMPACT_HOLES = 4096  # so many are never worth the copying (8 MiB at 512-d)
_COPY_ROWS = 16_384  # at a time, while compacting


class VectorIndex:
    """Unit-length float32 vectors under string ids, searched exactly by squared L2; threads may share it.

    Hits are sorted by distance and then by id, whatever the order in which vectors came, and are the same to
    the last bit whether asked alone or in a batch. One lock guards everything: FAISS crashes when searched
    while it grows. Memory: 4 bytes x dimension per vector plus about 200 bytes for its id, and next to nothing
    for what a snapshot holds (`mapped`). Removing keeps memory for later vectors; once holes are most of the
    rows, the others are copied together.
    """

    def __init__(self, dimension: int = 512, *, model: ModelIdentity | None = None) -> None:
        self._dimension = check_dimension(dimension)
        self._rows = RowStore(self._dimension)
        self._ids = RowIds()
        self._lock = threading.RLock()
        self._check: Callable[[], None] = nothing_to_check
        self._saving = threading.Lock()  # the folder has one writer at a time; searches go on meanwhile
        self.model = model

    @property
    def dimension(self) -> int:
        """How many numbers a vector has."""
        return self._dimension

    @property
    def model(self) -> ModelIdentity | None:
        """The model that made the vectors; recorded when saving. Set it before the first vector goes in."""
        return self._model

    @model.setter
    def model(self, model: ModelIdentity | None) -> None:
        if model is not None and model.dimension != self._dimension:
            message = f"the index holds {self._dimension}-d vectors, {model} makes others"
            raise VectorIndexError(message)
        self._model = model

    def __len__(self) -> int:
        return len(self._ids)

    def __contains__(self, image_id: object) -> bool:
        return isinstance(image_id, str) and self.count([image_id]) == 1

    def count(self, image_ids: Collection[str]) -> int:
        """How many of these ids are in the index."""
        with self._lock:
            return int((self._ids.find(check_id_collection(image_ids, "image ids")) >= 0).sum())

    @property
    def own_rows(self) -> int:
        """How many rows this process holds in memory of its own, because no snapshot holds them."""
        return self._rows.own

    def ids(self) -> list[str]:
        """Return every image id, in no promised order."""
        with self._lock:
            return self._ids.ids()

    def add(self, image_id: str, vector: Any) -> None:
        """Add one (d,) vector. Raises as `add_many` does."""
        self.add_many([image_id], check_vector(vector, self._dimension, repr(image_id)))

    def add_many(self, image_ids: Sequence[str], vectors: Any) -> None:
        """Add (n, d) float32 unit vectors, all or none.

        Raises DuplicateImageId when an id is there already or twice in the call, InvalidVector for a vector
        of another shape, dtype or length or with NaN or infinity, and VectorIndexError for an empty id.
        """
        ids = check_ids(image_ids)
        rows = check_vectors(vectors, self._dimension, ids)
        with self._lock:
            known = np.flatnonzero(self._ids.find(ids) >= 0)
            if len(known):
                message = f"image id {ids[known[0]]!r} is in the index already: use upsert to replace its vector"
                raise DuplicateImageId(message)
            self._append(ids, rows)

    def upsert(self, image_id: str, vector: Any) -> None:
        """Add one (d,) vector, or replace the one this id has. Raises InvalidVector, VectorIndexError."""
        self.upsert_many([image_id], check_vector(vector, self._dimension, repr(image_id)))

    def upsert_many(self, image_ids: Sequence[str], vectors: Any) -> None:
        """Add (n, d) float32 unit vectors, replacing those whose ids are there, all or none; O(1) per vector.

        Raises as `add_many` does, with DuplicateImageId only for an id given twice in the call.
        """
        ids = check_ids(image_ids)
        rows = check_vectors(vectors, self._dimension, ids)
        with self._lock:
            positions = self._ids.find(ids)
            known, fresh = np.flatnonzero(positions >= 0), np.flatnonzero(positions < 0)
            self._append([ids[place] for place in fresh], rows[fresh])  # first: only this can run out of memory
            self._rows.put(positions[known], rows[known])

    def remove(self, image_id: str) -> None:
        """Remove one image. Raises UnknownImageId."""
        self.remove_many([image_id])

    def remove_many(self, image_ids: Sequence[str]) -> None:
        """Remove images, all or none; O(1) each. Raises UnknownImageId."""
        ids = check_ids(image_ids)
        with self._lock:
            holes: list[int] = []
            end = len(self._rows)
            for image_id, found in zip(ids, self._positions(ids).tolist(), strict=True):
                row = found if found < self._ids.base else int(self._ids.find([image_id])[0])  # it may have moved
                moved = self._ids.drop(image_id, row)
                if moved is None:
                    holes.append(row)
                else:
                    self._rows.move(moved, row)
                    end = moved
            self._rows.empty(np.array(holes, dtype=np.int64))
            self._rows.cut(end)
            if self._ids.holes > max(COMPACT_HOLES, len(self)):
                self._compact()

    def search(
        self, vector: Any, k: int = 10, *, only: Collection[str] | None = None, exclude: Collection[str] = ()
    ) -> list[Hit]:
        """Return the k images nearest to a (d,) vector, or all, by distance and then id.

        `only` keeps the search to these ids, `exclude` leaves ids out; ids that are not in the index are
        ignored in both. Raises InvalidVector, and VectorIndexError for k below 1.
        """
        query = check_vector(vector, self._dimension, "the query")
        counts = check_ks(k, 1)
        with self._lock:
            return exact_search(self._space(only, exclude), query, counts)[0]

    def search_many(
        self, vectors: Any, k: int | list[int] = 10, *, only: Collection[str] | None = None
    ) -> list[list[Hit]]:
        """Answer (n, d) queries at once, each exactly as `search` would; one k for all, or one for each.

        Raises as `search` does, and VectorIndexError when there are not as many k as queries.
        """
        queries = check_vectors(vectors, self._dimension)
        counts = check_ks(k, len(queries))
        with self._lock:
            return exact_search(self._space(only, ()), queries, counts)

    def search_by_id(self, image_id: str, k: int = 10, *, exclude_query: bool = True) -> list[Hit]:
        """Return the k nearest images to a stored one, itself left out or not. Raises UnknownImageId."""
        with self._lock:
            exclude = (image_id,) if exclude_query else ()
            return self.search(self.reconstruct(image_id), k, exclude=exclude)

    def reconstruct(self, image_id: str) -> Vectors:
        """Return a copy of the stored (d,) float32 vector. Raises UnknownImageId."""
        vector: Vectors = self.reconstruct_many([image_id])[0]
        return vector

    def reconstruct_many(self, image_ids: Sequence[str]) -> Vectors:
        """Return copies of the stored vectors, (n, d) float32 in the order asked. Raises UnknownImageId."""
        with self._lock:
            return self._rows.take(self._positions(list(check_id_collection(image_ids, "image ids"))))

    def save(self, path: str | os.PathLike[str], *, attachments: Mapping[str, bytes] | None = None) -> None:
        """Save into a folder: atomic, fsynced and checksummed, keeping the index saved there before.

        Attachments are small files kept and checked with it (see `storage.index_files.read_attachment`).
        Raises IndexFileError when the disk refuses; the index saved before can then still be loaded.
        """
        with self._saving:
            write_index_folder(Path(path), self.pack(attachments))

    def pack(self, attachments: Mapping[str, bytes] | None = None) -> IndexContents:
        """Copy everything into the bytes that are to be saved, so that searches go on while they are written."""
        with self.reading() as vectors:
            return pack_vectors(vectors, attachments or {})

    @contextlib.contextmanager
    def reading(self) -> Iterator[LiveVectors]:
        """What a snapshot is made of, without a copy; until the context ends, searches and changes wait."""
        with self._lock:
            live = self._ids.live()
            yield LiveVectors(
                dimension=self._dimension,
                model=self._model,
                deviation=self._rows.deviation,
                image_ids=self._ids.ids(),
                rows=lambda start, stop: self._rows.take(live[start:stop]),
                check=self._check,
            )

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, expected_model: ModelIdentity | None = None) -> VectorIndex:
        """Load a saved index, every byte checked.

        Raises IndexFileError when it is missing, damaged, foreign, or (with `expected_model`) of another
        model.
        """
        return cls.from_saved(read_vectors(Path(path), expected_model), str(path))

    @classmethod
    def from_saved(cls, saved: SavedVectors, place: str) -> VectorIndex:
        """Make an index of what was saved at `place`. Raises IndexFileError when ids or vectors are unusable."""
        try:
            index = cls(saved.vectors.shape[1], model=saved.model)
            index.add_many(saved.image_ids, saved.vectors)
        except VectorIndexError as error:
            message = f"the index in {place} cannot be used: {error}. Index the images again."
            raise IndexFileError(message) from error
        return index

    @classmethod
    def mapped(cls, vectors: MappedVectors) -> VectorIndex:
        """An index over what a snapshot holds, ready at once: nothing is read or copied before it is searched."""
        index = cls(vectors.dimension, model=vectors.model)
        index._rows = RowStore(vectors.dimension, vectors.parts, vectors.deviation)
        index._ids = RowIds(vectors.ids)
        index._check = vectors.check
        return index

    def _positions(self, image_ids: list[str]) -> Positions:
        positions = self._ids.find(image_ids)
        unknown = np.flatnonzero(positions < 0)
        if len(unknown):
            message = f"image id {image_ids[unknown[0]]!r} is not in the index"
            raise UnknownImageId(message)
        return positions

    def _append(self, ids: list[str], rows: Vectors) -> None:
        filled = min(len(ids), self._ids.holes)
        self._rows.append(rows[filled:])
        self._ids.append(ids[filled:])
        self._rows.put(self._ids.fill_holes(ids[:filled]), rows[:filled])

    def _compact(self) -> None:
        """Copy the live rows together: holes cost as much as vectors in every search."""
        live, rows, ids = self._ids.live(), RowStore(self._dimension), RowIds()
        for start in range(0, len(live), _COPY_ROWS):
            rows.append(self._rows.take(live[start : start + _COPY_ROWS]))
        ids.append(self._ids.ids())
        self._rows, self._ids = rows, ids

    def _space(self, only: Collection[str] | None, exclude: Collection[str]) -> SearchSpace:
        allowed, dropped = None, self._rows_of(exclude, "the ids to exclude")
        if only is not None or len(dropped) > MOST_SKIPPED:
            rows = self._ids.live() if only is None else self._rows_of(only, "the ids to search among")
            allowed = np.setdiff1d(rows, dropped, assume_unique=True) if len(dropped) else rows
            dropped = dropped[:0]
        return SearchSpace(self._rows, self._ids.id_at, self._ids.live, len(self._ids), allowed, dropped)

    def _rows_of(self, image_ids: Collection[str], name: str) -> Positions:
        return self._ids.rows_of(check_id_collection(image_ids, name))
