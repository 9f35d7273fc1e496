"""What is to be indexed: a storage address, which of its files, under which ids, with which attributes."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

from storage.errors import LeftOut, StorageDenied
from storage.images.backend import StorageBackend, StoredObject
from storage.records import Attributes

# Endings by which a photo folder is told from its sidecars (.xmp, .txt, .mp4). What a file really is, the decoder
# finds out from its bytes; a HEIC or RAW photo is listed so that it is refused visibly rather than passed over.
IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".mpo"}
    | {".heic", ".heif", ".jxl", ".jp2", ".dng", ".cr2", ".cr3", ".nef", ".arw"}
)


_log = logging.getLogger(__name__)

# Called with the id, the address and the error of what cannot be taken; both end in `/` for a whole folder.
Denied = Callable[[str, str, StorageDenied], None]


@dataclass(frozen=True)
class SourceItem:
    """One listed file and the image id that it gets."""

    image_id: str
    stored: StoredObject
    attributes: Attributes | None = None  # None: whatever the catalog holds stays


@dataclass(frozen=True)
class Source:
    """A folder or bucket prefix as images: `id_prefix` + key is the image id.

    `include` and `exclude` are shell patterns over the key (`*` also matches `/`). Only files with an image ending
    are taken, unless a pattern of `include` names an ending or a file itself, or is `**`: every file.
    `attributes` maps image ids (or keys) to attributes.
    """

    backend: StorageBackend
    id_prefix: str = ""
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    attributes: Mapping[str, Attributes] | None = field(default=None, repr=False)

    def items(self, on_denied: Denied | None = None) -> Iterator[SourceItem]:
        """List lazily, in key order. Raises StorageError when the source cannot be listed.

        A folder that may not be read is told to `on_denied` by its id and address, and raises without it; links
        that lead out and the like (LeftOut) are told too, without it to the log. What `include` and `exclude` leave
        out is neither.
        """

        def deny(key: str, error: StorageDenied) -> None:
            if not self.may_take(key):
                return
            if on_denied is not None:
                folder = "/" if key.endswith("/") else ""
                on_denied(self.id_prefix + key, self.backend.uri(key.removesuffix("/")) + folder, error)
            elif isinstance(error, LeftOut):
                _log.warning("%s", error)
            else:
                raise error

        for stored in self.backend.list(on_denied=deny):
            if self.takes(stored.key):
                yield SourceItem(self.id_prefix + stored.key, stored, self._attributes_of(stored.key))

    def takes(self, key: str) -> bool:
        """Whether a file under this key is to be indexed, by its name alone."""
        if any(fnmatchcase(key, pattern) for pattern in self.exclude):
            return False
        if self.include:
            return any(_included(key, pattern) for pattern in self.include)
        return _ends_like_an_image(key)

    def may_take(self, key: str) -> bool:
        """The same for a key that a listing tells as denied; of a folder (it ends in `/`), in doubt, yes."""
        return self._may_take_from(key) if key.endswith("/") else self.takes(key)

    def _may_take_from(self, folder: str) -> bool:
        if any(fnmatchcase(folder, pattern) for pattern in self.exclude):
            return False
        fixed = [re.split(r"[*?\[]", pattern, maxsplit=1)[0] for pattern in self.include]
        return not fixed or any(start.startswith(folder) or folder.startswith(start) for start in fixed)

    def _attributes_of(self, key: str) -> Attributes | None:
        if self.attributes is None:
            return None
        return self.attributes.get(self.id_prefix + key) or self.attributes.get(key)


def _included(key: str, pattern: str) -> bool:
    if not fnmatchcase(key, pattern):
        return False
    chosen_by_name = pattern == "**" or PurePosixPath(pattern).suffix != "" or not re.search(r"[*?\[]", pattern)
    return chosen_by_name or _ends_like_an_image(key)


def _ends_like_an_image(key: str) -> bool:
    return PurePosixPath(key).suffix.lower() in IMAGE_SUFFIXES
