"""Pictures named by http(s) address: off by default, queued by list, fetched by a worker, skipped when unchanged."""

# ruff: noqa: PLR0917 - fixtures are arguments
from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pictures import jpeg
from pydantic import SecretStr
from servers import ROOT, StartRole, environment_of, wait_for
from web_server import WebServer

from pipeline.errors import InvalidQuery
from storage.catalog import FailureRecord, JobProgress
from storage.settings import Settings
from visual_search.collection import ImageCollection
from visual_search.reindexing import ReindexPlan, reindex
from workers.job_client import JobClient


@pytest.fixture
def settings(tmp_path: Path, redis_url: str, web_server: WebServer) -> Settings:
    return Settings(
        data_dir=tmp_path / "home",
        model="baseline",
        redis_url=SecretStr(redis_url),
        unsafe_private_url_hosts=[web_server.host_and_port],
        batch_images=4,
        sweep_seconds=0.5,
    )


@pytest.fixture
def client(settings: Settings) -> Iterator[JobClient]:
    with JobClient(settings) as opened:
        yield opened


def failures(client: JobClient) -> dict[str, FailureRecord]:
    collection = client.catalog.collections.get("default")
    return {one.image_id: one for one in client.catalog.failures.list(collection.id)}


def finished(client: JobClient, progress: JobProgress) -> JobProgress:
    wait_for(lambda: client.get(progress.job.id).is_over, what="the job to be over")
    return client.get(progress.job.id)


def test_without_listed_hosts_nothing_is_asked_for(tmp_path: Path, redis_url: str, web_server: WebServer) -> None:
    url = web_server.serve("/a.jpg", jpeg(1))
    off = Settings(data_dir=tmp_path / "home", model="baseline", redis_url=SecretStr(redis_url))
    with JobClient(off) as client:
        progress = client.submit_list(io.BytesIO(url.encode()))
        assert (progress.listed, progress.failed) == (1, 1)
        assert failures(client)[url.removeprefix("http://")].reason == "source_not_allowed"
    assert not web_server.asked


def test_a_bad_address_fails_alone_and_its_password_is_not_recorded(client: JobClient, web_server: WebServer) -> None:
    lines = [
        web_server.serve("/a.jpg", jpeg(1)),
        web_server.url("/a.jpg").replace("//", "//me:s3cret@"),
        " " + web_server.url("/a.jpg").replace("//", "//me:s3cret@"),
        web_server.url("/missing.jpg"),
        "http://169.254.169.254/latest/meta-data",
        "https://example.com/a.jpg",
        "http://localhost:99999/",  # no port
    ]
    progress = client.submit_list(io.BytesIO("\n".join(lines).encode()))
    assert (progress.listed, progress.failed, progress.pending) == (7, 6, 1)
    recorded = failures(client)
    assert sorted(one.reason for one in recorded.values()) == [
        "invalid_key", "invalid_key", "invalid_key", "not_found", "source_not_allowed", "source_not_allowed",
    ]  # fmt: skip
    assert "s3cret" not in repr(recorded)
    assert recorded[f"{web_server.host_and_port}/missing.jpg"].source_uri == web_server.url("/missing.jpg")


def test_with_job_sources_a_list_without_a_source_may_name_hosts_and_no_folder(
    settings: Settings, web_server: WebServer, tmp_path: Path
) -> None:
    (tmp_path / "mine.jpg").write_bytes(jpeg(2))
    restricted = settings.model_copy(update={"job_sources": [str(tmp_path / "elsewhere")]})
    lines = [web_server.serve("/a.jpg", jpeg(1)), str(tmp_path / "mine.jpg"), "mine.jpg"]
    with JobClient(restricted) as client:
        progress = client.submit_list(io.BytesIO("\n".join(lines).encode()))
        assert (progress.pending, progress.failed, progress.job.source) == (1, 2, "addresses")
        assert {one.reason for one in failures(client).values()} == {"source_not_allowed", "invalid_key"}


def test_addresses_from_python_are_addresses_and_nothing_else(client: JobClient, tmp_path: Path) -> None:
    for wrong in ([str(tmp_path)], ["file:///etc/passwd"], ["http://x/a\nfile:///etc/passwd"]):
        with pytest.raises(InvalidQuery, match="no http"):
            client.submit_urls(wrong)


@pytest.mark.slow
def test_a_list_of_addresses_is_fetched_by_a_worker_and_skipped_when_unchanged(
    settings: Settings, client: JobClient, web_server: WebServer, start_role: StartRole, worker_process: StartRole,
    tmp_path: Path,
) -> None:  # fmt: skip
    urls = [web_server.serve(f"/p/{number}.jpg", jpeg(number)) + "?size=1" for number in range(6)]
    web_server.serve("/p/tagged.jpg", jpeg(7), ETag='"t1"')
    web_server.answers["/p/moved.jpg"] = lambda handler: handler.reply(302, b"", {"Location": "/p/tagged.jpg"})
    web_server.serve("/p/page.jpg", b"<html>no picture</html>", ETag='"h1"')
    web_server.serve("/p/spelled%20a.jpg", jpeg(9), ETag='"s1"')
    names = ["/p/tagged.jpg", "/p/moved.jpg", "/p/page.jpg", "/p/spelled a.jpg"]
    listed = tmp_path / "urls.txt"
    listed.write_text("\n".join([*urls, *map(web_server.url, names)]))
    role = start_role("workers.aggregator", settings)
    wait_for(lambda: role.says("ready"), what="the aggregator")
    worker_process(settings)

    done = subprocess.run(
        [sys.executable, "-m", "visual_search", "submit", "--list", str(listed), "--wait", "--json"],
        cwd=ROOT, env=environment_of(settings), capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 3, done.stderr + done.stdout
    (job,) = client.list()
    assert (job.listed, job.failed, job.indexed + job.reused) == (10, 1, 9)
    assert failures(client)[f"{web_server.host_and_port}/p/page.jpg"].reason == "unsupported_format"

    web_server.asked.clear()
    again = finished(client, client.submit_urls([web_server.url("/p/tagged.jpg"), web_server.url("/p/spelled a.jpg")]))
    assert (again.unchanged, again.indexed) == (2, 0)
    assert {method for method, _path in web_server.asked} == {"HEAD"}, "what is unchanged is not fetched"
    web_server.serve("/p/tagged.jpg", jpeg(8), ETag='"t2"')
    changed = finished(client, client.submit_urls([web_server.url("/p/tagged.jpg")]))
    assert (changed.unchanged, changed.indexed) == (0, 1)
    web_server.serve("/p/page.jpg", jpeg(10), ETag='"h2"')
    (retried,) = client.retry_failed()
    assert finished(client, retried).indexed == 1
    assert not failures(client)

    with ImageCollection(settings=settings) as collection:
        spelled = collection.image(f"{web_server.host_and_port}/p/spelled%20a.jpg")
        assert spelled.source_uri == web_server.url("/p/spelled%20a.jpg")
        assert collection.reader().read(spelled.source_uri) == jpeg(9)
        report = reindex(collection, ReindexPlan(None))
        assert (report.copied, report.failed) == (10, 0)
