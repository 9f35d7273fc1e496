"""The image ids of a snapshot's rows in one block of bytes that can be searched where it lies, in a mapped file.

So a million ids are ready at once, and the processes of a machine share them. Knows no vectors and no files.
Layout, little-endian: 8 bytes of magic, uint64 count, uint64 bytes of text; uint64 hashes in rising order; uint64
offsets into the text by row, and its end; uint32 row of each hash; the ids in UTF-8, in row order.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np

from storage.errors import IndexFileError
from storage.vector_checks import Positions

_HEADER = struct.Struct("<8sQQ")
_MAGIC = b"vs-ids\x00\x01"
_HASH_BYTES = 8


def pack_ids(image_ids: Sequence[str]) -> bytes:
    """The bytes of a table of different ids, in row order."""
    texts = [_encoded(image_id) for image_id in image_ids]
    hashes = _hashes(texts)
    order = np.argsort(hashes, kind="stable")
    offsets = np.zeros(len(texts) + 1, dtype="<u8")
    np.cumsum([len(text) for text in texts], out=offsets[1:])
    header = _HEADER.pack(_MAGIC, len(texts), int(offsets[-1]))
    return b"".join((header, hashes[order].tobytes(), offsets.tobytes(), order.astype("<u4").tobytes(), *texts))


class IdTable:
    """Ids by row and rows by id. Raises IndexFileError for bytes that cannot be a table; `check` looks closer."""

    def __init__(self, data: bytes | memoryview, place: str) -> None:
        view = memoryview(data)
        self._place = place
        if len(view) < _HEADER.size:
            raise self._damaged("it is too short")
        magic, count, text_bytes = _HEADER.unpack_from(view)
        if magic != _MAGIC:
            raise self._damaged("it is no table of image ids")
        if len(view) != _HEADER.size + 20 * count + 8 + text_bytes:
            raise self._damaged(f"{len(view)} bytes do not fit {count} ids")
        self._hashes = np.frombuffer(view, "<u8", count, _HEADER.size)
        self._offsets = np.frombuffer(view, "<u8", count + 1, _HEADER.size + 8 * count)
        self._rows = np.frombuffer(view, "<u4", count, _HEADER.size + 16 * count + 8)
        self._text = view[len(view) - text_bytes :]

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[str]:
        """Every id, in row order."""
        text = bytes(self._text)
        return (_decoded(text[start:end]) for start, end in pairwise(self._offsets.tolist()))

    def id_at(self, row: int) -> str:
        """The id of a row."""
        return _decoded(self._text_of(row))

    def find(self, image_ids: Sequence[str]) -> Positions:
        """The row of each id, (n,); -1 for one that is not in the table."""
        texts = [_encoded(image_id) for image_id in image_ids]
        found = np.full(len(texts), -1, dtype=np.int64)
        hashes = _hashes(texts)
        order = np.argsort(hashes)  # so that neighbours are looked for one after the other
        places = np.empty(len(texts), dtype=np.int64)
        places[order] = np.searchsorted(self._hashes, hashes[order])
        asked = np.arange(len(texts))
        while len(asked):  # a second round only for ids whose hashes are the same
            inside = asked[places[asked] < len(self)]
            asked = inside[self._hashes[places[inside]] == hashes[inside]]
            rows = self._rows[places[asked]].astype(np.int64)
            starts, ends = self._offsets[rows].tolist(), self._offsets[rows + 1].tolist()
            pairs = zip(starts, ends, asked.tolist(), strict=True)
            same = np.array([self._text[start:end].tobytes() == texts[ask] for start, end, ask in pairs], dtype=bool)
            found[asked[same]] = rows[same]
            asked = asked[~same]
            places[asked] += 1
        return found

    def check(self) -> None:
        """Look at every byte. Raises IndexFileError unless each row has an id of its own that is found by it."""
        steps = np.diff(self._offsets.astype(np.int64))
        if int(self._offsets[0]) != 0 or int(self._offsets[-1]) != len(self._text) or (steps < 1).any():
            raise self._damaged("an id is empty or lies outside")
        if not np.array_equal(np.sort(self._rows), np.arange(len(self), dtype=np.uint32)):
            raise self._damaged("its rows are not each there once")
        try:
            ids = list(self)
        except ValueError as error:
            raise self._damaged(f"an id is no text ({error})") from error
        if len(set(ids)) < len(ids):
            raise self._damaged("an id is there twice")
        if not np.array_equal(_hashes([_encoded(one) for one in ids])[self._rows], self._hashes):
            raise self._damaged("its hashes do not fit its ids")
        if (self._hashes[1:] < self._hashes[:-1]).any():
            raise self._damaged("its hashes are not in order")

    def _text_of(self, row: int) -> bytes:
        return self._text[int(self._offsets[row]) : int(self._offsets[row + 1])].tobytes()

    def _damaged(self, what: str) -> IndexFileError:
        return IndexFileError(f"the image ids in {self._place} cannot be used: {what}")


def _encoded(image_id: str) -> bytes:
    return image_id.encode("utf-8", "surrogatepass")  # file names that are no UTF-8 carry surrogates


def _decoded(text: bytes) -> str:
    return text.decode("utf-8", "surrogatepass")


def _hashes(texts: Sequence[bytes]) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    """Cryptographic, so that nobody can choose file names whose hashes collide and make every look-up slow."""
    digests = b"".join(hashlib.blake2b(text, digest_size=_HASH_BYTES).digest() for text in texts)
    return np.frombuffer(digests, dtype="<u8")
