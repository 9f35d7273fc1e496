"""Images in a local folder: owns how keys become files, and keeps every key inside the root. Knows no S3."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from storage.errors import ImageNotFound, InvalidKey, StorageError, StorageUnavailable
from storage.images.backend import DEFAULT_MAX_IMAGE_BYTES, OnDenied, StoredObject
from storage.images.file_uri import file_uri, quote_relative
from storage.images.keys import name_prefix_of, segments_of
from storage.images.local_files import (
    as_storage_error,
    is_temporary,
    read_file,
    require_regular,
    require_size,
    write_atomically,
)
from storage.images.local_listing import walk, without_links

_WINDOWS = os.name == "nt"


class LocalStorage:
    """A folder as image storage: the key is the path below it, spelled as `storage.images.keys` says.

    Links are followed as long as they stay inside the root. The etag is made of size and modification time;
    the inode is left out, because it changes when a folder is copied, on some network drives at each mount.
    """

    def __init__(self, root_path: str | Path, *, create: bool = True, max_bytes: int = DEFAULT_MAX_IMAGE_BYTES) -> None:
        """Open the folder, or make it. Raises StorageError when there is none and `create` is false."""
        self._root = without_links(_at_home(Path(root_path)))
        self._max_bytes = max_bytes
        if create:
            _make_folder(self._root)
        if not _is_folder(self._root):
            raise StorageError(
                f"{self._root} is no folder: create it, or check the path and whether its disk is mounted"
            )
        self._root_uri = file_uri(self._root).removesuffix("/") + "/"

    @property
    def root(self) -> Path:
        """The folder, absolute and without links."""
        return self._root

    def put(self, key: str, data: bytes) -> StoredObject:
        """Store the bytes; a reader or a listing sees the old file or the new one, never a part."""
        require_size(len(data), self._max_bytes, f"the image for {key!r}")
        path = self._locate(key)
        if _is_folder(path):
            raise InvalidKey(f"{path} is a folder")
        _make_folder(path.parent)
        try:
            write_atomically(path, data)
            return self._stored(key, path.lstat())
        except OSError as error:
            raise self._error(error, path) from error

    def get(self, key: str) -> bytes:
        """Read the whole file; fifos, devices and sockets are refused without waiting for them."""
        path = without_links(self._locate(key))
        try:
            return read_file(path, self._max_bytes)
        except OSError as error:
            raise self._error(error, path) from error

    def stat(self, key: str) -> StoredObject:
        """Describe one file as `list` would. Raises ImageNotFound."""
        path = without_links(self._locate(key))
        try:
            info = path.lstat()
        except OSError as error:
            raise self._error(error, path) from error
        require_regular(info, path)
        return self._stored(key, info)

    def exists(self, key: str) -> bool:
        """Whether a regular file is there. Raises InvalidKey for a key that leads out of the root."""
        path = without_links(self._locate(key))
        try:
            return stat.S_ISREG(path.lstat().st_mode)
        except OSError as error:
            known = self._error(error, path)
            if isinstance(known, ImageNotFound):
                return False
            raise known from error

    def delete(self, key: str) -> None:
        """Remove the file; of a link, the link alone. Raises ImageNotFound."""
        self.stat(key)
        path = self._locate(key)
        try:
            path.unlink()
        except OSError as error:
            raise self._error(error, path) from error

    def remove_unfinished(self, folder: str, before: float) -> int:
        """Remove what is left of writes into this folder that were killed; return how many files that were.

        `before`: seconds since the epoch; whatever was touched since may be a write that is under way.
        """
        removed = 0
        try:
            for path in self._locate(folder).iterdir():
                if is_temporary(path.name) and path.lstat().st_mtime < before:
                    path.unlink(missing_ok=True)
                    removed += 1
        except FileNotFoundError:  # another process was quicker, or nothing was ever written
            return removed
        except OSError as error:
            raise self._error(error, self._root) from error
        return removed

    def list(self, prefix: str = "", *, on_denied: OnDenied | None = None) -> Iterator[StoredObject]:
        """Yield every file in key order; see `storage.images.local_listing` for what is left out."""
        name_prefix_of(prefix)  # refuses `../` and the like at the call, not at the first `next`
        return (self._stored(key, info) for key, info in walk(self._root, prefix, on_denied))

    def uri(self, key: str) -> str:
        """The file:// address of a key, percent-encoded; of `""`, the folder's own, ending in a slash."""
        if not key:
            return self._root_uri
        return self._root_uri + quote_relative("/".join(segments_of(key, windows=_WINDOWS)))

    def _locate(self, key: str) -> Path:
        """Give the path as the key spells it; raises InvalidKey unless it really is inside the root."""
        segments = segments_of(key, windows=_WINDOWS)
        if is_temporary(segments[-1]):
            raise InvalidKey(f"{key!r} is the name of an unfinished file")
        path = self._root.joinpath(*segments)
        if not without_links(path).is_relative_to(self._root):
            raise InvalidKey(f"{key!r} leads out of {self._root} by a link")
        return path

    def _stored(self, key: str, info: os.stat_result) -> StoredObject:
        return StoredObject(
            key=key,
            uri=self.uri(key),
            etag=f"{info.st_size:x}-{info.st_mtime_ns:x}",
            size_bytes=info.st_size,
            modified_at=info.st_mtime,
        )

    def _error(self, error: OSError, path: Path) -> StorageError:
        """Nothing is known of the files in a root that is gone: its disk may be unmounted."""
        if isinstance(error, FileNotFoundError) and not _is_folder(self._root):
            return StorageUnavailable(f"the folder {self._root} is gone: is its disk mounted?")
        return as_storage_error(error, path)


def _at_home(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError as error:  # `~nobody`, or a user without a home
        raise StorageError(f"{path}: {error}; give the folder's full path") from error


def _is_folder(path: Path) -> bool:
    return os.path.isdir(path)  # noqa: PTH112 - Path.is_dir raises PermissionError before Python 3.14


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise InvalidKey(f"{folder} cannot be made a folder: a file stands there") from error
    except OSError as error:
        raise as_storage_error(error, folder) from error
