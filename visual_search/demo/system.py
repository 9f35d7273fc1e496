"""The second half of the demo: the whole distributed system as real processes, a job, searches by RPC and over HTTP."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

from query_service.client import SearchClient
from storage.errors import VisualSearchError
from storage.settings import Settings
from visual_search.cli.output import console
from workers.job_client import JobClient
from workers.machine.one_machine import with_port

COLLECTION = "demo"
_NOT_YET = ("unknown_collection", "unknown_image_id")
_READY_SECONDS = 180.0  # each role loads the model; on a busy laptop CLIP takes half a minute
_STOP_SECONDS = 60.0
_HTTP_SECONDS = 30.0
_SCREENSHOT_SECONDS = 60.0
_BROWSERS = ("chromium", "chromium-browser", "google-chrome")
_BROWSER_OPTIONS = (
    "--headless",
    "--disable-gpu",
    "--hide-scrollbars",
    "--no-first-run",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--window-size=1280,900",
    "--force-prefers-reduced-motion",  # else pictures are still fading in
    "--virtual-time-budget=8000",  # ms: until the pictures have been fetched
)


class DemoFailed(VisualSearchError):
    """Raised by the demo: a part of it did not do what it shows. Its log says why."""

    reason = "demo_failed"


@dataclass(frozen=True)
class Found:
    """What one search through the system answered: ids best first, and how long the asker waited."""

    image_ids: list[str]
    milliseconds: float


class RunningSystem:
    """Every role of `visual-search up`, started for a data folder of its own, on a free port."""

    def __init__(self, settings: Settings, address: str) -> None:
        self.settings = settings
        self.address = address

    def index(self, photos: Path, image_id: str) -> None:
        """Submit the photos as a job, wait for it, and until all can be searched, the one with this id among them.

        Raises DemoFailed when it did not finish.
        """
        started = time.monotonic()
        with JobClient(self.settings) as client:
            job = client.submit(photos)
            for progress in client.watch(job.job.id, seconds=0.2):
                job = progress
        if job.job.state != "finished":
            raise DemoFailed(f"job {job.job.id} ended {job.job.state}")
        self._wait_until_searchable(image_id, job.indexed + job.reused)
        counts = f"{job.indexed} indexed, {job.reused} reused, {job.failed} failed"
        console().print(f"[bold]Job {job.job.id}[/] done in {time.monotonic() - started:.1f} s: {counts}")

    def _wait_until_searchable(self, image_id: str, images: int) -> None:
        """A query worker follows the commits; the first one of a new collection makes it load the model."""
        deadline = time.monotonic() + _READY_SECONDS
        with SearchClient(self.settings, collection=COLLECTION) as client:
            found = 0
            while found < images:
                if time.monotonic() > deadline:
                    raise DemoFailed(f"only {found} of {images} images can be searched after {_READY_SECONDS:.0f} s")
                time.sleep(0.05)
                try:
                    found = client.search(image_id=image_id, k=1).provenance.images
                except VisualSearchError as error:
                    if not error.retryable and error.reason not in _NOT_YET:
                        raise

    def search_by_rpc(self, image_ids: Sequence[str], k: int) -> list[Found]:
        """Ask through the Redis queue, one search after the other."""
        found = []
        with SearchClient(self.settings, collection=COLLECTION) as client:
            client.search(image_id=image_ids[0], k=k)  # connects
            for image_id in image_ids:
                started = time.perf_counter()
                answer = client.search(image_id=image_id, k=k)
                found.append(Found(answer.image_ids, (time.perf_counter() - started) * 1000))
        return found

    def search_by_http(self, image_id: str, k: int) -> Found:
        """Ask over HTTP, with JSON."""
        body = {"collection": COLLECTION, "query": [{"image_id": image_id}], "k": k}
        started = time.perf_counter()
        answer = _post(f"{self.address}/v1/search", body)
        ids = [result["image_id"] for result in answer["results"]]
        return Found(ids, (time.perf_counter() - started) * 1000)

    def screenshot(self, image_id: str, path: Path) -> bool:
        """Draw the page in a browser, if there is one here; whether the picture was made."""
        browser = next(filter(None, map(shutil.which, _BROWSERS)), None)
        if browser is None:
            return False
        state = urlencode({"p": f"i1:{image_id}"})
        as_root = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
        profile = self.settings.data_dir / "browser"
        command = [browser, *_BROWSER_OPTIONS, *as_root, f"--user-data-dir={profile}", f"--screenshot={path}"]
        try:
            subprocess.run(  # noqa: S603 - a browser found on the PATH, with arguments of ours
                [*command, f"{self.address}/?{state}"], capture_output=True, timeout=_SCREENSHOT_SECONDS, check=True
            )
        except (OSError, subprocess.SubprocessError):
            return False
        return path.is_file()


@contextmanager
def running_system(model: str, folder: Path) -> Iterator[RunningSystem]:
    """Start every role with its data in the folder, wait until searches can be asked, and end all at the end.

    The user's own Redis and PostgreSQL are left alone. Raises DemoFailed, with the place of the log.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model = str(Path(model).absolute()) if Path(model).is_dir() else model
    settings = with_port(
        Settings.model_construct(data_dir=folder.absolute(), model=model, collection=COLLECTION, http_port=0)
    )
    log = folder.parent / "system.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "visual_search", "up"],
            cwd=folder,  # where no visual-search.toml of the user's lies
            env=_environment(settings),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    address = f"http://127.0.0.1:{settings.http_port}"
    try:
        _wait_until_ready(process, address, log)
        yield RunningSystem(settings, address)
    finally:
        _stop(process)


def _environment(settings: Settings) -> dict[str, str]:
    """Ours alone: with the user's VISUAL_SEARCH_* the demo would write into their database."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("VISUAL_SEARCH_")}
    given = {name: str(getattr(settings, name)) for name in ("data_dir", "model", "collection", "http_port")}
    return {**kept, **{f"VISUAL_SEARCH_{name.upper()}": value for name, value in given.items()}}


def _wait_until_ready(process: subprocess.Popen[bytes], address: str, log: Path) -> None:
    deadline = time.monotonic() + _READY_SECONDS
    while not _is_ready(address):
        if process.poll() is not None:
            raise DemoFailed(f"the system ended with exit code {process.returncode}: {log} says why")
        if time.monotonic() > deadline:
            raise DemoFailed(f"the system was not ready after {_READY_SECONDS:.0f} s: {log} says why")
        time.sleep(0.2)


def _is_ready(address: str) -> bool:
    try:
        with urlopen(f"{address}/readyz", timeout=_HTTP_SECONDS) as answer:  # noqa: S310 - our own address
            return bool(answer.status == 200)
    except (URLError, OSError):
        return False


def _post(url: str, body: Any) -> Any:
    request = Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})  # noqa: S310 - ours
    try:
        with urlopen(request, timeout=_HTTP_SECONDS) as answer:  # noqa: S310 - the same
            return json.load(answer)
    except (URLError, OSError) as error:
        raise DemoFailed(f"the HTTP API did not answer: {error}") from error


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
