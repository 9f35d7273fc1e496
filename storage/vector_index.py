"""The vector index: exact nearest neighbours by image id, over FAISS IndexFlatL2 (imported nowhere else).

It is derived from the catalog and can be rebuilt from it at any moment; it must not know SQL, models or
images. FAISS addresses rows by number, so the ids live here, beside the rows.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from storage.errors import DuplicateImageId, IndexFileError, UnknownImageId, VectorIndexError
from storage.exact_search import Hit, SearchSpace, exact_search, fetch_gathered
from storage.index_files import IndexContents, write_index_folder
from storage.records import ModelIdentity
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

BLAS_THRESHOLD = 2048  # queries x dimension from which FAISS uses BLAS: 4 to 8 times faster from 16 queries on
GATHER_ROWS = 4096  # up to here one filtered query copies its rows (8 MiB at 512-d): faster than a selector


class VectorIndex:
    """Unit-length float32 vectors under string ids, searched exactly by squared L2; threads may share it.

    Hits are sorted by distance and then by id, whatever the order in which vectors came, and are the same to
    the last bit whether asked alone or in a batch. One lock guards everything: FAISS crashes when searched
    while it grows. Memory: 4 bytes x dimension per vector plus about 200 bytes for its id; removing vectors
    keeps it for later ones.
    """

    def __init__(self, dimension: int = 512, *, model: ModelIdentity | None = None) -> None:
        self._index = faiss.IndexFlatL2(check_dimension(dimension))
        faiss.cvar.distance_compute_blas_threshold = BLAS_THRESHOLD  # FAISS keeps it per process
        self._dimension: int = self._index.d
        self._image_ids: list[str] = []  # by row
        self._row_of: dict[str, int] = {}
        self._lock = threading.RLock()
        self._saving = threading.Lock()  # the folder has one writer at a time; searches go on meanwhile
        self.model = model

    @property
    def dimension(self) -> int:
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
        return len(self._image_ids)

    def __contains__(self, image_id: object) -> bool:
        return image_id in self._row_of

    def ids(self) -> list[str]:
        """Return every image id, in no promised order."""
        with self._lock:
            return list(self._image_ids)

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
            for image_id in ids:
                if image_id in self._row_of:
                    message = f"image id {image_id!r} is in the index already: use upsert to replace its vector"
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
            known = [place for place, image_id in enumerate(ids) if image_id in self._row_of]
            fresh = [place for place, image_id in enumerate(ids) if image_id not in self._row_of]
            self._append([ids[place] for place in fresh], rows[fresh])  # first: only this can run out of memory
            self._rows()[[self._row_of[ids[place]] for place in known]] = rows[known]

    def remove(self, image_id: str) -> None:
        """Remove one image. Raises UnknownImageId."""
        self.remove_many([image_id])

    def remove_many(self, image_ids: Sequence[str]) -> None:
        """Remove images, all or none; O(1) each: the last row moves into the gap. Raises UnknownImageId."""
        ids = check_ids(image_ids)
        with self._lock:
            self._rows_of(ids)
            rows = self._rows()
            for image_id in ids:
                row, last_id = self._row_of[image_id], self._image_ids[-1]
                rows[row] = rows[len(self._image_ids) - 1]
                self._image_ids[row] = last_id
                self._row_of[last_id] = row
                self._image_ids.pop()
                del self._row_of[image_id]
            # FAISS's own remove_ids shifts all later rows; cutting its array short is the cheap way
            self._index.codes.resize(len(self._image_ids) * self._index.code_size)
            self._index.ntotal = len(self._image_ids)

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
            return exact_search(self._space(only, exclude), query, counts, self._fetch)[0]

    def search_many(
        self, vectors: Any, k: int | list[int] = 10, *, only: Collection[str] | None = None
    ) -> list[list[Hit]]:
        """Answer (n, d) queries at once, each exactly as `search` would; one k for all, or one for each.

        Raises as `search` does, and VectorIndexError when there are not as many k as queries.
        """
        queries = check_vectors(vectors, self._dimension)
        counts = check_ks(k, len(queries))
        with self._lock:
            return exact_search(self._space(only, ()), queries, counts, self._fetch)

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
            return self._rows()[self._rows_of(check_id_collection(image_ids, "image ids"))]

    def save(self, path: str | os.PathLike[str], *, attachments: Mapping[str, bytes] | None = None) -> None:
        """Save into a folder: atomic, fsynced and checksummed, keeping the index saved there before.

        Attachments are small files kept and checked with it (see `storage.index_files.read_attachment`).
        Raises IndexFileError when the disk refuses; the index saved before can then still be loaded.
        """
        with self._saving:
            write_index_folder(Path(path), self.pack(attachments))

    def pack(self, attachments: Mapping[str, bytes] | None = None) -> IndexContents:
        """Copy everything into the bytes that are to be saved, so that searches go on while they are written."""
        with self._lock:
            saved = SavedVectors(self._rows(), self._image_ids, self._model)
            return pack_vectors(saved, attachments or {})

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

    def _rows(self) -> Vectors:
        # FAISS's own memory, writable; valid only under the lock and until rows are added
        count, dimension = len(self._image_ids), self._dimension
        if not count:
            return np.empty((0, dimension), dtype=np.float32)
        rows: Vectors = faiss.rev_swig_ptr(self._index.get_xb(), count * dimension).reshape(count, dimension)
        return rows

    def _rows_of(self, image_ids: Iterable[str]) -> list[int]:
        try:
            return [self._row_of[image_id] for image_id in image_ids]
        except KeyError as error:
            message = f"image id {error.args[0]!r} is not in the index"
            raise UnknownImageId(message) from None

    def _append(self, ids: list[str], rows: Vectors) -> None:
        if not ids:
            return
        self._index.add(rows)
        self._row_of.update(zip(ids, range(len(self._image_ids), len(self._image_ids) + len(ids)), strict=True))
        self._image_ids.extend(ids)

    def _space(self, only: Collection[str] | None, exclude: Collection[str]) -> SearchSpace:
        allowed, dropped = None, self._known_rows(exclude, "the ids to exclude")
        if only is not None or len(dropped) > GATHER_ROWS:
            rows = np.arange(len(self)) if only is None else self._known_rows(only, "the ids to search among")
            allowed, dropped = np.setdiff1d(rows, dropped, assume_unique=True), dropped[:0]
        return SearchSpace(self._rows(), self._image_ids, allowed, dropped)

    def _known_rows(self, image_ids: Collection[str], name: str) -> Positions:
        known = (
            self._row_of[image_id] for image_id in check_id_collection(image_ids, name) if image_id in self._row_of
        )
        return np.unique(np.fromiter(known, dtype=np.int64))

    def _fetch(self, space: SearchSpace, queries: Vectors, wanted: int) -> tuple[Vectors, Positions]:
        with _threads_for(len(queries)):
            if space.allowed is None:
                distances, positions = self._index.search(queries, wanted)
            elif len(queries) > 1 or space.size <= GATHER_ROWS:
                distances, positions = fetch_gathered(space, queries, wanted, faiss.knn)
            else:
                chosen = np.zeros(len(space.rows), dtype=bool)
                chosen[space.allowed] = True
                bitmap = np.packbits(chosen, bitorder="little")
                selector = faiss.IDSelectorBitmap(len(bitmap), faiss.swig_ptr(bitmap))
                parameters = faiss.SearchParameters()
                parameters.sel = selector
                distances, positions = self._index.search(queries, wanted, params=parameters)
        return distances, positions


@contextlib.contextmanager
def _threads_for(queries: int) -> Iterator[None]:
    """Search one query on one OpenMP thread: a second one makes it about twice as slow."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1 if queries == 1 else before)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)
