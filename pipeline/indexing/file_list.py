"""Images named in a text file, one address a line: what each line means, and what of it cannot be indexed.

Lines are read one by one, so that a list of millions costs no memory. Knows the stores, but no catalog.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile
from typing import BinaryIO

from pipeline.errors import InvalidQuery
from pipeline.indexing.overlap import Window, overlap
from pipeline.indexing.source import SourceItem
from storage.catalog import ImageFailure
from storage.errors import InvalidKey, StorageError, StorageUnavailable
from storage.images.allowed_sources import ANYWHERE, AllowedSources
from storage.images.backend import StorageBackend, StoredObject
from storage.images.file_uri import file_uri, path_of_file_uri
from storage.images.keys import key_of
from storage.images.locate import ImageReader, open_source, split_uri
from storage.images.web_address import is_web_address, web_address, without_user
from storage.records import Attributes

MAX_LINE_BYTES = 8192  # the longest path of Linux is 4,096, the longest key of S3 1,024 (and percent-encoded, thrice)
_GIVE_UP_AFTER_UNAVAILABLE = 25  # so many in a row mean that a store is down, not that lines are wrong
_AHEAD = 256  # lines whose files are looked at while an earlier one is waited for
_PIECE_BYTES = 1 << 20

Named = tuple[str, SourceItem | ImageFailure]  # the place of a line in the list, and what stands there


@dataclass(frozen=True)
class FileList:
    """Lines are names below `source` (a folder or s3://bucket/prefix), absolute paths or whole addresses.

    The image id of a file below the source is `id_prefix` + its key there, as if the source were listed; of any
    other file, `id_prefix` + its path from the root, its key in its bucket, or its address without the scheme.
    Endings do not matter: what is named is meant. Empty lines are passed over. Without a source ("") there are no
    names below it.
    """

    lines: BinaryIO  # can be read from its beginning more than once
    source: str
    id_prefix: str = ""
    attributes: Mapping[str, Attributes] | None = field(default=None, repr=False)
    max_bytes: int = 0
    threads: int = 4
    allowed: AllowedSources = ANYWHERE  # a line that leads elsewhere is a failure of its own

    def digest(self) -> str:
        """A sha256 that two lists share when their text is the same."""
        found = hashlib.sha256()
        self.lines.seek(0)
        while piece := self.lines.read(_PIECE_BYTES):
            found.update(piece)
        return found.hexdigest()

    def named(self, after: str = "") -> Iterator[Named]:
        """What stands in each line behind the place `after`, in order.

        Raises StorageError when the source is none, StorageUnavailable when a store stops answering.
        """
        look = _Look(open_source(self.source, max_bytes=self.max_bytes) if self.source else None, self)
        unavailable = 0
        with ThreadPoolExecutor(self.threads, thread_name_prefix="look") as pool:
            waiting = self._numbered(after)
            for place, found, error in overlap(pool, look, waiting, Window(_AHEAD, _AHEAD), lambda _line: 1):
                unavailable = unavailable + 1 if isinstance(error, StorageUnavailable) else 0
                if error is not None and unavailable >= _GIVE_UP_AFTER_UNAVAILABLE:
                    raise error
                yield place, found

    def _numbered(self, after: str) -> Iterator[tuple[str, bytes]]:
        self.lines.seek(0)
        number = 0
        while line := self.lines.readline(MAX_LINE_BYTES + 1):
            number += 1
            place = f"{number:012d}"
            while (
                len(line) > MAX_LINE_BYTES and not line.endswith(b"\n") and (rest := self.lines.readline(_PIECE_BYTES))
            ):
                line = line[:MAX_LINE_BYTES] + rest[-1:]  # too long anyway: only its end is looked for
            text = line.rstrip(b"\r\n")
            if text and place > after:
                yield place, text


@contextmanager
def open_list(list_file: str | Path | BinaryIO) -> Iterator[BinaryIO]:
    """Open a list so that it can be read twice; `-` and what cannot be rewound is copied to a file on the disk first.

    Raises InvalidQuery when it cannot be read.
    """
    with ExitStack() as closing:
        try:
            if isinstance(list_file, (str, Path)) and str(list_file) != "-":
                lines: BinaryIO = closing.enter_context(Path(list_file).open("rb"))
            else:
                lines = sys.stdin.buffer if isinstance(list_file, (str, Path)) else list_file
            if not lines.seekable():
                copy = closing.enter_context(TemporaryFile())
                shutil.copyfileobj(lines, copy)
                lines = copy
        except OSError as error:
            raise InvalidQuery(f"the list {list_file} cannot be read: {error.strerror}") from error
        yield lines


class _Look:
    """Looks at one line; called on several threads."""

    def __init__(self, source: StorageBackend | None, named: FileList) -> None:
        self._source = source
        self._named = named
        self._reader = ImageReader(named.max_bytes, named.allowed)
        self._root = source.uri("") if source else ""
        self._prefix = split_uri(self._root + "x")[1][:-1] if source else ""  # the source's own key in its store
        is_folder = source and "://" not in named.source
        self._folder = str(Path(named.source).expanduser().absolute()) if is_folder else ""

    def __call__(self, line: tuple[str, bytes]) -> tuple[str, SourceItem | ImageFailure, StorageError | None]:
        place, raw = line
        text = raw.decode("utf-8", "surrogateescape")
        image_id = uri = without_user(text).encode("utf-8", "backslashreplace").decode()
        attributes: Attributes | None = None
        try:
            if len(raw) >= MAX_LINE_BYTES:
                raise InvalidKey(f"line {int(place)} of the list is longer than {MAX_LINE_BYTES} bytes")
            uri = self._uri(text)
            key = self._key(uri)
            image_id = self._named.id_prefix + key
            attributes = self._attributes_of(image_id, key)
            stored = self._reader.stat(uri)
        except StorageError as error:
            return place, ImageFailure(image_id, uri, error.reason, str(error), attributes=attributes), error
        stored = StoredObject(uri, uri, stored.etag, stored.size_bytes, stored.modified_at)
        return place, SourceItem(image_id, stored, attributes), None

    def _uri(self, text: str) -> str:
        """The address as it is recorded. Raises StorageError for a line that names nothing."""
        scheme, separator, _rest = text.partition("://")
        if without_user(text) != text:
            raise InvalidKey(f"{without_user(text)}: an address with a user name or password is not taken")
        if is_web_address(text):
            return str(web_address(text))
        if separator:
            store, key = split_uri(text)
            return file_uri(Path(path_of_file_uri(text))) if scheme.lower() == "file" else f"{store}/{key}"
        if not Path(text).is_absolute():
            if self._source is None:
                raise InvalidKey(f"{text!r} is no whole address, and there is no source that it could be below")
            return self._source.uri(key_of(text.removeprefix("./")))
        path = os.path.normpath(text)
        below = self._folder + os.sep  # the folder itself may stand behind a link
        if self._source and self._folder and path.startswith(below):
            return self._source.uri(key_of(path[len(below) :].replace(os.sep, "/")))
        return file_uri(Path(path))

    def _key(self, uri: str) -> str:
        """The key below the source, else in its own store; of a picture on the web, site and path."""
        if is_web_address(uri):
            return web_address(uri).name
        key = split_uri(uri)[1]
        return key[len(self._prefix) :] if self._root and uri.startswith(self._root) else key

    def _attributes_of(self, image_id: str, key: str) -> Attributes | None:
        rows = self._named.attributes
        return None if rows is None else rows.get(image_id) or rows.get(key)
