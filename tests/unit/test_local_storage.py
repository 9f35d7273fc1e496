from __future__ import annotations

import errno
import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from storage.errors import (
    ImageNotFound,
    ImageTooLarge,
    InvalidKey,
    StorageDenied,
    StorageError,
    StorageUnavailable,
)
from storage.images.local import LocalStorage
from storage.images.local_files import as_storage_error

VERBS = ["get", "stat", "exists", "delete", "put"]
posix_only = pytest.mark.skipif(os.name == "nt", reason="POSIX file types and permissions")
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="/proc, and file names of any bytes")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "photos"


@pytest.fixture
def storage(root: Path) -> LocalStorage:
    return LocalStorage(root)


def _call(storage: LocalStorage, verb: str, key: str) -> object:
    return storage.put(key, b"data") if verb == "put" else getattr(storage, verb)(key)


def _keys(storage: LocalStorage, prefix: str = "") -> list[str]:
    return [stored.key for stored in storage.list(prefix)]


# --- the root


def test_the_root_is_made_with_its_parents(tmp_path: Path) -> None:
    LocalStorage(tmp_path / "a" / "b").put("tom.jpg", b"tom")
    assert (tmp_path / "a" / "b" / "tom.jpg").read_bytes() == b"tom"


def test_without_create_a_missing_root_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"photos is no folder: create it, or check the path"):
        LocalStorage(tmp_path / "photos", create=False)
    assert not (tmp_path / "photos").exists()


@pytest.mark.parametrize("create", [True, False])
def test_a_file_is_no_root(tmp_path: Path, create: bool) -> None:
    (tmp_path / "file").write_bytes(b"")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(StorageError, match="file"):
            LocalStorage(path, create=create)


def test_a_relative_root_stays_where_it_was_when_the_process_moves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    storage = LocalStorage("photos")
    monkeypatch.chdir("/")
    storage.put("tom.jpg", b"tom")
    assert storage.root == tmp_path / "photos"
    assert (tmp_path / "photos" / "tom.jpg").exists()


def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert LocalStorage("~/photos").root == tmp_path / "photos"


@posix_only
def test_a_tilde_of_nobody_is_a_clear_error() -> None:
    with pytest.raises(StorageError, match="full path"):
        LocalStorage("~no-such-user-here/photos")


def test_a_root_that_is_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "photos").symlink_to("disk")
    storage = LocalStorage(tmp_path / "photos", create=False)
    storage.put("tom.jpg", b"tom")
    assert storage.root == tmp_path / "disk"
    assert _keys(storage) == ["tom.jpg"]


@pytest.mark.parametrize("verb", ["get", "stat", "exists", "delete"])
def test_a_root_that_went_away_is_not_an_empty_store(storage: LocalStorage, root: Path, verb: str) -> None:
    """Else an unmounted disk would look as if every photo had been deleted."""
    storage.put("tom.jpg", b"tom")
    root.rename(root.with_name("unmounted"))
    with pytest.raises(StorageUnavailable, match="mounted"):
        _call(storage, verb, "tom.jpg")
    with pytest.raises(StorageUnavailable, match="mounted"):
        _keys(storage)


# --- links


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    path = tmp_path / "outside"
    path.mkdir()
    (path / "secret.jpg").write_bytes(b"secret")
    return path


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("key", ["link.jpg", "folder/secret.jpg", "folder/new.jpg", "chain.jpg"])
def test_no_verb_follows_a_link_out_of_the_root(
    storage: LocalStorage, root: Path, outside: Path, verb: str, key: str
) -> None:
    (root / "link.jpg").symlink_to(outside / "secret.jpg")
    (root / "folder").symlink_to(outside)
    (root / "chain.jpg").symlink_to("link.jpg")
    with pytest.raises(InvalidKey, match="leads out of"):
        _call(storage, verb, key)
    assert [path.name for path in outside.iterdir()] == ["secret.jpg"]
    assert (outside / "secret.jpg").read_bytes() == b"secret"


def test_a_sibling_whose_name_begins_like_the_root_is_outside(storage: LocalStorage, root: Path) -> None:
    sibling = root.with_name("photos-private")
    sibling.mkdir()
    (sibling / "x.jpg").write_bytes(b"x")
    (root / "link.jpg").symlink_to(sibling / "x.jpg")
    with pytest.raises(InvalidKey):
        storage.get("link.jpg")


def test_a_listing_leaves_out_links_that_lead_out_and_logs_them(
    storage: LocalStorage, root: Path, outside: Path, caplog: pytest.LogCaptureFixture
) -> None:
    storage.put("tom.jpg", b"tom")
    (root / "link.jpg").symlink_to(outside / "secret.jpg")
    (root / "folder").symlink_to(outside)
    assert _keys(storage) == ["tom.jpg"]
    assert "link.jpg" in caplog.text
    assert "folder" in caplog.text


def test_a_link_inside_the_root_is_an_image_of_its_own(storage: LocalStorage, root: Path) -> None:
    storage.put("cats/tom.jpg", b"tom")
    (root / "best.jpg").symlink_to("cats/tom.jpg")
    assert _keys(storage) == ["best.jpg", "cats/tom.jpg"]
    assert storage.exists("best.jpg")
    assert storage.get("best.jpg") == b"tom"
    assert storage.stat("best.jpg").etag == storage.stat("cats/tom.jpg").etag
    storage.delete("best.jpg")
    assert _keys(storage) == ["cats/tom.jpg"]


def test_put_on_a_link_replaces_the_link_alone(storage: LocalStorage, root: Path) -> None:
    storage.put("cats/tom.jpg", b"tom")
    (root / "best.jpg").symlink_to("cats/tom.jpg")
    storage.put("best.jpg", b"best")
    assert storage.get("cats/tom.jpg") == b"tom"
    assert storage.get("best.jpg") == b"best"


def test_linked_folders_inside_the_root_are_readable_and_listed_once(storage: LocalStorage, root: Path) -> None:
    storage.put("cats/tom.jpg", b"tom")
    (root / "kittens").symlink_to("cats")
    (root / "cats" / "circle").symlink_to("..")
    assert storage.get("kittens/tom.jpg") == b"tom"
    assert storage.get("cats/circle/cats/tom.jpg") == b"tom"
    assert _keys(storage) == ["cats/tom.jpg"]


def test_links_that_lead_nowhere_or_in_a_circle_are_no_images(storage: LocalStorage, root: Path) -> None:
    (root / "broken.jpg").symlink_to("absent.jpg")
    (root / "circle.jpg").symlink_to("circle.jpg")
    for key in ("broken.jpg", "circle.jpg"):
        assert not storage.exists(key)
        with pytest.raises(ImageNotFound):
            storage.get(key)
    assert _keys(storage) == []


def test_a_folder_that_is_a_link_in_disguise_is_left_out(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As Windows junctions are: they call themselves folders, and only their real path tells."""
    storage.put("junction/tom.jpg", b"tom")
    real = os.path.realpath
    monkeypatch.setattr(os.path, "realpath", lambda path: real(str(path).replace("junction", "elsewhere")))
    assert _keys(storage) == []
    assert "junction" in caplog.text


# --- only regular files


@posix_only
@pytest.mark.parametrize("kind", ["fifo", "socket"])
def test_special_files_are_refused_without_waiting(
    storage: LocalStorage, root: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)  # a socket's path is at most 108 bytes long
    if kind == "fifo":
        os.mkfifo("odd.jpg")
    else:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind("odd.jpg")
    for verb in ("get", "stat", "delete"):
        with pytest.raises(StorageDenied, match="only regular files"):
            _call(storage, verb, "odd.jpg")
    assert not storage.exists("odd.jpg")
    assert _keys(storage) == []


@posix_only
def test_a_fifo_that_takes_a_files_place_at_the_last_moment_does_not_block(
    storage: LocalStorage, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.put("odd.jpg", b"tom")
    really_open = os.open

    def swapped(path: Path, flags: int) -> int:
        path.unlink()
        os.mkfifo(path)
        return really_open(path, flags)

    monkeypatch.setattr(os, "open", swapped)
    with pytest.raises(StorageDenied, match="only regular files"):
        storage.get("odd.jpg")


# --- the cap on bytes


def test_a_file_beyond_the_cap_is_refused_by_its_size(root: Path) -> None:
    LocalStorage(root).put("big.jpg", bytes(101))
    with pytest.raises(ImageTooLarge, match="cap of 100 bytes"):
        LocalStorage(root, max_bytes=100).get("big.jpg")


def test_a_file_that_grows_while_it_is_read_is_stopped_at_the_cap(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = LocalStorage(root, max_bytes=200_000)
    storage.put("log.jpg", bytes(1_000))
    really_read, read_bytes = os.read, []

    def growing(descriptor: int, count: int) -> bytes:
        with (root / "log.jpg").open("ab") as file:
            file.write(bytes(100_000))
        data = really_read(descriptor, count)
        read_bytes.append(len(data))
        return data

    monkeypatch.setattr(os, "read", growing)
    with pytest.raises(ImageTooLarge):
        storage.get("log.jpg")
    assert sum(read_bytes) == 200_001


@linux_only
def test_a_file_that_says_it_is_empty_is_read_to_its_end() -> None:
    """Files in /proc have size 0 and content."""
    assert LocalStorage("/proc/self", create=False).get("status").startswith(b"Name:")
    with pytest.raises(ImageTooLarge):
        LocalStorage("/proc/self", create=False, max_bytes=10).get("status")


# --- writing


def test_readers_and_listings_never_see_a_part_of_a_write(storage: LocalStorage) -> None:
    versions = {bytes([value]) * (100_000 + value) for value in range(4)}
    storage.put("tom.jpg", min(versions))

    def write() -> None:
        for _round in range(15):
            for version in versions:
                storage.put("tom.jpg", version)

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write)
        while not writing.done():
            assert storage.get("tom.jpg") in versions
            (listed,) = storage.list()
            assert listed.size_bytes in {len(version) for version in versions}
        writing.result()


def test_a_write_that_fails_leaves_the_old_image_and_nothing_else(
    storage: LocalStorage, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.put("tom.jpg", b"old")

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageUnavailable, match="No space left"):
        storage.put("tom.jpg", b"new")
    assert storage.get("tom.jpg") == b"old"
    assert [path.name for path in root.iterdir()] == ["tom.jpg"]


def test_what_a_killed_write_left_is_no_image(storage: LocalStorage, root: Path) -> None:
    (root / ".visual-search-0123456789abcdef.part").write_bytes(b"half an ima")
    assert _keys(storage) == []
    for verb in VERBS:
        with pytest.raises(InvalidKey, match="unfinished"):
            _call(storage, verb, ".visual-search-0123456789abcdef.part")


def test_ordinary_hidden_files_are_images(storage: LocalStorage) -> None:
    storage.put(".hidden/.tom.jpg", b"tom")
    assert _keys(storage) == [".hidden/.tom.jpg"]


def test_put_refuses_a_folders_name_and_a_file_as_folder(storage: LocalStorage) -> None:
    storage.put("cats/tom.jpg", b"tom")
    with pytest.raises(InvalidKey, match="is a folder"):
        storage.put("cats", b"")
    with pytest.raises(InvalidKey, match="a file stands there"):
        storage.put("cats/tom.jpg/inside.jpg", b"")
    with pytest.raises(InvalidKey, match="a file stands there"):
        storage.put("cats/tom.jpg/deeper/inside.jpg", b"")


def test_a_name_too_long_for_the_file_system_is_no_valid_key(storage: LocalStorage) -> None:
    for verb in VERBS:
        with pytest.raises(InvalidKey):
            _call(storage, verb, "n" * 300)


@posix_only
def test_the_users_umask_decides_who_may_read_a_stored_image(storage: LocalStorage, root: Path) -> None:
    before = os.umask(0o027)
    try:
        storage.put("tom.jpg", b"tom")
    finally:
        os.umask(before)
    assert stat.S_IMODE((root / "tom.jpg").stat().st_mode) == 0o640


@posix_only
def test_versions_of_equal_size_written_within_one_tick_of_the_clock_have_different_etags(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here the clock stands still, for three versions: the third must not look like the first either."""
    really_sync = os.fsync

    def sync_and_stop_the_clock(descriptor: int) -> None:
        really_sync(descriptor)
        os.utime(descriptor, ns=(10**18, 10**18))

    monkeypatch.setattr(os, "fsync", sync_and_stop_the_clock)
    etags = [storage.put("tom.jpg", version).etag for version in (b"one", b"two", b"six")]
    assert len(set(etags)) == 3
    assert storage.stat("tom.jpg").etag == etags[-1]


# --- listing


def test_files_and_folders_that_vanish_while_listing_are_left_out(storage: LocalStorage, root: Path) -> None:
    for key in ("a.jpg", "b.jpg", "c/d.jpg", "e.jpg"):
        storage.put(key, b"")
    listing = storage.list()
    assert next(listing).key == "a.jpg"
    storage.delete("b.jpg")
    shutil.rmtree(root / "c")
    assert [stored.key for stored in listing] == ["e.jpg"]


def test_a_folder_replaced_by_a_file_while_listing_is_left_out(storage: LocalStorage, root: Path) -> None:
    for key in ("a.jpg", "c/d.jpg"):
        storage.put(key, b"")
    listing = storage.list()
    next(listing)
    shutil.rmtree(root / "c")
    (root / "c").write_bytes(b"")
    assert list(listing) == []


def test_a_tree_deeper_than_the_recursion_limit_is_listed(storage: LocalStorage) -> None:
    key = "d/" * 200 + "tom.jpg"
    storage.put(key, b"")
    limit, depth = sys.getrecursionlimit(), 0
    frame = sys._getframe()
    while frame := frame.f_back:
        depth += 1
    sys.setrecursionlimit(depth + 100)
    try:
        keys = _keys(storage)
    finally:
        sys.setrecursionlimit(limit)
    assert keys == [key]


@linux_only
def test_names_that_are_no_text_are_listed_read_and_deleted_under_an_escaped_key(
    storage: LocalStorage, root: Path
) -> None:
    for name in (b"latin1-\xe4.jpg", b"line\nbreak.jpg", b"back\\slash.jpg", b"del\x7f.jpg"):
        Path(os.fsdecode(os.fsencode(root) + b"/" + name)).write_bytes(name)
    listed = {stored.key: storage.get(stored.key) for stored in storage.list()}
    assert listed == {
        r"back\x5cslash.jpg": b"back\\slash.jpg",
        r"del\x7f.jpg": b"del\x7f.jpg",
        r"latin1-\udce4.jpg": b"latin1-\xe4.jpg",
        r"line\x0abreak.jpg": b"line\nbreak.jpg",
    }
    for key in listed:
        storage.delete(key)
    assert list(root.iterdir()) == []


@linux_only
def test_a_name_that_only_looks_escaped_is_another_file(storage: LocalStorage, root: Path) -> None:
    (root / "a\nb").write_bytes(b"line break")
    (root / r"a\x0ab").write_bytes(b"backslash")
    assert _keys(storage) == [r"a\x0ab", r"a\x5cx0ab"]
    assert storage.get(r"a\x0ab") == b"line break"
    assert storage.get(r"a\x5cx0ab") == b"backslash"


# --- permissions


@contextmanager
def _as_ordinary_user() -> Iterator[None]:
    """Root may read everything, so it becomes nobody for a while."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def open_root() -> Iterator[Path]:
    """A folder that any user may read, which pytest's own are not."""
    path = Path(tempfile.mkdtemp())
    path.chmod(0o755)
    yield path
    for folder, _folders, _files in os.walk(path):
        Path(folder).chmod(0o755)
    shutil.rmtree(path)


@posix_only
def test_a_folder_without_permission_stops_the_listing_and_says_which(open_root: Path) -> None:
    """A listing with a silent hole would look complete."""
    storage = LocalStorage(open_root)
    storage.put("a.jpg", b"")
    storage.put("locked/b.jpg", b"")
    (open_root / "locked").chmod(0)
    with _as_ordinary_user():
        listing = storage.list()
        assert next(listing).key == "a.jpg"
        with pytest.raises(StorageDenied, match=r"locked: Permission denied; give this user permission"):
            next(listing)
        assert _keys(storage, "a") == ["a.jpg"]
        for verb in VERBS:
            with pytest.raises(StorageDenied):
                _call(storage, verb, "locked/b.jpg")
        with pytest.raises(StorageError):
            LocalStorage(open_root / "locked" / "deeper", create=False)
        with pytest.raises(StorageDenied):
            LocalStorage(open_root / "locked" / "deeper")


@posix_only
def test_a_folder_whose_files_may_not_be_seen_stops_the_listing(open_root: Path) -> None:
    storage = LocalStorage(open_root)
    storage.put("names-only/b.jpg", b"")
    (open_root / "names-only").chmod(0o444)
    with _as_ordinary_user(), pytest.raises(StorageDenied, match="names-only"):
        _keys(storage)


@posix_only
def test_a_file_without_permission_is_listed_and_fails_when_read(open_root: Path) -> None:
    storage = LocalStorage(open_root)
    storage.put("locked.jpg", b"")
    (open_root / "locked.jpg").chmod(0)
    open_root.chmod(0o555)
    with _as_ordinary_user():
        assert _keys(storage) == ["locked.jpg"]
        assert storage.exists("locked.jpg")
        for verb in ("get", "put", "delete"):
            with pytest.raises(StorageDenied, match="Permission denied"):
                _call(storage, verb, "locked.jpg")


# --- the rest


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (errno.EIO, StorageUnavailable),
        (errno.ESTALE, StorageUnavailable),
        (errno.EMFILE, StorageUnavailable),
        (errno.EACCES, StorageDenied),
        (errno.ENOENT, ImageNotFound),
        (errno.ENOTDIR, ImageNotFound),
        (errno.EILSEQ, InvalidKey),
        (errno.ELOOP, InvalidKey),
    ],
)
def test_what_the_system_says_is_translated(number: int, expected: type[StorageError]) -> None:
    error = as_storage_error(OSError(number, os.strerror(number)), Path("tom.jpg"))
    assert type(error) is expected
    assert os.strerror(number) in str(error)


def test_a_file_that_another_program_holds_on_windows_can_be_tried_again() -> None:
    error = PermissionError(errno.EACCES, "The process cannot access the file")
    error.winerror = 32  # type: ignore[attr-defined]
    assert as_storage_error(error, Path("tom.jpg")).retryable


def test_local_storage_and_addresses_load_no_boto3() -> None:
    program = (
        "import sys, storage.images.local, storage.images.locate;"
        "sys.exit(any(name.split('.')[0] in ('boto3', 'botocore') for name in sys.modules))"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
