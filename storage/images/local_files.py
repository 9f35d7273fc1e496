"""Reads and writes single regular files: capped, without blocking, all or nothing. Knows no keys, no root."""

import errno
import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path

from storage.errors import (
    ImageNotFound,
    ImageTooLarge,
    InvalidKey,
    StorageDenied,
    StorageError,
    StorageUnavailable,
)

_TEMPORARY_PREFIX, _TEMPORARY_SUFFIX = ".visual-search-", ".part"
_LEAST_READ_BYTES = 64 * 1024  # a file may hold more than its size says: /proc, or one that grows
_ETAG_STEP_NS = 1_000  # NTFS keeps times in steps of 100 ns, the usual Linux and macOS file systems of 1 ns
# Flags that only some systems know. O_NONBLOCK: opening a fifo must not wait for its writer.
_OPEN_FLAGS = sum(getattr(os, name, 0) for name in ("O_BINARY", "O_CLOEXEC", "O_NOFOLLOW", "O_NONBLOCK"))
_NAMES_THE_SYSTEM_REFUSES = {errno.ENAMETOOLONG, errno.EILSEQ, errno.ELOOP, errno.EINVAL}
_WINDOWS_FILE_IN_USE = {32, 33}  # ERROR_SHARING_VIOLATION, ERROR_LOCK_VIOLATION: a virus scanner, say


def is_temporary(name: str) -> bool:
    """Whether a file of this name is a write that is under way, or was when the machine stopped."""
    return name.startswith(_TEMPORARY_PREFIX) and name.endswith(_TEMPORARY_SUFFIX)


def require_regular(info: os.stat_result, path: Path) -> None:
    """Raise ImageNotFound for a folder or a broken link, StorageDenied for a fifo, device or socket."""
    if stat.S_ISDIR(info.st_mode) or stat.S_ISLNK(info.st_mode):
        raise ImageNotFound(f"{path} is a folder or a broken link, not a file")
    if not stat.S_ISREG(info.st_mode):
        raise StorageDenied(f"{path} is a fifo, device or socket; only regular files are read")


def require_size(size_bytes: int, max_bytes: int, subject: str) -> None:
    """Raise ImageTooLarge beyond the cap."""
    if size_bytes > max_bytes:
        raise ImageTooLarge(f"{subject} is larger than the cap of {max_bytes:,} bytes")


def read_file(path: Path, max_bytes: int) -> bytes:
    """Read a whole regular file. Raises ImageTooLarge by its size, or once reading passes the cap."""
    require_regular(path.lstat(), path)  # before opening: opening some devices does something already
    descriptor = os.open(path, os.O_RDONLY | _OPEN_FLAGS)
    try:
        info = os.fstat(descriptor)
        require_regular(info, path)
        require_size(info.st_size, max_bytes, str(path))
        return _read_all(descriptor, info.st_size, max_bytes, path)
    finally:
        os.close(descriptor)


def _read_all(descriptor: int, size_bytes: int, max_bytes: int, path: Path) -> bytes:
    # One byte more than the size, so that an ordinary file is one piece, which `join` hands on uncopied.
    step = max(size_bytes + 1, _LEAST_READ_BYTES)
    pieces: list[bytes] = []
    total = 0
    while piece := os.read(descriptor, min(step, max_bytes + 1 - total)):
        pieces.append(piece)
        total += len(piece)
        require_size(total, max_bytes, str(path))
    return b"".join(pieces)


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that its name holds the old bytes or all the new ones, also after a power cut.

    The modification time is later than that of a replaced file of equal size, so that the etag changes.
    """
    temporary = path.with_name(f"{_TEMPORARY_PREFIX}{secrets.token_hex(8)}{_TEMPORARY_SUFFIX}")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        _make_newer(temporary, path)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)


def _make_newer(temporary: Path, replaced: Path) -> None:
    """Two writes within one tick of the file system's clock (4 ms on older Linux) would share their time.

    Later than the replaced one, not only different: a third version must not get the time of the first.
    """
    with suppress(FileNotFoundError):
        old, new = replaced.stat(), temporary.stat()
        if old.st_size == new.st_size and old.st_mtime_ns >= new.st_mtime_ns:
            os.utime(temporary, ns=(new.st_atime_ns, old.st_mtime_ns + _ETAG_STEP_NS))


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # folders cannot be opened there; NTFS journals the rename
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def as_storage_error(error: OSError, path: Path) -> StorageError:
    """Translate what the operating system said about a path into our terms."""
    said = f"{path}: {error.strerror or error}"
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return ImageNotFound(said)
    if getattr(error, "winerror", None) in _WINDOWS_FILE_IN_USE:
        return StorageUnavailable(said)
    if isinstance(error, PermissionError):
        return StorageDenied(f"{said}; give this user permission, or leave this path out of the source")
    if error.errno in _NAMES_THE_SYSTEM_REFUSES:
        return InvalidKey(said)
    return StorageUnavailable(said)
