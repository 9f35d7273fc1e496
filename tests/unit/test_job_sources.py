"""Where pictures may be read from: links, dots and look-alikes lead nowhere else, whichever way a job is given."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from pictures import jpeg, write_photos

from storage.errors import SettingsError, SourceNotAllowed, StorageError
from storage.images.allowed_sources import AllowedReader, AllowedSources, readable_sources
from storage.images.local import LocalStorage
from storage.images.locate import ImageReader
from storage.settings import Schedule, Settings, load_settings
from visual_search.cli.app import main as command_line
from workers.beat import run_schedule
from workers.job_client import JobClient


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """The one folder that is allowed, with three pictures; beside it lies another with as many."""
    write_photos(tmp_path / "mine", 3)
    write_photos(tmp_path / "mine-not", 3)
    return tmp_path / "mine"


@pytest.fixture
def settings(tmp_path: Path, mine: Path) -> Settings:
    """Settings that allow `mine` alone; nothing is sent anywhere."""
    unreachable = "redis://127.0.0.1:1/0"
    return Settings(data_dir=tmp_path / "home", model="baseline", redis_url=unreachable, job_sources=[str(mine)])


def everything(allowed: AllowedSources, *addresses: str | Path) -> list[str | Path]:
    """Those of the addresses that are allowed."""
    taken = []
    for address in addresses:
        try:
            allowed.check(address)
        except StorageError:
            continue
        taken.append(address)
    return taken


def test_without_a_list_everything_is_allowed():
    AllowedSources().check("/etc")
    AllowedSources().and_below("/home/uploads").check("s3://anything")


def test_a_folder_allows_itself_and_what_is_below_it_however_it_is_spelt(mine, tmp_path, monkeypatch):
    allowed = AllowedSources([str(mine) + "/"])
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(mine)
    below = [mine, str(mine), f"{mine}/even/", mine.as_uri(), f"{mine.as_uri()}/even/00.jpg", "~/mine", ".", "even/.."]
    assert everything(allowed, *below) == below


def test_dots_links_and_look_alikes_lead_out_of_a_folder(mine, tmp_path, monkeypatch):
    (mine / "link").symlink_to(tmp_path / "mine-not", target_is_directory=True)
    (mine / "chain").symlink_to(mine / "link" / "even")
    monkeypatch.chdir(mine)
    outside = [f"{mine}-not", f"{mine}/../mine-not", "..", mine / "link", mine / "chain", f"{mine}/link/even/00.jpg"]
    encoded = [f"file://{mine}/%2e%2e/mine-not", f"file://localhost{mine}-not", f"FILE://{mine}/link"]
    others = ["/", f"file://elsewhere{mine}", "s3://mine", f"s3://{mine}", f"http://{mine}", "~nobody-of-that-name"]
    assert everything(AllowedSources([str(mine)]), *outside, *encoded, *others, f"{mine}\0") == []


def test_a_prefix_allows_itself_and_what_is_below_it_and_no_look_alike():
    allowed = AllowedSources(["s3://bucket/pre/"])
    below = ["s3://bucket/pre", "s3://bucket/pre/", "S3://bucket/pre/a b.jpg", "s3://bucket/pre//twice"]
    outside = ["s3://bucket/pre-other", "s3://bucket", "s3://bucket/", "s3://bucket-other/pre", "s3://Bucket/pre"]
    dotted = ["s3://bucket/pre/../other", "s3://bucket/pre/./a", "s3://bucket/other/pre", "s3://bucket//pre", "s3://"]
    assert everything(allowed, *below, *outside, *dotted, "/pre", Path("s3://bucket/pre")) == below


def test_a_whole_bucket_allows_all_of_it_and_no_other():
    allowed = AllowedSources(["s3://bucket"])
    assert everything(allowed, "s3://bucket", "s3://bucket/a/b", "s3://bucket2", "s3://buck") == [
        "s3://bucket",
        "s3://bucket/a/b",
    ]


@pytest.mark.parametrize(
    "entry", ["", "photos", "./photos", "s3://", "s3:///key", "http://host/photos", "file://host/x"]
)
def test_an_entry_that_means_no_certain_place_is_refused_at_start(entry, monkeypatch):
    monkeypatch.setenv("VISUAL_SEARCH_JOB_SOURCES", json.dumps([entry]))
    with pytest.raises(SettingsError, match="is no full address"):
        load_settings()


def test_submitting_another_folder_is_refused_and_leaves_no_job(settings, mine, tmp_path):
    (mine / "link").symlink_to(tmp_path / "mine-not", target_is_directory=True)
    with JobClient(settings) as client:
        for source in (f"{mine}-not", mine / "link", f"{mine}/../mine-not", "s3://bucket/photos"):
            with pytest.raises(SourceNotAllowed, match="job_sources"):
                client.submit(source)
            with pytest.raises(SourceNotAllowed):
                client.submit_list(io.BytesIO(b"even/00.jpg\n"), source)
        with pytest.raises(SourceNotAllowed):
            client.submit_uploads({"tom": jpeg(1)}, store=tmp_path / "mine-not")
        assert client.list() == []
        submitted = client.submit(mine)
        assert (submitted.listed, submitted.failed) == (4, 1), "the link leads out: a failure of its own"


def test_each_line_of_a_list_is_checked_for_itself(settings, mine, tmp_path):
    (mine / "out.jpg").symlink_to(tmp_path / "mine-not" / "even" / "00.jpg")
    lines = ["even/00.jpg", "out.jpg", f"{tmp_path}/mine-not/even/02.jpg", "s3://bucket/key.jpg", "/etc/passwd"]
    with JobClient(settings) as client:
        progress = client.submit_list(io.BytesIO("\n".join(lines).encode()), mine)
        failed = client.catalog.failures.list(client.catalog.collections.get("default").id)
    assert progress.listed == 5
    assert {one.reason for one in failed} == {"source_not_allowed"}
    assert len(failed) == 4


def test_uploads_may_always_be_read_again(settings):
    with JobClient(settings) as client:
        assert client.submit_uploads({"tom": jpeg(1)}).listed == 1
    here = (settings.data_dir / "uploads" / "default" / "tom").as_uri()
    assert ImageReader(allowed=readable_sources(settings)).read(here) == jpeg(1)
    moved = settings.model_copy(update={"uploads_address": "s3://uploads/of-the-shop"})
    assert ImageReader(allowed=readable_sources(moved)).read(here) == jpeg(1), "those from before, too"
    readable_sources(moved).check("s3://uploads/of-the-shop/default/tom")
    with pytest.raises(SourceNotAllowed):
        readable_sources(moved).check("s3://uploads/of-others/default/tom")


def test_a_picture_that_has_become_a_link_is_read_no_more(settings, mine, tmp_path):
    picture = mine / "even" / "00.jpg"
    allowed = readable_sources(settings)
    readers = [AllowedReader(LocalStorage(mine), allowed), AllowedReader(LocalStorage("/"), allowed)]
    assert [readers[0].get("even/00.jpg"), readers[1].get(str(picture)[1:])] == [picture.read_bytes()] * 2
    picture.unlink()
    picture.symlink_to(tmp_path / "mine-not" / "even" / "02.jpg")
    for read in (lambda: readers[1].get(str(picture)[1:]), lambda: ImageReader(allowed=allowed).read(picture.as_uri())):
        with pytest.raises(SourceNotAllowed):
            read()
    with pytest.raises(StorageError):
        readers[0].get("even/00.jpg")


@pytest.mark.parametrize("action", ["sync", "audit"])
def test_a_schedule_of_another_folder_is_refused(settings, mine, action):
    with JobClient(settings) as client:
        client.submit(mine)
    with pytest.raises(SourceNotAllowed):
        run_schedule(settings, Schedule(cron="* * * * *", action=action, source=f"{mine}-not"))
    run_schedule(settings, Schedule(cron="* * * * *", action="sync", source=str(mine)))


def test_the_command_says_what_is_wrong(settings, mine, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("VISUAL_SEARCH_JOB_SOURCES", json.dumps(settings.job_sources))
    monkeypatch.setenv("VISUAL_SEARCH_REDIS_URL", "redis://127.0.0.1:1/0")
    monkeypatch.setattr("sys.argv", ["visual-search", "submit", f"{mine}-not", "--data-dir", str(tmp_path / "home")])
    with pytest.raises(SystemExit) as ended:
        command_line()
    assert ended.value.code
    assert "job_sources" in capfd.readouterr().err
