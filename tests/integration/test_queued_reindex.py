"""Changing the model by the queue: real processes, both databases, while images come and go and searches go on."""

# ruff: noqa: PLR0917 - fixtures are arguments
from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import save_tiny_clip
from pictures import jpeg, write_photos
from servers import ROOT, StartRole, environment_of, wait_for
from typing_extensions import Self

from pipeline.embedding_service import EmbeddingService
from pipeline.errors import GateFailed, InvalidQuery, ReindexIncomplete
from pipeline.reindex import Gate, ReindexReport
from pipeline.rerank import RerankOptions
from storage.catalog import Catalog
from storage.settings import Settings
from visual_search.collection import ImageCollection, Query
from visual_search.reindexing import roll_back
from workers.job_client import JobClient
from workers.submitting.queued_reindex import QueuedPlan

pytestmark = pytest.mark.slow  # real processes that wait for each other: `make test-slow`

FIRST_IMAGES, LATER_IMAGES = 120, 12
ASKED = "even/00.jpg"
Vectors = Mapping[str, np.ndarray]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Two models of the same shape: only their numbers tell their vectors apart."""
    folder = tmp_path_factory.mktemp("clip")
    first, second = (str(save_tiny_clip(folder / f"seed-{seed}", seed=seed)) for seed in (1, 2))
    return first, second


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    write_photos(tmp_path / "photos", FIRST_IMAGES)
    return tmp_path / "photos"


@pytest.fixture
def settings_for(tmp_path: Path, redis_url: str, request: pytest.FixtureRequest) -> Callable[..., Settings]:
    def make(model: str, database: str = "sqlite") -> Settings:
        values: dict[str, Any] = {"data_dir": tmp_path / "data", "model": model, "redis_url": redis_url}
        values |= {"batch_images": 2, "lease_seconds": 30.0, "resend_seconds": 20.0, "sweep_seconds": 0.5}
        if database == "postgresql":
            values["database_url"] = request.getfixturevalue("postgres_url")
        return Settings(**values)

    return make


def start_roles(start_role: StartRole, worker_process: StartRole, settings: Settings) -> None:
    aggregator = start_role("workers.aggregator", settings)
    worker_process(settings)
    wait_for(lambda: aggregator.says("ready"), what="the aggregator to be ready")


def submit(client: JobClient, folder: Path, **options: Any) -> None:
    job = client.submit(folder, **options).job.id
    wait_for(lambda: client.get(job).is_over, what="the submitted images")


def embedded_here(model: str, folder: Path) -> dict[str, np.ndarray]:
    """The vectors of all pictures by one model, made in this process."""
    service = EmbeddingService(model, device="cpu", dtype="float32")
    keys = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.jpg"))
    return {key: service.embed_image(folder / key) for key in keys}


@dataclass
class Searching:
    """Searches in a loop on a thread of its own; each answer is checked against the vectors of one model."""

    settings: Settings
    expected: Mapping[str, Vectors]  # by the model's name
    always: frozenset[str]  # images that every answer has to hold
    picture: Path
    answers: list[str] = field(default_factory=list)  # the models that answered, in order
    errors: list[str] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._loop)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self._thread.join()

    def _loop(self) -> None:
        with ImageCollection(settings=self.settings, create=False) as collection:
            while not self.stop.is_set() and not self.errors:
                query = Query(image_id=ASKED) if len(self.answers) % 2 else Query(image=self.picture)
                try:
                    self._check(collection, query)
                except Exception as error:  # noqa: BLE001 - told to the test, which fails of it
                    self.errors.append(repr(error))

    def _check(self, collection: ImageCollection, query: Query) -> None:
        answer = collection.search(query, RerankOptions(top_k=1000))
        assert answer.model is not None
        vectors = self.expected[answer.model.name]
        asked = vectors[ASKED]
        for found in answer.hits():
            right = float(np.sum((asked - vectors[found.image_id]) ** 2))
            if abs(found.distance - right) > 1e-4:
                self.errors.append(f"{found.image_id}: {found.distance} of {right} by {answer.model.name}")
        expected = self.always - ({ASKED} if query.image_id else set())
        if missing := expected - set(answer.image_ids):
            self.errors.append(f"not found: {missing}")
        if answer.image_ids != [found.image_id for found in sorted(answer.hits(), key=lambda one: one.distance)]:
            self.errors.append("not in order")
        self.answers.append(answer.model.name)


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_the_model_changes_while_images_come_and_go_and_no_answer_mixes_models(
    settings_for: Callable[..., Settings],
    database: str,
    checkpoints: tuple[str, str],
    photos: Path,
    start_role: StartRole,
    worker_process: StartRole,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("workers.submitting.queued_reindex.LOOK_SECONDS", 0.02)
    first, second = checkpoints
    settings = settings_for(first, database)
    later = [f"later/{number:02}.jpg" for number in range(LATER_IMAGES)]
    gone = ["odd/01.jpg", "even/56.jpg", "odd/119.jpg"]
    start_roles(start_role, worker_process, settings)
    with JobClient(settings) as client:
        submit(client, photos)
        (photos / "later").mkdir()
        for number, key in enumerate(later):
            (photos / key).write_bytes(jpeg(500 + number))
        expected = {model: embedded_here(model, photos) for model in checkpoints}
        always = frozenset(expected[first].keys() - set(gone) - set(later))
        with Searching(settings, expected, always, photos / ASKED) as searching:
            wait_for(lambda: searching.answers or searching.errors, what="a first answer")
            report = reindex_meanwhile(settings, second, lambda: disturb(client, photos, gone))
            seen = len(searching.answers)
            wait_for(lambda: len(searching.answers) > seen + 3 or searching.errors)
        assert searching.errors == []
        assert set(searching.answers) == {first, second}
        assert searching.answers == sorted(searching.answers, key=[first, second].index), "it went back and forth"
        assert report.switched
        check_end(settings, photos, expected[second], gone)
        wait_for(lambda: all(client.get(job.job.id).is_over for job in client.list()))
    with ImageCollection(settings=settings, create=False) as collection:
        assert roll_back(collection).switched
        assert collection.generation is not None
        assert collection.generation.model.name == first
        assert {finding.problem for finding in collection.audit(photos).findings} <= {"deleted"}
        held = collection.search_service.index
        assert set(held.ids()) == expected[first].keys() - set(gone)
        for image_id in held.ids():
            np.testing.assert_allclose(held.reconstruct(image_id), expected[first][image_id], atol=1e-5)


def reindex_meanwhile(settings: Settings, model: str, meanwhile: Callable[[], None]) -> ReindexReport:
    """Run the queued reindex; `meanwhile` is called on another thread as soon as the first batch is done."""
    threads: list[threading.Thread] = []
    with JobClient(settings) as client:

        def on_round(progress: Any) -> None:
            if progress.indexed and not threads:
                threads.append(threading.Thread(target=meanwhile))
                threads[0].start()

        report = client.reindex(QueuedPlan(model)).run(on_round)
    assert threads, "the reindex was over before anything could happen beside it"
    threads[0].join()
    return report


def disturb(client: JobClient, photos: Path, gone: list[str]) -> None:
    """Remove images, change attributes, add images, all by the ways that users have."""
    collection_id = client.catalog.collections.get(client.settings.collection).id
    client.catalog.images.delete(collection_id, gone[:2])
    client.catalog.images.set_attributes(collection_id, {"odd/03.jpg": {"colour": "red"}})
    submit(client, photos, priority=5)
    client.catalog.images.delete(collection_id, gone[2:])


def check_end(settings: Settings, photos: Path, expected: Vectors, gone: list[str]) -> None:
    """Every live image has exactly the new model's vector; what was deleted or changed stays so; audit clean."""
    with ImageCollection(settings=settings, create=False) as collection:
        index = collection.search_service.index
        wait_for(lambda: len(collection.search_service.index) == len(expected) - len(gone), what="all images")
        index = collection.search_service.index
        assert set(index.ids()) == expected.keys() - set(gone)
        for image_id in index.ids():
            np.testing.assert_allclose(index.reconstruct(image_id), expected[image_id], atol=1e-5)
        assert collection.image("odd/03.jpg").attributes == {"colour": "red"}
        report = collection.audit(photos)
        assert {finding.problem for finding in report.findings} == {"deleted"}, report.by_problem()
        assert report.clean
        assert collection.failures() == []


def test_a_failing_gate_keeps_the_old_generation_and_what_was_built(
    settings_for: Callable[..., Settings],
    checkpoints: tuple[str, str],
    photos: Path,
    tmp_path: Path,
    start_role: StartRole,
    worker_process: StartRole,
) -> None:
    first, second = checkpoints
    settings = settings_for(first)
    start_roles(start_role, worker_process, settings)
    truth = tmp_path / "truth.json"
    with JobClient(settings) as client:
        client.catalog.collections.ensure("default")
        with pytest.raises(InvalidQuery, match="is empty"):
            client.reindex(QueuedPlan(second))
        submit(client, photos)
        with ImageCollection(settings=settings) as collection:
            best = {key: collection.search(Query(image_id=key)).image_ids[0] for key in ("odd/01.jpg", "odd/03.jpg")}
        truth.write_text(json.dumps({"queries": [{"query_id": q, "ground_truth": [f]} for q, f in best.items()]}))
        with pytest.raises(GateFailed, match=r"mrr would go from 1\.0000"):
            client.reindex(QueuedPlan(second, Gate(truth, "mrr"))).run()
        assert active(client.catalog) == first

        with pytest.raises(InvalidQuery, match="already"):
            client.reindex(QueuedPlan(first))
        report = client.reindex(QueuedPlan(second, Gate(truth, "mrr", max_drop=1.0))).run()
        assert (report.embedded, report.switched) == (0, True)  # the gate refused, but what was built was kept
        assert active(client.catalog) == second


def active(catalog: Catalog) -> str:
    generation = catalog.generations.active(catalog.collections.get("default").id)
    assert generation is not None
    return generation.model.name


def started(settings: Settings, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "visual_search", *arguments],
        cwd=ROOT,
        env=environment_of(settings),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(settings: Settings, *arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output, standard error."""
    with started(settings, *arguments) as process:
        output, error = process.communicate(timeout=180)
        return process.returncode, output, error


def test_killed_while_it_waits_the_same_command_goes_on_and_finishes(
    settings_for: Callable[..., Settings],
    checkpoints: tuple[str, str],
    photos: Path,
    start_role: StartRole,
    worker_process: StartRole,
) -> None:
    """No worker runs until it is killed. An image that changed at its source holds the switch up until it is synced."""
    first, second = checkpoints
    settings = settings_for(first)
    with ImageCollection(settings=settings) as collection:
        collection.index(photos)
    (photos / "odd" / "03.jpg").write_bytes(jpeg(999))
    asked = ("reindex", "--model", second, "--queue")
    with JobClient(settings) as client:
        with started(settings, *asked) as killed:
            wait_for(lambda: [one for one in client.list() if one.job.kind == "reindex" and one.listed])
            killed.kill()
        assert active(client.catalog) == first
        [job] = [one for one in client.list() if one.job.kind == "reindex"]
        start_roles(start_role, worker_process, settings)
        code, _output, error = run(settings, *asked)
        assert code == 1, error
        assert "has no vector for 1 images yet" in error
        assert client.get(job.job.id).job.state == "finished"
        assert [one.reason for one in client.catalog.failures.list(job.job.collection_id)] == ["content_changed"]
        assert active(client.catalog) == first
        submit(client, photos)
        code, output, error = run(settings, *asked, "--no-wait")
        assert code == 0, error
        assert "reindex stored images, for" in output
        wait_for(lambda: all(one.is_over for one in client.list()))
        code, output, error = run(settings, *asked, "--no-wait")
        assert code == 0, error
        assert "switched: searches use" in output
        assert active(client.catalog) == second
        assert client.catalog.failures.list(job.job.collection_id) == []
    with ImageCollection(settings=settings) as collection:
        assert collection.audit(photos).clean


def test_a_cancelled_round_is_told_and_costs_nothing(
    settings_for: Callable[..., Settings], checkpoints: tuple[str, str], photos: Path
) -> None:
    first, second = checkpoints
    settings = settings_for(first)
    with ImageCollection(settings=settings) as collection:
        collection.index(photos)
    with JobClient(settings) as client:
        change = client.reindex(QueuedPlan(second))
        queued = change.submit()
        assert queued is not None
        again = client.reindex(QueuedPlan(second)).submit()
        assert again is not None
        assert again.job.id == queued.job.id
        assert (again.listed, again.batches_left) == (FIRST_IMAGES, FIRST_IMAGES // 2)
        with pytest.raises(ReindexIncomplete, match="cancelled"):
            change.run(lambda progress: client.cancel(progress.job.id) and None)
        assert active(client.catalog) == first
