"""Files of a snapshot: mapped without being changed, hashed once, and refused with a clear error when damaged."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pytest

from storage.errors import IndexFileError, StorageDenied
from storage.images.local import LocalStorage
from storage.index_manifest import FileEntry, Manifest
from storage.snapshot_files import SnapshotFiles
from storage.vector_index import VectorIndex

DIMENSION = 6
COUNT = 50
PART_BYTES = 4 * DIMENSION * 20  # three parts of rows


@pytest.fixture
def index() -> VectorIndex:
    rows = np.random.default_rng(3).standard_normal((COUNT, DIMENSION))
    made = VectorIndex(DIMENSION)
    made.add_many([f"i{n}" for n in range(COUNT)], (rows / np.linalg.norm(rows, axis=1)[:, None]).astype(np.float32))
    return made


@pytest.fixture
def files(tmp_path: Path) -> SnapshotFiles:
    return SnapshotFiles(LocalStorage(tmp_path), "shot-")


def written(files: SnapshotFiles, index: VectorIndex) -> Manifest:
    with index.reading() as live:
        return Manifest(
            dimension=DIMENSION,
            count=len(index),
            model=None,
            files=files.write_vectors(live, PART_BYTES),
            created_at=datetime.now(timezone.utc),
        )


def holds(index: VectorIndex) -> dict[str, bytes]:
    return {image_id: index.reconstruct(image_id).tobytes() for image_id in index.ids()}


def file_of(folder: Path, name: str) -> Path:
    [path] = folder.glob(f"shot-*-{name}")
    return path


def flip(path: Path) -> None:
    """Change one bit in place, without a new file."""
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        [byte] = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))


def test_what_is_changed_in_a_mapped_index_reaches_neither_the_files_nor_another_one(
    files: SnapshotFiles, index: VectorIndex
) -> None:
    manifest = written(files, index)
    first, second = (VectorIndex.mapped(files.open_vectors(manifest)) for _ in range(2))
    first.remove_many([f"i{n}" for n in range(0, COUNT, 2)])
    first.upsert_many(["i1", "new"], index.reconstruct_many(["i8", "i9"]))
    assert holds(second) == holds(index)
    assert holds(VectorIndex.mapped(files.open_vectors(manifest))) == holds(index)
    kept = {name: vector for name, vector in holds(index).items() if int(name[1:]) % 2}
    changed = {"i1": index.reconstruct("i8").tobytes(), "new": index.reconstruct("i9").tobytes()}
    assert holds(first) == kept | changed


def test_a_mapped_index_goes_on_when_its_files_are_removed(
    files: SnapshotFiles, index: VectorIndex, tmp_path: Path
) -> None:
    mapped = VectorIndex.mapped(files.open_vectors(written(files, index)))
    shutil.rmtree(tmp_path)
    assert holds(mapped) == holds(index)


def test_files_are_hashed_once_and_then_known(files: SnapshotFiles, index: VectorIndex, tmp_path: Path) -> None:
    manifest = written(files, index)
    assert not (tmp_path / "shot-checked.json").exists()
    files.open_vectors(manifest)
    assert (tmp_path / "shot-checked.json").exists()
    flip(file_of(tmp_path, "rows.000001"))
    files.remember_checked(files.marks(manifest))  # as if it had not been found out
    files.open_vectors(manifest)


def test_a_known_file_that_was_written_since_is_hashed_again_also_with_its_old_time(
    files: SnapshotFiles, index: VectorIndex, tmp_path: Path
) -> None:
    manifest = written(files, index)
    files.open_vectors(manifest)
    path = file_of(tmp_path, "rows.000001")
    before = path.stat()
    flip(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(IndexFileError, match="damaged"):
        files.open_vectors(manifest)


@pytest.mark.parametrize("content", [b"", b"[", b"7", b"[" * 100_000, b"\xff", b"{}"])
def test_what_is_remembered_in_no_known_form_counts_for_nothing(
    files: SnapshotFiles, index: VectorIndex, tmp_path: Path, content: bytes
) -> None:
    manifest = written(files, index)
    (tmp_path / "shot-checked.json").write_bytes(content)
    assert len(VectorIndex.mapped(files.open_vectors(manifest))) == COUNT
    flip(file_of(tmp_path, "ids.000000"))
    (tmp_path / "shot-checked.json").write_bytes(content)
    with pytest.raises(IndexFileError, match="damaged"):
        files.open_vectors(manifest)


def test_a_folder_that_may_only_be_read_is_hashed_each_time(index: VectorIndex, tmp_path: Path) -> None:
    class ReadOnly(LocalStorage):
        def put(self, key: str, data: bytes):
            raise StorageDenied(f"{key} of {len(data)} bytes: read-only file system")

    manifest = written(SnapshotFiles(LocalStorage(tmp_path), "shot-"), index)
    files = SnapshotFiles(ReadOnly(tmp_path), "shot-")
    for _ in range(2):
        assert holds(VectorIndex.mapped(files.open_vectors(manifest))) == holds(index)
    assert not (tmp_path / "shot-checked.json").exists()


def grow(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"x")


def shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def be_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def be_a_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


DAMAGE: list[Callable[[Path], None]] = [flip, grow, shorten, Path.unlink, be_a_folder, be_a_fifo]


@pytest.mark.parametrize("name", ["rows.000000", "rows.000002", "ids.000000", "shape.json"])
@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("known", [False, True])
def test_every_damage_is_a_clear_error(
    files: SnapshotFiles, index: VectorIndex, tmp_path: Path, *, name: str, damage: Callable[[Path], None], known: bool
) -> None:
    if damage is be_a_fifo and not hasattr(os, "mkfifo"):
        pytest.skip("no fifos on this system")
    manifest = written(files, index)
    if known:
        files.remember_checked(files.marks(manifest))
    damage(file_of(tmp_path, name))
    with pytest.raises(IndexFileError, match="damaged"):
        files.open_vectors(manifest)


FOREIGN: dict[str, tuple[dict[str, object], str]] = {
    "another dimension": ({"dimension": 5}, "no whole rows|vectors"),
    "a dimension whose rows fit": ({"dimension": 3}, "100 vectors, 50 ids"),
    "fewer vectors": ({"count": 49}, "its manifest says 49"),
    "more vectors than there can be": ({"count": 1 << 62}, "its manifest says"),
    "no files": ({"files": {}}, "another program"),
}


@pytest.mark.parametrize("case", FOREIGN)
@pytest.mark.parametrize("known", [False, True])
def test_a_manifest_of_another_shape_is_refused(
    files: SnapshotFiles, index: VectorIndex, case: str, known: bool
) -> None:
    update, message = FOREIGN[case]
    manifest = written(files, index).model_copy(update=update)
    if known:
        files.remember_checked(files.marks(manifest))
    with pytest.raises(IndexFileError, match=message):
        files.open_vectors(manifest)


@pytest.mark.parametrize("shape", ["{}", "[]", "x", '{"deviation": 1}', '{"deviation": -1}', '{"deviation": NaN}'])
def test_a_shape_that_cannot_be_is_refused(files: SnapshotFiles, index: VectorIndex, shape: str) -> None:
    manifest = written(files, index)
    entry: FileEntry = files._write_data("shape.json", shape.encode())
    forged = manifest.model_copy(update={"files": {**manifest.files, "shape.json": entry}})
    with pytest.raises(IndexFileError, match=r"shape\.json is not usable"):
        files.open_vectors(forged)
