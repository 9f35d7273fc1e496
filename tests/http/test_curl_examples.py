"""Every `curl` of docs/http.md, as it stands there, by the real curl against the real service."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser.web_service import ROLES, WebService, running_service, wait_until_ready
from documents import ROOT, console_sessions
from http_api import SEARCH_KEY, api_keys
from pictures import jpeg
from servers import free_port

from visual_search.collection import ImageCollection
from visual_search.reindexing import ReindexPlan, reindex

PAGE = ROOT / "docs" / "http.md"
STATUS = "\n~status "  # curl is told by its own settings file to end with this and the status


@pytest.fixture
def service(tmp_path: Path, s3_client, s3_endpoint, monkeypatch) -> Iterator[WebService]:
    """The whole system; the images, attributes, generations and the bucket that the page speaks of."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3_endpoint)
    s3_client.create_bucket(Bucket="my-bucket")
    for number in range(6):
        s3_client.put_object(Bucket="my-bucket", Key=f"photos/{number}.jpg", Body=jpeg(50 + number))
    pictures = {f"{number:02}.jpg": jpeg(number) for number in range(1, 9)}
    pictures |= {"cats/tom.jpg": jpeg(20), "cats/old.jpg": jpeg(21), "broken.jpg": jpeg(22)[:300]}
    attributes = [json.dumps({"image_id": name, "label": "cat", "year": 2021}) for name in pictures]
    with running_service(tmp_path) as made:
        made.seed("default", pictures, attributes)
        complete_generation_2(made)
        for role in ROLES:
            made.start(role)
        wait_until_ready(made.url)
        yield made


def complete_generation_2(service: WebService) -> None:
    """The generation that the page switches to, with a vector of every image that is there by now."""
    with ImageCollection("default", settings=service.settings) as collection:
        reindex(collection, ReindexPlan(model=None, switch=False))


def wanted(shown: Any, got: Any, where: str) -> None:
    """What the page shows, key by key: the same kind of value, and the same value where it is a word of ours."""
    assert type(shown) is type(got) or None in (shown, got) or {type(shown), type(got)} == {int, float}, where
    if isinstance(shown, dict):
        for key, value in shown.items():
            assert key in got, f"{where}.{key} is in the page and not in the answer"
            wanted(value, got[key], f"{where}.{key}")
            if key in ("reason", "message", "retryable", "deleted", "ready", "alive", "kind", "catalog", "redis"):
                assert value == got[key], f"{where}.{key}"
    if isinstance(shown, list) and shown and got:
        wanted(shown[0], got[0], f"{where}[0]")


def shown_keys(shown: str) -> set[str]:
    return set(re.findall(r'"(\w+)":', shown))


class Reader:
    """Somebody who copies the commands of the page into a shell, with the pictures that it names beside them."""

    def __init__(self, folder: Path, addresses: dict[str, str]) -> None:
        self._folder = folder
        self._addresses = addresses
        self._job = ""
        folder.mkdir()
        for number, name in enumerate(("query.jpg", "tom.jpg", "kitty.png")):
            (folder / name).write_bytes(jpeg(3 if name == "query.jpg" else 70 + number))
        (folder / ".curlrc").write_text(f'write-out = "{STATUS.encode("unicode_escape").decode()}%{{http_code}}"\n')

    def run(self, command: str) -> tuple[int, str]:
        """The status and the body; only addresses and the number of the job are those of this place."""
        for documented, here in self._addresses.items():
            command = command.replace(documented, here)
        command = re.sub(r"/v1/jobs/7\b", f"/v1/jobs/{self._job}", command)
        environment = {**os.environ, "HOME": str(self._folder), "CURL_HOME": str(self._folder), "KEY": SEARCH_KEY}
        ended = subprocess.run(
            ["bash", "-c", command], cwd=self._folder, env=environment, capture_output=True, text=True, check=False
        )
        assert ended.returncode == 0, f"{command}: {ended.returncode} {ended.stderr}"
        body, _, status = ended.stdout.rpartition(STATUS)
        if command.endswith("/v1/jobs") and "-d" in command:
            self._job = json.loads(body)["id"]
        return int(status), body


@pytest.mark.slow
def test_every_curl_of_the_page_does_what_the_page_shows(service: WebService, tmp_path: Path):
    if shutil.which("curl") is None:
        assert not os.environ.get("CI"), "CI needs curl"
        pytest.skip("curl is not installed")
    keyed = service.settings.model_copy(update={"api_keys": api_keys(), "http_port": free_port()})
    service.start("query_service.http", keyed)
    wait_until_ready(f"http://127.0.0.1:{keyed.http_port}/")
    addresses = {
        "http://127.0.0.1:8600/": service.url,
        "https://photos.example/": f"http://127.0.0.1:{keyed.http_port}/",
    }
    reader = Reader(tmp_path / "reader", addresses)
    commands = [session for session in console_sessions(PAGE) if session[0].startswith("curl ")]
    assert len(commands) > 20
    for command, shown in commands:
        if "generations/2/" in command:
            complete_generation_2(service)
        status, body = reader.run(command)
        print(status, command, body[:300], sep="\n  ")
        assert (status < 300) != shown.startswith('{"error"'), f"{command}: {status} {body}"
        assert shown_keys(shown) <= shown_keys(body), command
        if shown.startswith(("{", "[")) and "…" not in shown:
            wanted(json.loads(shown), json.loads(body), command)
        if shown.startswith("event:"):
            assert body.startswith("event: progress")
            assert body.rstrip().endswith("event: end\r\ndata: {}") or body.rstrip().endswith("event: end\ndata: {}")
    assert (tmp_path / "reader" / "small.jpg").read_bytes().startswith(b"\xff\xd8")
    assert (tmp_path / "reader" / "tom.jpg").read_bytes() == jpeg(20)
