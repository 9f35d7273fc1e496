"""Two query workers that are killed, frozen and started again, a writer that never rests, and clients that ask."""

from __future__ import annotations

import hashlib
import random
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from crash.search_history import Asked, SearchHistory
from servers import ROOT, environment_of

from query_service.client import SearchClient
from query_service.protocol import QueryPart, SearchAnswer, SearchRequest
from storage.catalog import Catalog, Generation, IndexBatch, IndexedImage
from storage.errors import VisualSearchError
from storage.filters import Equals
from storage.records import ImageMetadata, ModelIdentity
from storage.settings import Settings

DIMENSION = 32
KEPT = [f"kept/{number:03}.jpg" for number in range(150)]  # changed, and never removed: searches may ask with them
COMING_AND_GOING = [f"more/{number:03}.jpg" for number in range(250)]
TIMEOUT_SECONDS = 240.0  # of a search: two workers that start at once on a crowded machine need a minute
FAILPOINTS = [
    ("query_service.serving.taken_requests:RequestQueue.read", "after"),
    ("query_service.serving.taken_requests:RequestQueue.take_over", "after"),
    ("query_service.serving.taken_requests:RequestQueue.settle", "before"),
    ("query_service.serving.taken_requests:RequestQueue.settle", "after"),
    ("query_service.answers.answering:Answering.answer", "before"),
    ("query_service.answers.answering:Answering.answer", "after"),
    ("query_service.serving.served:ServedCollections.current", "after"),
]
_RUNNER = Path(__file__).with_name("role_with_failpoint.py")


def model(number: int) -> ModelIdentity:
    """The n-th model of the collection. Nobody has it, and a worker finds that out without loading torch."""
    return ModelIdentity(
        name="baseline",
        revision="r",
        weights_fingerprint=f"w{number}",
        preprocessing_fingerprint="p",
        dimension=DIMENSION,
    )


def vector(name: str) -> np.ndarray[Any, Any]:
    """(32,) float32, unit length, another one for each name."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
    row = np.random.default_rng(seed).standard_normal(DIMENSION).astype(np.float32)
    unit: np.ndarray[Any, Any] = row / np.linalg.norm(row)
    return unit


@dataclass
class Workers:
    """Query workers by name; whoever ends is started again, without its failpoint, until `stop`."""

    folder: Path
    settings: Settings
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    deaths: int = 0
    _over: threading.Event = field(default_factory=threading.Event)
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _watcher: threading.Thread | None = None

    @property
    def fired(self) -> Path:
        """Where failpoints write that they were reached."""
        return self.folder / "fired.txt"

    def start(self, name: str, failpoint: list[str] | None = None) -> None:
        """Start one, which logs to NAME.log."""
        command = [sys.executable, str(_RUNNER), "query_service.worker", *(failpoint or [])]
        with self._lock, (self.folder / f"{name}.log").open("ab") as log:
            environment = {**environment_of(self.settings), "PYTHONPATH": str(ROOT)}
            self.running[name] = subprocess.Popen(
                command, cwd=self.folder, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def watch(self) -> None:
        """Start anew whoever ends, from now on."""
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()

    def signal(self, name: str, how: signal.Signals) -> None:
        """Send a signal."""
        with self._lock:
            process = self.running[name]
            if process.poll() is None:
                process.send_signal(how)

    def ready(self) -> int:
        """How often a worker has said that it is."""
        return sum(log.read_text().count("ready: ") for log in self.folder.glob("*.log"))

    def stop(self) -> list[int | None]:
        """End them in order; how they ended, None for those that did not."""
        self._over.set()
        if self._watcher is not None:
            self._watcher.join()
        for name in self.running:
            self.signal(name, signal.SIGCONT)
            self.signal(name, signal.SIGTERM)
        return [_ended(process) for process in self.running.values()]

    def _watch(self) -> None:
        while not self._over.wait(0.1):
            with self._lock:
                for name in [name for name, process in self.running.items() if process.poll() is not None]:
                    self.deaths += 1
                    self.start(name)


def _ended(process: subprocess.Popen[bytes]) -> int | None:
    try:
        return process.wait(180)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return None


class Writer:
    """Commits and deletes all the time, in every generation that is open, and records each change."""

    def __init__(self, catalog: Catalog, history: SearchHistory, chance: random.Random) -> None:
        self._catalog = catalog
        self._history = history
        self._chance = chance
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._versions: dict[str, int] = {}  # of the images that are there
        self._number = 0
        self.error: BaseException | None = None
        self.commits = 0
        self.collection_id = catalog.collections.ensure("default").id
        self._filled = [self._begun(catalog.generations.ensure_active(self.collection_id, model(0)))]
        self._upsert([*KEPT, *COMING_AND_GOING[:100]])

    def start(self) -> None:
        """Write from now on."""
        self._thread.start()

    def stop(self) -> Generation:
        """End; the generation that is searched, at its last change."""
        self._over.set()
        self._thread.join(60)
        if self.error is not None:
            raise self.error
        return self._catalog.generations.get(self._filled[-1].id)

    def begin_reindex(self) -> None:
        """A generation of a new model beside the active one, with a vector for each image; both are kept in step."""
        with self._lock:
            self._number += 1
            successor = self._begun(self._catalog.lifecycle.begin(self.collection_id, model(self._number)))
            names = list(self._versions)
            for start in range(0, len(names), 64):
                self._commit(successor, names[start : start + 64])
            self._filled.append(successor)

    def switch(self) -> None:
        """Searches are to use the new generation; the old one takes removals only."""
        with self._lock:
            self._catalog.lifecycle.activate(self._filled[-1].id)
            self._filled = self._filled[-1:]

    def _begun(self, generation: Generation) -> Generation:
        self._history.begin(generation.id, generation.model)
        self._open = [*getattr(self, "_open", []), generation]
        return generation

    def _run(self) -> None:
        try:
            while not self._over.wait(self._chance.uniform(0.0, 0.05)):
                with self._lock:
                    self._change()
        except BaseException as error:  # noqa: BLE001 - told by `stop`
            self.error = error

    def _change(self) -> None:
        some = self._chance.sample(COMING_AND_GOING, self._chance.randint(1, 12))
        if self._chance.random() < 0.4:
            self._delete([name for name in some if name in self._versions])
        else:
            self._upsert([*some, *self._chance.sample(KEPT, self._chance.randint(0, 3))])
        self.commits += 1

    def _upsert(self, names: list[str]) -> None:
        for name in names:
            self._versions[name] = self._chance.randrange(10**9)
        for generation in self._filled:
            self._commit(generation, names)

    def _delete(self, names: list[str]) -> None:
        if not names:
            return
        self._catalog.images.delete(self.collection_id, names)
        for name in names:
            del self._versions[name]
        for generation in self._open:
            seq = self._catalog.generations.get(generation.id).last_seq
            self._history.record(generation.id, seq, {}, names)

    def _commit(self, generation: Generation, names: list[str]) -> None:
        rows = {name: vector(f"{name} {self._versions[name]} {generation.model.weights_fingerprint}") for name in names}
        batch = IndexBatch(upserts=[IndexedImage(self._metadata(name), row) for name, row in rows.items()])
        self._history.record(generation.id, self._catalog.commit(generation.id, batch), rows)

    def _metadata(self, name: str) -> ImageMetadata:
        content = hashlib.sha256(f"{name} {self._versions[name]}".encode()).hexdigest()
        attributes = {"kind": "kept"} if name in KEPT else {"kind": "more"}
        return ImageMetadata(image_id=name, source_uri=f"file:///{name}", sha256=content, attributes=attributes)


@dataclass
class Asker:
    """One client on a thread of its own: asks, keeps what came, and asks again."""

    redis_url: str
    chance: random.Random
    answers: list[tuple[Asked, SearchAnswer]] = field(default_factory=list)
    errors: list[tuple[Asked, VisualSearchError]] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)
    thread: threading.Thread | None = None

    def start(self) -> None:
        """Ask from now on."""
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def stop(self) -> None:
        """No new searches; waits for the last answers."""
        self.over.set()
        if self.thread is not None:
            self.thread.join(TIMEOUT_SECONDS + 15)

    def _run(self) -> None:
        with SearchClient(Settings(), redis_url=self.redis_url) as client:
            while not self.over.is_set():
                several = [self.question() for _ in range(self.chance.choice([1, 1, 1, 5]))]
                outcomes = client.send_many([one.request for one in several])
                for asked, outcome in zip(several, outcomes, strict=True):
                    if isinstance(outcome, SearchAnswer):
                        self.answers.append((asked, outcome))
                    else:
                        self.errors.append((asked, outcome))
                time.sleep(self.chance.uniform(0.0, 0.02))

    def question(self) -> Asked:
        """A search by vector or by stored image, of any page, for some with a filter."""
        only_kept = self.chance.random() < 0.3
        options: dict[str, Any] = {"top_k": self.chance.randint(1, 20), "offset": self.chance.choice([0, 0, 0, 7, 60])}
        if only_kept:
            options["filter"] = Equals(key="kind", value="kept")
        name = self.chance.choice(KEPT)
        row = None if self.chance.random() < 0.5 else vector(str(self.chance.random()))
        part = QueryPart(image_id=name) if row is None else QueryPart(vector=tuple(row.tolist()))
        request = SearchRequest(
            parts=(part,),
            options=options,
            exclude=tuple(self.chance.sample(KEPT, 2)),
            priority=self.chance.choice(["high", "normal", "normal", "low"]),
            timeout_seconds=TIMEOUT_SECONDS,
        )
        return Asked(request, row, "" if row is not None else name, frozenset(KEPT) if only_kept else None)
