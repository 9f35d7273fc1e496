"""A saved index survives crashes and full disks, and damage never loads."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from storage.errors import IndexFileError
from storage.index_files import (
    IndexContents,
    read_attachment,
    read_data,
    write_index_folder,
)
from storage.index_manifest import FileEntry, Manifest, manifest_bytes, read_manifest
from storage.mapped_vectors import LiveVectors
from storage.saved_vectors import HEADER, pack_vectors
from storage.vector_index import VectorIndex

ROOT = Path(__file__).parents[2]
DIMENSION = 4


def contents(text: str) -> IndexContents:
    return IndexContents(3, 2, None, {"data.bin": text.encode() * 100, "same.bin": b"same"}, {"note": text.encode()})


def loaded(folder: Path) -> str:
    """Which text was saved; every file is read, so anything missing or damaged raises."""
    manifest = read_manifest(folder)
    assert read_data(folder, manifest, "same.bin") == b"same"
    text = read_attachment(folder, "note").decode()
    assert read_data(folder, manifest, "data.bin") == text.encode() * 100
    return text


def saved_index(folder: Path, count: int = 5) -> VectorIndex:
    index = VectorIndex(DIMENSION)
    rows = np.random.default_rng(7).standard_normal((count, DIMENSION))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    index.add_many([f"i{number}" for number in range(count)], rows.astype(np.float32))
    index.save(folder)
    return index


def test_the_newest_save_is_loaded_and_only_the_one_before_is_kept(tmp_path: Path) -> None:
    for text in ("one", "two", "three"):
        write_index_folder(tmp_path, contents(text))
    assert loaded(tmp_path) == "three"
    assert len(list(tmp_path.iterdir())) == 2 + 2 * 2 + 1  # two manifests, two changed files each, one shared
    (tmp_path / "manifest.previous.json").replace(tmp_path / "manifest.json")
    assert loaded(tmp_path) == "two"


def test_files_of_others_and_leftovers_of_a_crash_are_told_apart(tmp_path: Path) -> None:
    kept = [tmp_path / name for name in ("notes.txt", "vsindex-mine.txt", f"{'a' * 64}-photo.jpg", "x.tmp")]
    leftovers = [tmp_path / f"vsindex-{'b' * 64}-vectors.faiss", tmp_path / "vsindex-0123456789abcdef.tmp"]
    for path in (*kept, *leftovers):
        path.write_text("x")
    write_index_folder(tmp_path, contents("one"))
    assert all(path.exists() for path in kept)
    assert not any(path.exists() for path in leftovers)


def test_a_manifest_of_another_program_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"name": "a web app"}')
    with pytest.raises(IndexFileError, match="not ours"):
        write_index_folder(tmp_path, contents("one"))
    assert list(tmp_path.iterdir()) == [tmp_path / "manifest.json"]


def test_saving_over_a_damaged_index_mends_it_and_keeps_the_good_one_before(tmp_path: Path) -> None:
    write_index_folder(tmp_path, contents("one"))
    write_index_folder(tmp_path, contents("two"))
    manifest = tmp_path / "manifest.json"
    manifest.write_text(manifest.read_text()[:-20])
    data = tmp_path / read_manifest(tmp_path, "manifest.previous.json").files["same.bin"].name
    data.write_bytes(b"damaged")
    write_index_folder(tmp_path, contents("three"))
    assert loaded(tmp_path) == "three"
    assert read_manifest(tmp_path, "manifest.previous.json").attachments["note"].sha256 == sha256(b"one")


def test_a_damaged_previous_manifest_does_not_stop_saving(tmp_path: Path) -> None:
    write_index_folder(tmp_path, contents("one"))
    (tmp_path / "manifest.previous.json").write_text("{")
    (tmp_path / "manifest.json").write_text('{"format": "visual-search index"')
    write_index_folder(tmp_path, contents("two"))
    assert loaded(tmp_path) == "two"


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "a\\b", "x" * 65])
def test_attachment_names_cannot_leave_the_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(IndexFileError, match="cannot name a file"):
        write_index_folder(tmp_path, IndexContents(3, 0, None, {}, {name: b""}))
    assert not list(tmp_path.iterdir())


def test_asking_for_what_was_not_saved_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(IndexFileError, match="no saved index"):
        read_manifest(tmp_path / "nowhere")
    write_index_folder(tmp_path, contents("one"))
    with pytest.raises(IndexFileError, match="no attachment 'other'"):
        read_attachment(tmp_path, "other")
    with pytest.raises(IndexFileError, match=r"no vectors\.faiss"):
        VectorIndex.load(tmp_path)


# --- crashes and disks ---

KILL_AT_EVERY_STEP = """
import os, sys
from pathlib import Path
from test_index_files import contents, loaded, write_index_folder

folder = Path(sys.argv[1])
write_index_folder(folder, contents("before"))
write_index_folder(folder, contents("old"))
real = {name: getattr(os, name) for name in ("fsync", "replace", "unlink")}
steps = 0

def dying(name, last_step):
    def call(*arguments):
        global steps
        for moment in ("before", "after"):
            if steps == last_step:
                os._exit(9)
            steps += 1
            if moment == "before":
                real[name](*arguments)
    return call

seen = []
for last_step in range(1000):
    child = os.fork()
    if child == 0:
        for name in real:
            setattr(os, name, dying(name, last_step))
        write_index_folder(folder, contents(f"new {last_step}"))
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    seen.append(loaded(folder))
    if status == 0:
        break
    assert status == 9, status
    assert seen[-1] in ("old", f"new {last_step}"), seen
    write_index_folder(folder, contents("old"))
print(len(seen), seen.count("old"), len(list(folder.iterdir())))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork to be killed at every step in reasonable time")
def test_a_save_killed_at_any_step_leaves_the_old_index_or_the_new_one(tmp_path: Path) -> None:
    """Each fsync, rename and unlink of a save kills the process once before and once after it."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(Path(__file__).parent)])}
    command = [sys.executable, "-c", KILL_AT_EVERY_STEP, str(tmp_path / "index")]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    steps, old, files = map(int, finished.stdout.split())
    assert steps > 20  # 5 files and 2 folders are synced, 5 files renamed, 2 deleted
    assert 15 < old < steps - 3
    assert files == 7  # nothing that a killed save left behind stays after a whole one


@pytest.mark.parametrize("name", ["fsync", "replace"])
@pytest.mark.parametrize("step", range(8))
def test_a_full_disk_at_any_step_is_a_clear_error_and_harms_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, step: int
) -> None:
    write_index_folder(tmp_path, contents("old"))
    real: Callable[..., None] = getattr(os, name)
    calls = 0

    def full(*arguments: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == step + 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(*arguments)

    monkeypatch.setattr(os, name, full)
    if step < {"fsync": 7, "replace": 5}[name]:  # so many there are
        with pytest.raises(IndexFileError, match="No space left"):
            write_index_folder(tmp_path, contents("new"))
    else:
        write_index_folder(tmp_path, contents("new"))
    monkeypatch.undo()
    assert loaded(tmp_path) in ("old", "new")
    assert not list(tmp_path.glob("*.tmp"))


def test_a_disk_that_refuses_the_bytes_leaves_the_old_index(tmp_path: Path) -> None:
    """A real refusal by the kernel: the process may not write files of more than 1,000 bytes."""
    resource = pytest.importorskip("resource", reason="file size limits are a POSIX feature")
    write_index_folder(tmp_path, contents("old"))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(IndexFileError, match="cannot save the index"):
            write_index_folder(tmp_path, contents("a long text " * 10))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert loaded(tmp_path) == "old"
    assert not list(tmp_path.glob("*.tmp"))


def test_a_file_where_the_folder_should_be_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(IndexFileError, match="cannot save"):
            write_index_folder(path, contents("one"))
        with pytest.raises(IndexFileError):
            VectorIndex.load(path)


# --- damage ---


def test_every_flipped_bit_cut_and_missing_file_is_refused(tmp_path: Path) -> None:
    saved_index(tmp_path / "good")
    names = sorted(path.name for path in (tmp_path / "good").iterdir())
    assert len(names) == 3
    rng = np.random.default_rng(11)
    for name in names:
        data = (tmp_path / "good" / name).read_bytes()
        flips = {0, len(data) - 2, *rng.integers(0, len(data), 25).tolist()}
        broken = [data[:at] + bytes([data[at] ^ 1 << int(rng.integers(0, 7))]) + data[at + 1 :] for at in flips]
        for content in (*broken, data[:-2], data[: len(data) // 2], b"", data + b"x", None):
            bad = tmp_path / "bad"
            shutil.copytree(tmp_path / "good", bad)
            (bad / name).unlink() if content is None else (bad / name).write_bytes(content)
            with pytest.raises(IndexFileError):
                VectorIndex.load(bad)
            shutil.rmtree(bad)


@pytest.mark.parametrize("field", ["dimension", "count", "model", "created_at"])
def test_an_edited_manifest_is_refused(tmp_path: Path, field: str) -> None:
    saved_index(tmp_path)
    path = tmp_path / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest[field] = {"dimension": 3, "count": 4, "model": {}, "created_at": "2020-01-01T00:00:00Z"}[field]
    path.write_text(json.dumps(manifest))
    with pytest.raises(IndexFileError, match="edited"):
        VectorIndex.load(tmp_path)


FOREIGN = {
    "an empty file": b"",
    "a list": b"[]",
    "another program's manifest": b'{"name": "app", "version": 1}',
    "no JSON": b"\x89PNG\r\n",
    "no UTF-8": b'"\xff\xfe\xff"',
    "very deep": b"[" * 100_000,
    "very long": b" " * 2_000_000,
    "a newer version": b'{"format": "visual-search index", "version": 2}',
    "no checksum": b'{"format": "visual-search index", "version": 1}',
    "deep within": b'{"format": "visual-search index", "version": 1, "x": ' + b"[" * 900 + b"]" * 900 + b"}",
}


@pytest.mark.parametrize("case", FOREIGN)
def test_a_foreign_manifest_is_refused(tmp_path: Path, case: str) -> None:
    (tmp_path / "manifest.json").write_bytes(FOREIGN[case])
    with pytest.raises(IndexFileError):
        VectorIndex.load(tmp_path)


def test_a_manifest_that_is_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").mkdir()
    with pytest.raises(IndexFileError):
        VectorIndex.load(tmp_path)
    with pytest.raises(IndexFileError):
        write_index_folder(tmp_path, contents("one"))


def test_a_manifest_with_a_valid_checksum_but_wrong_fields_is_refused(tmp_path: Path) -> None:
    manifest = write_index_folder(tmp_path, contents("one"))
    (tmp_path / "manifest.json").write_bytes(manifest_bytes(manifest.model_copy(update={"count": -1})))
    with pytest.raises(IndexFileError, match="not a usable manifest"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "manifest.json"])
def test_a_manifest_cannot_point_outside_its_own_data_files(tmp_path: Path, name: str) -> None:
    manifest = write_index_folder(tmp_path, contents("one"))
    entry = FileEntry(name=name, bytes=1, sha256="0" * 64)
    (tmp_path / "manifest.json").write_bytes(manifest_bytes(manifest.model_copy(update={"files": {"x": entry}})))
    with pytest.raises(IndexFileError, match="no data file"):
        read_manifest(tmp_path)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def forged(folder: Path, files: dict[str, bytes], *, count: int = 1, dimension: int = DIMENSION) -> Manifest:
    """A save whose checksums all fit, as a hostile or broken program would make it."""
    row = np.eye(1, DIMENSION, dtype=np.float32)
    good = pack_vectors(LiveVectors(DIMENSION, None, 0.0, ["a"], lambda start, stop: row[start:stop]), {}).files
    return write_index_folder(folder, IndexContents(dimension, count, None, {**good, **files}))


def flat_file(rows: int, columns: int, numbers: int, **other: Any) -> bytes:
    fields = {"kind": b"IxF2", "trained": 1, "metric": 1, "data": b"\0" * 4 * numbers, **other}
    header = HEADER.pack(fields["kind"], columns, rows, 0, 0, fields["trained"], fields["metric"], numbers)
    return header + fields["data"]


FORGED: dict[str, tuple[dict[str, bytes], int, str]] = {
    "ids that are no list": ({"ids.json": b'{"a": 1}'}, 1, "one id for each"),
    "too few ids": ({"ids.json": b"[]"}, 1, "one id for each"),
    "ids that are no strings": ({"ids.json": b"[7]"}, 1, "non-empty string"),
    "ids that are no JSON": ({"ids.json": b"["}, 1, "damaged"),
    "duplicate ids": ({"ids.json": b'["a", "a"]', "vectors.faiss": flat_file(2, 4, 8)}, 2, "twice"),
    "a wrong count": ({}, 2, "the manifest says 2 x 4"),
    "zero vectors": ({"vectors.faiss": flat_file(1, 4, 4)}, 1, "length 0"),
    "NaN": ({"vectors.faiss": flat_file(1, 4, 4, data=struct.pack("<4f", *[float("nan")] * 4))}, 1, "NaN"),
    "no FAISS file": ({"vectors.faiss": b"x" * 100}, 1, "no FAISS IndexFlatL2"),
    "a short file": ({"vectors.faiss": b"IxF2"}, 1, "too short"),
    "an inner product index": ({"vectors.faiss": flat_file(1, 4, 4, kind=b"IxFI")}, 1, "IndexFlatL2"),
    "another metric": ({"vectors.faiss": flat_file(1, 4, 4, metric=0)}, 1, "metric 0"),
    "another dimension": ({"vectors.faiss": flat_file(1, 5, 5)}, 1, "1 x 5"),
    "more numbers than rows": ({"vectors.faiss": flat_file(1, 4, 8)}, 1, "does not fit"),
    "fewer bytes than claimed": ({"vectors.faiss": flat_file(1, 4, 4, data=b"")}, 1, "does not fit"),
    "a size that would overflow": (
        {"vectors.faiss": flat_file(1 << 62, 4, 0)},
        1 << 62,
        "does not fit|lacks",
    ),
}


@pytest.mark.parametrize("case", FORGED)
def test_contents_that_do_not_fit_together_are_refused_although_every_checksum_fits(tmp_path: Path, case: str) -> None:
    files, count, message = FORGED[case]
    forged(tmp_path, files, count=count)
    with pytest.raises(IndexFileError, match=message):
        VectorIndex.load(tmp_path)


def test_what_is_forged_correctly_loads(tmp_path: Path) -> None:
    """Guards the test above: the refusals come from the one thing that each case changes."""
    forged(tmp_path, {})
    assert VectorIndex.load(tmp_path).ids() == ["a"]
