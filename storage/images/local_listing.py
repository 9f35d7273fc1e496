"""Walks a folder in key order with flat memory, seeing only what may be read. Reads no file's content."""

import logging
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from storage.errors import LeftOut, StorageDenied, StorageUnavailable
from storage.images.backend import OnDenied
from storage.images.keys import key_of
from storage.images.local_files import as_storage_error, is_temporary

_log = logging.getLogger(__name__)


def walk(root: Path, prefix: str, on_denied: OnDenied | None = None) -> Iterator[tuple[str, os.stat_result]]:
    """Yield (key, stat) of every regular file under the root whose key starts with the prefix, sorted by key.

    Memory holds the names of one folder and of those above it. Links to files inside the root are followed;
    links to folders are not (their files are listed where they are, and a link may lead in a circle). Links
    that lead out, fifos, devices, sockets and broken links are told to `on_denied` as LeftOut, without it to the
    log; files that vanish meanwhile, to nobody. A folder that may not be read is told to `on_denied` too; without
    it StorageDenied is raised (never a listing with a silent hole). Raises StorageUnavailable when the root is gone.
    """
    pending = [(root, "", iter(_names_in(root, root)))]
    while pending:
        folder, folder_key, names = pending[-1]
        name = next(names, None)
        if name is None:
            pending.pop()
            continue
        key = folder_key + key_of(name)
        path = folder / name
        if name.endswith("/"):
            if key.startswith(prefix) or prefix.startswith(key):
                try:
                    pending.append((path, key, iter(_names_in(path, root))))
                except StorageDenied as error:
                    if on_denied is None:
                        raise
                    on_denied(key, error)
        elif key.startswith(prefix) and (info := _taken(path, key, root, on_denied)) is not None:
            yield key, info


def _taken(path: Path, key: str, root: Path, on_denied: OnDenied | None) -> os.stat_result | None:
    """The file's description, unless it is left out; then that is told."""
    try:
        return _regular_file(path, root)
    except LeftOut as error:
        if on_denied is None:
            _log.warning("%s", error)
        else:
            on_denied(key + "/" if os.path.isdir(path) else key, error)  # noqa: PTH112 - Path.is_dir may raise
        return None


def without_links(path: Path) -> Path:
    """Follow every link in a path. A circle of links is left as it stands."""
    return Path(os.path.realpath(path))


def _names_in(folder: Path, root: Path) -> list[str]:
    """Names of one folder in key order; a folder's name ends in `/`, because `a/b` sorts after `a-b`."""
    names = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if not entry.is_dir(follow_symlinks=False):
                    if not is_temporary(entry.name):
                        names.append(entry.name)
                elif _is_real_folder(entry.path):
                    names.append(entry.name + "/")
    except (FileNotFoundError, NotADirectoryError) as error:
        if folder == root:
            raise StorageUnavailable(f"the folder {root} is gone: is its disk mounted?") from error
        return []  # removed after its own folder was read
    except OSError as error:
        raise as_storage_error(error, folder) from error
    return sorted(names, key=key_of)


def _is_real_folder(path: str) -> bool:
    """A Windows junction calls itself a folder, but leads elsewhere: out, or in a circle."""
    if os.path.realpath(path) == path:
        return True
    _log.warning("left out %r: the folder is a link", path)
    return False


def _regular_file(path: Path, root: Path) -> os.stat_result | None:
    try:
        info = path.lstat()
        if stat.S_ISLNK(info.st_mode):
            real = without_links(path)
            if not real.is_relative_to(root):
                raise LeftOut(f"left out {path}: the link leads out of {root}; give {real} as a source of its own")
            info = real.lstat()
            if stat.S_ISDIR(info.st_mode):  # its files are listed where they are
                _log.warning("left out %r: a link to a folder", str(path))
                return None
    except (FileNotFoundError, NotADirectoryError):
        if path.is_symlink():
            raise LeftOut(f"left out {path}: the link leads to nothing") from None
        return None
    except OSError as error:
        raise as_storage_error(error, path) from error
    if not stat.S_ISREG(info.st_mode):
        raise LeftOut(f"left out {path}: a fifo, device, socket or a circle of links, no regular file")
    return info
