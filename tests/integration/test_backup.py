"""Backup and restore by the command line: everything wiped, put back, audited, and searched as before."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from databases import PASSWORD, USER
from pictures import jpeg, write_photos
from servers import ROOT, environment_of

from pipeline.indexing.selection import SourceSelection
from storage.backup import check_backup, make_backup, restore_backup
from storage.catalog import catalog_of
from storage.errors import BackupError
from storage.settings import Settings
from visual_search import ImageCollection
from visual_search.collection import Query


def _command(settings, *arguments, expected=0):
    done = subprocess.run(
        [sys.executable, "-m", "visual_search", *map(str, arguments)],
        cwd=ROOT, env=environment_of(settings), capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == expected, done.stdout + done.stderr
    return done.stdout if expected == 0 else done.stderr


@pytest.fixture
def settings(tmp_path):
    return Settings(data_dir=tmp_path / "home", model="baseline")


@pytest.fixture
def filled(settings, tmp_path):
    """A folder of one's own and some uploads, indexed; one picture fails, one is deleted."""
    keys = write_photos(tmp_path / "photos", 8)
    (tmp_path / "photos" / "broken.jpg").write_bytes(jpeg(99)[:300])
    write_photos(settings.data_dir / "uploads" / "default", 4, first_seed=50)
    with ImageCollection(settings=settings) as collection:
        assert collection.index(tmp_path / "photos").failed == 1
        collection.index(settings.data_dir / "uploads" / "default", SourceSelection(id_prefix="up/"))
        collection.delete_images([keys[-1]])
    return keys


def _answers(settings, keys):
    with ImageCollection(settings=settings, create=False) as collection:
        return [collection.search(Query(image_id=key)).results for key in keys]


def test_after_wiping_everything_the_backup_brings_all_back(settings, filled, tmp_path):
    before = _answers(settings, filled[:2])
    made = json.loads(_command(settings, "backup", "create", tmp_path / "backup", "--json"))
    assert made["files"] == 5, "the catalog and four uploads"
    shutil.rmtree(settings.data_dir)

    assert "undamaged" in _command(settings, "backup", "check", tmp_path / "backup")
    _command(settings, "backup", "restore", tmp_path / "backup")
    assert _answers(settings, filled[:2]) == before
    _command(settings, "audit", tmp_path / "photos")  # clean, with a broken and a deleted one
    _command(settings, "audit", settings.data_dir / "uploads" / "default", "--id-prefix", "up/")
    assert "broken.jpg" in _command(settings, "failures", "list")


def test_restored_elsewhere_the_uploads_are_found_there(settings, filled, tmp_path):
    _command(settings, "backup", "create", tmp_path / "backup")
    shutil.rmtree(settings.data_dir)
    elsewhere = settings.model_copy(update={"data_dir": tmp_path / "other home"})
    _command(elsewhere, "backup", "restore", tmp_path / "backup")
    _command(elsewhere, "audit", elsewhere.data_dir / "uploads" / "default", "--id-prefix", "up/")
    with catalog_of(elsewhere) as catalog:
        uris = {one.source_uri for one in catalog.images.list(catalog.collections.get("default").id)}
    assert sum("/other%20home/uploads/" in uri for uri in uris) == 4
    assert not any(settings.data_dir.as_uri() in uri for uri in uris)


def test_uploads_that_are_kept_elsewhere_are_said_to_be_left_out(settings, filled, tmp_path):
    del filled
    elsewhere = settings.model_copy(update={"uploads_address": str(tmp_path / "uploads")})
    elsewhere.model_fields_set.add("uploads_address")
    done = subprocess.run(
        [sys.executable, "-m", "visual_search", "backup", "create", str(tmp_path / "backup")],
        cwd=ROOT, env=environment_of(elsewhere), capture_output=True, text=True, timeout=300, check=True,
    )  # fmt: skip
    assert f"not in it: the uploads in {tmp_path / 'uploads'}" in done.stderr
    assert len(check_backup(tmp_path / "backup").files) == 5, "those from before the address was set are"


def test_what_is_there_is_never_overwritten(settings, filled, tmp_path):
    del filled
    _command(settings, "backup", "create", tmp_path / "backup")
    assert "not empty" in _command(settings, "backup", "create", tmp_path / "backup", expected=1)
    assert "nothing is overwritten" in _command(settings, "backup", "restore", tmp_path / "backup", expected=1)


def test_every_damage_is_seen_before_anything_is_restored(settings, filled, tmp_path):
    del filled
    backup = tmp_path / "backup"
    make_backup(settings, backup)
    fresh = Settings(data_dir=tmp_path / "fresh", model="baseline")
    for path in sorted(path for path in backup.rglob("*") if path.is_file()):
        whole = path.read_bytes()
        damaged = bytearray(whole)
        damaged[len(damaged) // 2] ^= 0x10
        for content in (bytes(damaged), whole[:-1], None):
            path.unlink() if content is None else path.write_bytes(content)
            with pytest.raises(BackupError):
                restore_backup(backup, fresh)
            assert not fresh.data_dir.exists()
            path.write_bytes(whole)
    assert len(check_backup(backup).files) == 5


def test_a_manifest_cannot_lead_out_of_the_backup(settings, filled, tmp_path):
    del filled
    backup = tmp_path / "backup"
    make_backup(settings, backup)
    manifest = backup / "manifest.json"
    for name in ("../../stolen", "uploads/../../stolen", "/etc/passwd", "visual-search.toml"):
        changed = json.loads(manifest.read_text())
        changed["files"][1]["name"] = name
        (tmp_path / "changed").mkdir(exist_ok=True)
        shutil.copytree(backup, tmp_path / "changed", dirs_exist_ok=True)
        (tmp_path / "changed" / "manifest.json").write_text(json.dumps(changed))
        with pytest.raises(BackupError, match="no backup of ours"):
            restore_backup(tmp_path / "changed", Settings(data_dir=tmp_path / "fresh"))


def test_a_folder_without_a_manifest_is_no_backup(settings, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(BackupError, match="no finished backup"):
        check_backup(tmp_path / "empty")
    with pytest.raises(BackupError, match="nothing to back up"):
        make_backup(settings, tmp_path / "backup")


def test_it_is_one_moment_while_others_write(settings, filled, tmp_path):
    """A writer that never pauses neither stops the backup nor comes into it by halves."""
    del filled
    writer = subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(settings.catalog_path)], cwd=ROOT, stdout=subprocess.PIPE
    )
    try:
        assert writer.stdout.readline()
        make_backup(settings, tmp_path / "backup")
        assert writer.poll() is None, "it wrote to the end"
    finally:
        writer.kill()
        writer.wait()
        writer.stdout.close()
    restored = Settings(data_dir=tmp_path / "restored", model="baseline")
    restore_backup(tmp_path / "backup", restored)
    with catalog_of(restored) as catalog:
        for collection in catalog.collections.list():
            generation = catalog.generations.active(collection.id)
            pages = list(catalog.feed.changes(generation.id, 0))
            assert (pages[-1].last_seq if pages else 0) == generation.last_seq


_WRITER = """
import sys
import numpy as np
from pathlib import Path
from storage.catalog import Catalog, IndexBatch, IndexedImage
from storage.records import ImageMetadata, ModelIdentity

catalog = Catalog.open(Path(sys.argv[1]))
collection = catalog.collections.get("default")
generation = catalog.generations.active(collection.id)
vector = np.zeros(generation.model.dimension, np.float32)
vector[0] = 1
number = 0
while True:
    images = [
        IndexedImage(ImageMetadata(image_id=f"w/{number}-{n}", source_uri="file:///w", sha256="", width=1, height=1,
                                   format="JPEG", bytes=1), vector)
        for n in range(20)
    ]
    catalog.commit(generation.id, IndexBatch(upserts=images))
    number += 1
    if number == 3:
        print("writing", flush=True)
"""


@pytest.mark.slow
def test_postgresql_by_its_own_tools_as_the_guide_says(tmp_path, postgres_server, binaries):
    name = postgres_server.make_database()
    settings = Settings(data_dir=tmp_path / "home", model="baseline", database_url=postgres_server.url(name))
    keys = write_photos(tmp_path / "photos", 6)
    uploads = settings.data_dir / "uploads" / "default"
    write_photos(uploads, 4, first_seed=50)
    _command(settings, "index", tmp_path / "photos")
    _command(settings, "index", uploads, "--id-prefix", "up/")
    before = _answers(settings, keys[:2])
    assert "pg_dump" in _command(settings, "backup", "create", tmp_path / "backup", expected=1)
    place = ["-h", "127.0.0.1", "-p", str(postgres_server.port), "-U", USER]
    _tool(binaries / "pg_dump", "--format=custom", "--file", str(tmp_path / "dump"), *place, name)
    shutil.copytree(settings.data_dir / "uploads", tmp_path / "uploads of then")
    shutil.rmtree(settings.data_dir)
    postgres_server.execute(f"DROP DATABASE {name} WITH (FORCE)")
    again = postgres_server.make_database()
    _tool(binaries / "pg_restore", "--dbname", again, *place, str(tmp_path / "dump"))
    shutil.copytree(tmp_path / "uploads of then", settings.data_dir / "uploads")
    restored = settings.model_copy(
        update={"database_url": Settings(database_url=postgres_server.url(again)).database_url}
    )
    assert _answers(restored, keys[:2]) == before
    _command(restored, "audit", tmp_path / "photos")
    _command(restored, "audit", uploads, "--id-prefix", "up/")


def _tool(program: Path, *arguments: str) -> None:
    done = subprocess.run(
        [str(program), *arguments], capture_output=True, text=True, check=False, env={"PGPASSWORD": PASSWORD}
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture
def binaries():
    from databases import _binaries

    return _binaries()
