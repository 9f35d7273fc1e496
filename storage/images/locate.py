"""Finds the storage behind an address: a folder, a file:// address, s3://bucket/prefix or a picture on the web.

s3:// addresses are taken as the AWS command line takes them, nothing percent-encoded; file:// addresses are
percent-encoded. boto3 is loaded when the first s3:// address is opened. Reads no settings.
"""

from __future__ import annotations

from pathlib import Path
from threading import Lock

from storage.errors import InvalidKey, StorageError
from storage.images.allowed_sources import ANYWHERE, AllowedSources
from storage.images.backend import DEFAULT_MAX_IMAGE_BYTES, StorageBackend, StoredObject
from storage.images.file_uri import anchor_uri, path_of_file_uri
from storage.images.keys import key_of, name_of
from storage.images.local import LocalStorage
from storage.images.web import WebImages
from storage.images.web_address import is_web_address, web_address, without_user

_ADDRESSES = "give a folder, a file:// address or s3://bucket/prefix"


def open_source(address: str | Path, *, max_bytes: int = DEFAULT_MAX_IMAGE_BYTES) -> StorageBackend:
    """Open the store at an address; a folder must be there already. Raises StorageError with what to do."""
    text = str(address)
    scheme, separator, rest = text.partition("://")
    if isinstance(address, Path) or not separator:
        if not text:
            raise StorageError(f"the address is empty: {_ADDRESSES}")
        return LocalStorage(address, create=False, max_bytes=max_bytes)
    if scheme.lower() == "file":
        return LocalStorage(path_of_file_uri(text), create=False, max_bytes=max_bytes)
    if scheme.lower() == "s3":
        from storage.images.s3 import S3Storage  # boto3 takes 0.3 s and 40 MB

        bucket, _slash, prefix = rest.partition("/")
        if not bucket:
            raise StorageError(f"{text} names no bucket: {_ADDRESSES}")
        return S3Storage(bucket, prefix, max_bytes=max_bytes)
    if is_web_address(text):
        raise StorageError(
            f"{without_user(text)}: the web cannot be listed: {_ADDRESSES}, and name pictures on the web in a list"
        )
    raise StorageError(f"{text}: '{scheme}' is no known kind of storage: {_ADDRESSES}")


def split_uri(uri: str) -> tuple[str, str]:
    """Split an image's recorded address into its store's, for `open_source`, and the key in there.

    The store is the whole bucket or the root of the file system (on Windows a drive), whatever folder or
    prefix the image was listed from; of a picture on the web it is its site. Raises StorageError for other text,
    InvalidKey when no image is named.
    """
    scheme, separator, rest = uri.partition("://")
    if is_web_address(uri):
        address = web_address(uri)
        return f"{address.scheme}://{address.site}", address.target[1:]
    if separator and scheme.lower() == "file":
        path = Path(path_of_file_uri(uri))
        store, key = anchor_uri(path), "/".join(key_of(part) for part in path.parts[1:])
    elif separator and scheme.lower() == "s3":
        bucket, _slash, key = rest.partition("/")
        store = f"s3://{bucket}"
    else:
        raise StorageError(f"{uri!r} is no recorded address of an image: those begin with file://, s3:// or https://")
    if not key:
        raise InvalidKey(f"{uri!r} names no image")
    name_of(key)
    return store, key


class ImageReader:
    """Reads images by their recorded addresses, whatever store they are in. Any thread may use it.

    What lies outside of `allowed`, or has become a link that leads there, raises SourceNotAllowed.
    """

    def __init__(self, max_bytes: int = DEFAULT_MAX_IMAGE_BYTES, allowed: AllowedSources = ANYWHERE) -> None:
        self._max_bytes = max_bytes
        self._allowed = allowed
        self._web = WebImages(allowed.web, max_bytes)
        self._backends: dict[str, StorageBackend] = {}
        self._lock = Lock()

    def read(self, uri: str) -> bytes:
        """Read the original bytes. Raises the same errors as `StorageBackend.get`, HostUnavailable."""
        if is_web_address(uri):
            return self._web.get(uri)
        store, key = self._split(uri)
        return self._backend(store).get(key)

    def get(self, key: str) -> bytes:
        """The same as `read`: for those who read by key, the recorded address is the key."""
        return self.read(key)

    def stat(self, uri: str) -> StoredObject:
        """Describe one image without reading it. Raises the same errors as `StorageBackend.stat`, HostUnavailable."""
        if is_web_address(uri):
            return self._web.stat(uri)
        store, key = self._split(uri)
        return self._backend(store).stat(key)

    def _split(self, uri: str) -> tuple[str, str]:
        store, key = split_uri(uri)  # first: its errors say more
        self._allowed.check(uri)
        return store, key

    def _backend(self, store: str) -> StorageBackend:
        with self._lock:
            if store not in self._backends:
                self._backends[store] = open_source(store, max_bytes=self._max_bytes)
            return self._backends[store]
