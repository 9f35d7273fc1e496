"""The whole service behind the page as real processes: Valkey, embed worker, aggregator, query worker, HTTP."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from servers import ROOT, RoleProcess, ValkeyServer, environment_of, free_port, wait_for

from pipeline.indexing.selection import SourceSelection
from storage.settings import Settings
from visual_search.collection import ImageCollection

LONG = 180_000  # milliseconds that a job of real processes may take on a crowded machine
ROLES = ("workers.embed_worker", "workers.aggregator", "query_service.worker", "query_service.http")
HOSTILE = (  # ids of images
    "<img src=x onerror=alert(1)>.jpg",
    '"><script>alert(2)</script>.jpg',
    "'-alert(3)-'.jpg",
    "javascript:alert(4).jpg",
)


@dataclass
class WebService:
    """Running processes, the address of the page, and the folder that tests may put pictures into."""

    settings: Settings
    folder: Path
    roles: dict[str, RoleProcess] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.settings.http_port}/"

    def seed(
        self, collection: str, pictures: Mapping[str, bytes], sidecar: Sequence[str] = (), model: str = "baseline"
    ) -> None:
        """Index these pictures right here, before the processes start; `sidecar` holds lines of JSON."""
        folder = self.folder / collection
        for name, data in pictures.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
        attributes = self.folder / f"{collection}.jsonl"
        attributes.write_text("\n".join(sidecar), encoding="utf-8")
        with ImageCollection(collection, settings=self.settings.model_copy(update={"model": model})) as into:
            into.index(folder, SourceSelection(attributes_file=attributes))

    def start(self, module: str, settings: Settings | None = None) -> RoleProcess:
        log = self.folder / f"{module}-{len(self.roles)}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", module],
                cwd=ROOT,
                env=environment_of(settings or self.settings),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        return self.roles.setdefault(log.stem, RoleProcess(process, log))

    def stop(self) -> None:
        for role in self.roles.values():
            if role.process.poll() is None:
                role.send(signal.SIGCONT)
                role.stop(signal.SIGKILL)
            print(f"--- {role.log.name}\n{role.text()}")


def wait_until_ready(url: str) -> None:
    """Until the catalog, Redis and a query worker have given a sign."""
    wait_for(lambda: _is_ready(url), seconds=180, what=f"{url}readyz")


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}readyz", timeout=120).status_code == 200
    except httpx.TransportError:
        return False


@contextmanager
def running_service(folder: Path) -> Iterator[WebService]:
    """A service with an empty catalog in that folder and no process but Valkey; all are killed at the end."""
    (folder / "valkey").mkdir()
    valkey = ValkeyServer(folder / "valkey", free_port())
    valkey.start()
    settings = Settings(
        data_dir=folder / "data",
        model="baseline",
        redis_url=valkey.url,
        http_port=free_port(),
        batch_images=4,
        lease_seconds=60.0,
        search_seconds=120.0,  # a busy machine takes longer than people wait
        requests_per_minute=0,
    )
    service = WebService(settings, folder)
    try:
        yield service
    finally:
        service.stop()
        valkey.kill()
