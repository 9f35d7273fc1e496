"""Submitting what a text file names: which ids come of it, what a bad line does, and that nothing is done twice."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pictures import jpeg, write_photos
from pydantic import SecretStr
from servers import ROOT, environment_of

from pipeline.errors import InvalidQuery
from pipeline.indexing.file_list import MAX_LINE_BYTES, FileList
from pipeline.indexing.selection import SourceSelection
from pipeline.indexing.source import SourceItem
from storage.catalog import BatchItem, Catalog, FailureRecord, ImageFailure
from storage.settings import Settings
from visual_search.collection import ImageCollection
from workers.job_client import JobClient


@pytest.fixture
def settings(tmp_path: Path, redis_url: str) -> Settings:
    return Settings(data_dir=tmp_path / "home", model="baseline", redis_url=SecretStr(redis_url), batch_images=4)


@pytest.fixture
def client(settings: Settings) -> Iterator[JobClient]:
    with JobClient(settings) as opened:
        yield opened


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    write_photos(tmp_path / "photos", 6)
    return tmp_path / "photos"


def references(catalog: Catalog) -> dict[str, BatchItem]:
    """What stands in the waiting batches, by image id."""
    found: dict[str, BatchItem] = {}
    for unsent in catalog.batches.sweep(resend_seconds=0).to_send:
        leased = catalog.batches.lease(unsent.batch_id, "test", 60)
        assert leased is not None
        assert leased.by_address
        found.update({one.image_id: one for one in leased.items})
    return found


def failures(client: JobClient) -> dict[str, FailureRecord]:
    collection = client.catalog.collections.get("default")
    return {one.image_id: one for one in client.catalog.failures.list(collection.id)}


def as_list(*lines: str | Path | bytes) -> io.BytesIO:
    return io.BytesIO(b"\n".join(one if isinstance(one, bytes) else os.fsencode(one) for one in lines))


def test_ids_are_those_of_the_source_whichever_way_a_file_below_it_is_named(
    client: JobClient, photos: Path, tmp_path: Path
) -> None:
    (tmp_path / "other.jpg").write_bytes(jpeg(9))
    lines = as_list(
        "even/00.jpg",
        "./odd/01.jpg",
        photos / "even" / "02.jpg",
        (photos / "odd" / "03.jpg").as_uri() + "\r",
        "",
        tmp_path / "other.jpg",
    )
    progress = client.submit_list(lines, photos, SourceSelection(id_prefix="holiday/"))
    assert (progress.job.kind, progress.listed, progress.failed, progress.pending) == ("list", 5, 0, 5)
    outside = f"holiday/{str(tmp_path / 'other.jpg').lstrip('/')}"
    names = {f"holiday/{key}" for key in ("even/00.jpg", "odd/01.jpg", "even/02.jpg", "odd/03.jpg")}
    assert set(references(client.catalog)) == names | {outside}


def test_what_was_indexed_by_its_folder_is_known_in_a_list_also_behind_a_link(
    client: JobClient, settings: Settings, photos: Path, tmp_path: Path
) -> None:
    with ImageCollection(settings=settings) as collection:
        collection.index(photos)
    link = tmp_path / "link"
    link.symlink_to(photos)
    progress = client.submit_list(as_list("even/00.jpg", photos / "odd/01.jpg", link / "odd/03.jpg"), link)
    assert (progress.job.state, progress.unchanged, progress.batches_left) == ("finished", 3, 0)


def test_a_bad_line_is_a_failure_with_its_reason_and_the_others_go_on(
    client: JobClient, photos: Path, tmp_path: Path
) -> None:
    lines = as_list(
        "even/00.jpg",
        "no/such.jpg",
        "../../etc/passwd",
        "even",
        "http://example.org/cat.jpg",
        "file:///",
        "x" * (MAX_LINE_BYTES + 5),
        b"caf\xe9.jpg",
        b"nul\0.jpg",
        "odd/01.jpg",
    )
    progress = client.submit_list(lines, photos)
    assert (progress.listed, progress.failed, progress.pending) == (10, 8, 2)
    assert set(references(client.catalog)) == {"even/00.jpg", "odd/01.jpg"}
    reasons = {one.image_id: one.reason for one in failures(client).values()}
    assert reasons["no/such.jpg"] == "not_found"
    assert reasons["../../etc/passwd"] == "invalid_key"
    assert reasons["even"] == "not_found"  # a folder is no image
    assert reasons["example.org/cat.jpg"] == "source_not_allowed"
    assert len(reasons) == 8
    assert failures(client)["no/such.jpg"].source_uri == (photos / "no/such.jpg").as_uri()


def test_the_same_list_twice_is_no_second_work(client: JobClient, photos: Path, tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text("even/00.jpg\nodd/01.jpg\n")
    first = client.submit_list(path, photos)
    assert client.submit_list(str(path), photos).job.id == first.job.id
    path.write_text("even/00.jpg\n")
    assert client.submit_list(path, photos).job.id != first.job.id


def test_a_file_that_is_named_twice_is_embedded_once(client: JobClient, photos: Path) -> None:
    progress = client.submit_list(as_list("even/00.jpg", photos / "even/00.jpg", "./even/00.jpg"), photos)
    assert (progress.listed, progress.unchanged, progress.pending) == (3, 2, 1)


def test_two_files_that_claim_one_id_come_in_different_batches(
    client: JobClient, s3_bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch that named an id twice could not be committed; one of the two will fail alone with `id_taken`."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3_bucket.endpoint_url)
    other = f"{s3_bucket.name}-2"
    s3_bucket.client.create_bucket(Bucket=other)
    for bucket in (s3_bucket.name, other):
        s3_bucket.client.put_object(Bucket=bucket, Key="a b.jpg", Body=jpeg(1))
    progress = client.submit_list(as_list(f"s3://{s3_bucket.name}/a b.jpg", f"s3://{other}/a b.jpg"))
    assert (progress.listed, progress.pending, progress.batches_left) == (2, 2, 2)
    assert set(references(client.catalog)) == {"a b.jpg"}


def test_a_list_below_a_bucket_prefix_has_the_ids_of_the_prefix(
    client: JobClient, s3_bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3_bucket.endpoint_url)
    s3_bucket.client.put_object(Bucket=s3_bucket.name, Key="in/1.jpg", Body=jpeg(1))
    s3_bucket.client.put_object(Bucket=s3_bucket.name, Key="in/2.jpg", Body=jpeg(2))
    address = f"s3://{s3_bucket.name}/in"
    client.submit_list(as_list("1.jpg", f"{address}/2.jpg"), address)
    found = references(client.catalog)
    assert {name: one.uri for name, one in found.items()} == {n: f"{address}/{n}" for n in ("1.jpg", "2.jpg")}


def test_attributes_reach_the_images_and_rows_that_named_none_are_counted(
    client: JobClient, photos: Path, tmp_path: Path
) -> None:
    sidecar = tmp_path / "attributes.csv"
    sidecar.write_text("image_id,label\neven/00.jpg,cat\nnone.jpg,dog\n")
    selection = SourceSelection(attributes_file=sidecar)
    progress = client.submit_list(as_list("even/00.jpg", "odd/01.jpg"), photos, selection)
    assert progress.job.counts["attributes_unused"] == 1
    assert references(client.catalog)["even/00.jpg"].attributes == {"label": "cat"}
    assert client.submit(photos, selection).job.counts["attributes_unused"] == 1


def test_patterns_do_not_go_with_a_list(client: JobClient, photos: Path) -> None:
    with pytest.raises(InvalidQuery, match="no include"):
        client.submit_list(as_list("even/00.jpg"), photos, SourceSelection(include=["*"]))
    with pytest.raises(InvalidQuery, match="cannot be read"):
        client.submit_list(photos / "no-list.txt", photos)


def test_a_broken_off_list_goes_on_behind_its_last_line(client: JobClient, tmp_path: Path) -> None:
    """Lines of files that are on no disk: 9,000 failures, the first page of them committed."""
    lines = as_list(*(f"{number:05}.jpg" for number in range(9000)))
    source = tmp_path / "empty"
    source.mkdir()
    real = client.catalog.jobs.add_batches
    calls = []

    def killed(*arguments, **options):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    client.catalog.jobs.add_batches = killed
    with pytest.raises(KeyboardInterrupt):
        client.submit_list(lines, source)
    client.catalog.jobs.add_batches = real
    job = client.list()[0].job
    assert (job.state, job.counts["listed"]) == ("listing", 4096)
    progress = client.submit_list(lines, source)
    assert (progress.job.id, progress.listed, progress.failed) == (job.id, 9000, 9000)
    assert len(failures(client)) == 9000


def test_lines_are_read_lazily_and_only_those_behind_the_place(photos: Path) -> None:
    named = FileList(as_list("even/00.jpg", "", "nope.jpg", "odd/01.jpg"), str(photos), max_bytes=10_000_000)
    found = dict(named.named())
    assert list(found) == ["000000000001", "000000000003", "000000000004"]
    assert isinstance(found["000000000003"], ImageFailure)
    assert isinstance(found["000000000004"], SourceItem)
    assert list(dict(named.named("000000000003"))) == ["000000000004"]


def test_the_command_takes_a_list_from_standard_input_and_tells_of_unused_rows(
    settings: Settings, photos: Path, tmp_path: Path
) -> None:
    sidecar = tmp_path / "attributes.csv"
    sidecar.write_text("image_id,label\neven/00.jpg,cat\nnone.jpg,dog\n")

    def run(*arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "visual_search", "submit", *arguments],
            cwd=ROOT,
            env=environment_of(settings),
            input=text,
            capture_output=True,
            text=True,
            check=False,
            timeout=180,
        )

    done = run("--list", "-", str(photos), "--attributes", str(sidecar), text="even/00.jpg\nnope.jpg\n")
    assert done.returncode == 0, done.stderr
    assert "job 1: list file://" in done.stdout
    assert "1 of 2 images done (1 failed, 1 pending)" in done.stdout
    assert "1 rows of the attributes file name no listed image" in done.stderr
    assert "1 rows of the attributes file" in run(str(photos), "--attributes", str(sidecar)).stderr
    assert run().returncode == 2
    assert run("--list", "-", "--mirror").returncode == 2
