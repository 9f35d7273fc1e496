"""The seam of image storage: six verbs over keys. Knows no implementation and never decodes an image."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from storage.errors import StorageDenied

DEFAULT_MAX_IMAGE_BYTES = 100 * 1024 * 1024  # a 100-megapixel camera JPEG is about 60 MB


@dataclass(frozen=True)
class StoredObject:
    """One stored object; `etag` changes when the content may have; `modified_at` is seconds since 1970."""

    key: str
    uri: str
    etag: str
    size_bytes: int
    modified_at: float


# Called with the key and the error of what a listing cannot take: a folder that may not be read (its key ends in
# `/`), or, as `LeftOut`, a link that leads out or to nothing and what is no regular file. The listing then goes on.
OnDenied = Callable[[str, StorageDenied], None]


class StorageBackend(Protocol):
    """Bytes under keys. Keys are relative POSIX paths (`cats/tom.jpg`); every error is a `StorageError`."""

    def put(self, key: str, data: bytes) -> StoredObject:
        """Store the bytes under the key, all or nothing, replacing what was there."""
        ...

    def get(self, key: str) -> bytes:
        """Read all bytes. Raises ImageNotFound; ImageTooLarge as soon as the cap is passed while reading."""
        ...

    def stat(self, key: str) -> StoredObject:
        """Describe one object as `list` would, without reading it. Raises ImageNotFound."""
        ...

    def exists(self, key: str) -> bool:
        """Whether a readable image is stored under the key."""
        ...

    def delete(self, key: str) -> None:
        """Remove the key. Raises ImageNotFound when nothing is there."""
        ...

    def list(self, prefix: str = "", *, on_denied: OnDenied | None = None) -> Iterator[StoredObject]:
        """Yield every object whose key starts with the prefix, in key order, with flat memory."""
        ...

    def uri(self, key: str) -> str:
        """The address under which the key is recorded, e.g. file:///photos/tom.jpg or s3://bucket/tom.jpg.

        Every such address starts with `uri("")`, the address of the store itself, which ends in a slash.
        """
        ...
