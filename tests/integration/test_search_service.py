"""Everything that asks, against a real query worker: the clients, the programs in docs/rpc.md, Celery, the command."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pictures import jpeg, write_photos
from servers import ROOT, ValkeyServer, free_port, wait_for

from query_service.async_client import AsyncSearchClient
from query_service.client import SearchClient
from query_service.errors import ServiceBusy
from query_service.protocol import SearchAnswer
from storage.settings import Settings

pytestmark = pytest.mark.slow  # real processes: `make test-slow`

PHOTOS = 8


@dataclass
class Service:
    """A folder with indexed photos, a Valkey, and a query worker that serves them."""

    home: Path
    valkey: ValkeyServer
    worker_log: Path | None = None

    @property
    def settings(self) -> Settings:
        return Settings(data_dir=self.home / "data", model="baseline", redis_url=self.valkey.url, search_seconds=60)

    def environment(self, **more: str) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("VISUAL_SEARCH_")}
        ours = {"DATA_DIR": str(self.home / "data"), "MODEL": "baseline", "REDIS_URL": self.valkey.url}
        ours["SEARCH_SECONDS"] = "60"  # a busy machine takes longer than people wait
        named = {f"VISUAL_SEARCH_{name}": value for name, value in ours.items()}
        return {**kept, **named, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **more}

    def run(self, *arguments: str, seconds: float = 180, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=self.home,
            env=self.environment(**more),
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )

    def command(self, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        return self.run("-m", "visual_search", *arguments, **more)

    def start(self, *arguments: str) -> tuple[subprocess.Popen[bytes], Path]:
        log = self.home / f"{len(list(self.home.glob('*.log')))}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, *arguments],
                cwd=self.home,
                env=self.environment(),
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        return process, log


@pytest.fixture(scope="module")
def service(_valkey_program: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    home = tmp_path_factory.mktemp("service")
    write_photos(home / "photos", PHOTOS)
    (home / "query.jpg").write_bytes((home / "photos" / "odd" / "03.jpg").read_bytes())
    years = "".join(f"{'odd' if n % 2 else 'even'}/{n:02}.jpg,{2018 + n}\n" for n in range(PHOTOS))
    (home / "years.csv").write_text(f"image_id,year\n{years}")
    folder = home / "valkey"
    folder.mkdir()
    made = Service(home, ValkeyServer(folder, free_port()))
    made.valkey.start()
    indexed = made.command("index", "photos", "--attributes", "years.csv")
    assert indexed.returncode == 0, indexed.stderr
    worker, log = made.start("-m", "query_service.worker")
    made.worker_log = log
    wait_for(lambda: "ready" in log.read_text() or worker.poll() is not None, what="the worker")
    yield made
    worker.terminate()
    assert worker.wait(timeout=180) == 0, log.read_text()
    made.valkey.kill()


@pytest.fixture(autouse=True)
def _told_by_the_worker(service: Service) -> Iterator[None]:
    """A failing test shows what the worker said meanwhile, and the server's keys."""
    assert service.worker_log is not None
    before = service.worker_log.stat().st_size
    yield
    print("--- the worker\n" + service.worker_log.read_text()[before:])
    with service.valkey.client() as redis:
        print("--- keys", redis.keys("*"))


def documented(name: str) -> str:
    """The program of docs/rpc.md that begins with this comment."""
    page = (ROOT / "docs" / "rpc.md").read_text()
    blocks = re.findall(r"(?:^(?: {4}.*)?\n)+", page, re.MULTILINE)
    (program,) = [textwrap.dedent(one).strip() for one in blocks if one.strip().startswith(f"# {name}")]
    return program + "\n"


def test_both_clients_find_the_same_by_picture_id_vector_and_mixture(service: Service) -> None:
    photo = service.home / "photos" / "odd" / "03.jpg"
    questions: list[Any] = [
        {"image": photo, "k": 3},
        {"image": photo.read_bytes(), "k": 3},
        {"image_id": "odd/03.jpg", "exclude_query": False, "k": 3},
        {"image_id": "odd/03.jpg", "k": 3, "exclude": ["even/02.jpg"]},
        {"image": photo, "filter": {"op": "range", "key": "year", "lte": 2020}},
        {"text": "a dog"},
        {"image_id": "none"},
        {"image": jpeg(1)[:200]},
    ]

    async def ask() -> list[Any]:
        async with AsyncSearchClient(service.settings) as client:
            return await client.search_many(questions)

    with SearchClient(service.settings) as client:
        assert client.workers() == 1
        outcomes = client.search_many(questions)
    for one, other in zip(outcomes, asyncio.run(ask()), strict=True):
        assert type(one) is type(other), (one, other)
        if isinstance(one, SearchAnswer):
            assert one.image_ids == other.image_ids
    assert not [one for one in outcomes[:5] if isinstance(one, Exception)]
    by_path, by_bytes, by_id, without, early, *errors = outcomes
    assert by_path.image_ids == by_bytes.image_ids == by_id.image_ids
    assert (by_path.image_ids[0], by_path.results[0].score) == ("odd/03.jpg", pytest.approx(1.0))
    assert not {"odd/03.jpg", "even/02.jpg"} & set(without.image_ids)
    assert sorted(early.image_ids) == ["even/00.jpg", "even/02.jpg", "odd/01.jpg"]
    assert by_path.provenance.images == PHOTOS
    assert [error.reason for error in errors] == ["text_not_supported", "unknown_id", "corrupt"]


def test_many_threads_at_once_get_each_their_own_answer(service: Service) -> None:
    names = [f"{'odd' if n % 2 else 'even'}/{n:02}.jpg" for n in range(PHOTOS)] * 40
    with SearchClient(service.settings, busy_retries=8) as client, ThreadPoolExecutor(24) as threads:
        found = threads.map(lambda name: client.search(image_id=name, exclude_query=False, k=1).image_ids, names)
        assert list(found) == [[name] for name in names]
    with service.valkey.client() as redis:
        assert redis.keys("vs:reply:*") == []


def test_the_programs_of_the_document_run_as_written(service: Service) -> None:
    for name in ("search_client.py", "async_search_client.py", "plain_search.py"):
        (service.home / name).write_text(documented(name))
    told = service.run("search_client.py")
    assert told.returncode == 0, told.stderr
    first, *_, provenance, found, failed = told.stdout.splitlines()
    assert first == "1 odd/03.jpg 1.0000 {'year': 2021}"
    assert provenance.split(" ", 2)[1] == str(PHOTOS)
    assert provenance.endswith("['normalize', 'diversity', 'page']")
    assert (found, failed) == ("odd/03.jpg", "unknown_id False")
    told = service.run("async_search_client.py")
    assert told.stdout == "['odd/03.jpg'] ['odd/03.jpg']\n", told.stderr
    plain = service.run("plain_search.py", service.valkey.url, "query.jpg")
    assert plain.returncode == 0, plain.stderr
    assert plain.stdout.splitlines()[0] == "1 odd/03.jpg 1.0000"
    assert len(plain.stdout.splitlines()) == 3
    broken = service.run("plain_search.py", service.valkey.url, "years.csv")
    assert "RuntimeError: unsupported_format" in broken.stderr
    assert "visual_search" not in documented("plain_search.py")


def test_celery_users_send_a_task(service: Service) -> None:
    from celery import Celery

    options = ["--pool", "threads", "--concurrency", "2", "--loglevel", "INFO"]
    worker, log = service.start("-m", "celery", "--app", "query_service.celery_search", "worker", *options)
    try:
        wait_for(lambda: "ready" in log.read_text() or worker.poll() is not None, what="Celery")
        with Celery("theirs", broker=service.valkey.url, backend=service.valkey.url) as app:
            picture = base64.b64encode((service.home / "query.jpg").read_bytes()).decode()
            found = _send(app, image_base64=picture, k=2, options={"diversity": 0.5}, filter="year>=2020")
            assert found["results"][0]["image_id"] == "odd/03.jpg"
            assert found["provenance"]["images"] == PHOTOS
            mixed = _send(app, parts=[{"image_base64": picture}, {"image_id": "even/00.jpg", "weight": -0.5}])
            assert len(mixed["results"]) == PHOTOS - 1
            reasons = [
                _send(app, **question)["error"]["reason"]
                for question in (
                    {"image_id": "none"},
                    {"image": "/etc/passwd"},
                    {"parts": [{"image": "/etc/passwd"}]},
                    {"image_base64": "no base64!"},
                    {"image_id": "a", "colour": "red"},
                    {},
                )
            ]
            assert reasons == ["unknown_id", *["invalid_query"] * 5]
    finally:
        worker.terminate()
        worker.wait(timeout=180)
        print(log.read_text())
    assert worker.returncode == 0


def _send(app: Any, **question: Any) -> Any:
    return app.send_task("query_service.search", kwargs=question, queue="search").get(timeout=120)


def test_the_search_command_asks_the_service_and_says_so(service: Service) -> None:
    found = service.command("search", "--image", "query.jpg", "-k", "2", "--json")
    document = json.loads(found.stdout)
    assert (document["served_by"], document["results"][0]["image_id"]) == ("service", "odd/03.jpg")
    assert document["provenance"]["images"] == PHOTOS
    embedded = json.loads(service.command("search", "--image", "query.jpg", "-k", "2", "--json", "--embedded").stdout)
    assert embedded["served_by"] == "embedded"
    assert embedded["results"] == document["results"]
    people = service.command("search", "--image", "query.jpg", "-k", "2", "--html", "page.html")
    assert people.returncode == 0, people.stderr
    assert "odd/03.jpg" in people.stdout
    assert people.stderr.startswith("service: model baseline, generation 1, 8 images, ")
    assert (service.home / "page.html").read_text().count("data:image/jpeg;base64,") == 3


def test_both_ways_of_searching_mix_and_explain_alike(service: Service) -> None:
    arguments = [
        "search",
        "--image",
        "query.jpg",
        "--id",
        "even/00.jpg",
        "--not-id",
        "odd/07.jpg",
        "--explain",
        "--json",
    ]
    arguments += ["--filter", "year>=2019", "--diversity", "0.4", "-k", "3", "--offset", "1"]
    ways = [json.loads(service.command(*arguments, way).stdout) for way in ("--service", "--embedded")]
    assert [one["served_by"] for one in ways] == ["service", "embedded"]
    assert ways[0]["results"] == ways[1]["results"]
    assert ways[0]["explanation"] == ways[1]["explanation"]
    assert ways[0]["explanation"]["steps"] == ["filter", "normalize", "diversity", "page"]
    told = service.command(*[one for one in arguments if one != "--json"])
    assert told.returncode == 0, told.stderr
    rows = told.stdout.splitlines()
    assert "filter" in rows[6]
    assert len(rows) == 4 + 1 + 2 + 1 + 3, "two tables: a row for each result"


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (["--id", "none"], 1, "unknown_id"),
        (["--text", "a dog"], 1, "text_not_supported"),
        (["--image", "years.csv"], 1, "unsupported_format"),
        (["--id", "odd/03.jpg", "--collection", "other"], 1, "unknown_collection"),
        (["--id", "odd/03.jpg", "--filter", "=x"], 2, "invalid_filter"),
        (["--id", "odd/03.jpg", "-k", "1001", "--service"], 2, "invalid_query"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_what_the_service_refuses_is_one_line_and_an_exit_code(
    service: Service, arguments: list[str], code: int, reason: str
) -> None:
    refused = service.command("search", *arguments, "--json")
    assert (refused.returncode, json.loads(refused.stderr)["error"]["reason"]) == (code, reason)
    assert refused.stdout == ""


def test_a_page_larger_than_the_service_gives_is_searched_here(service: Service) -> None:
    found = service.command("search", "--id", "odd/03.jpg", "-k", "1001")
    assert found.returncode == 0, found.stderr
    assert found.stderr.startswith("embedded (the service gives no pages that large): ")


def test_without_a_worker_it_is_searched_here_unless_the_service_is_wanted(service: Service) -> None:
    nowhere = {"VISUAL_SEARCH_REDIS_URL": f"redis://:secret@127.0.0.1:{free_port()}/0"}
    here = service.command("search", "--id", "odd/03.jpg", **nowhere)
    assert here.returncode == 0, here.stderr
    assert here.stderr.startswith("embedded (redis://127.0.0.1:")
    wanted = service.command("search", "--id", "odd/03.jpg", "--service", **nowhere)
    assert wanted.returncode == 1
    assert "cannot be reached" in wanted.stderr
    assert "secret" not in here.stderr + wanted.stderr
    idle = ValkeyServer(service.home, free_port())
    idle.start()
    try:
        wanted = service.command("search", "--id", "odd/03.jpg", "--service", VISUAL_SEARCH_REDIS_URL=idle.url)
    finally:
        idle.kill()
    assert wanted.returncode == 1
    assert "no query worker has given a sign: start one with `visual-search up`" in wanted.stderr
    both = service.command("search", "--id", "odd/03.jpg", "--service", "--embedded")
    assert (both.returncode, "exclude each other" in both.stderr) == (2, True)


def test_ten_times_what_it_can_take_is_busy_at_once_and_leaves_nothing_behind(service: Service) -> None:
    tight = service.settings.model_copy(update={"search_queue": 4})
    with SearchClient(tight) as client, ThreadPoolExecutor(40) as threads:
        asked = [threads.submit(client.search, image_id="odd/03.jpg", k=1, timeout=60.0) for _ in range(400)]
        errors = [one.exception() for one in asked]
    answered = sum(error is None for error in errors)
    print(f"{answered} of {len(errors)} answered, the others busy")
    assert answered
    assert {type(error) for error in errors if error is not None} <= {ServiceBusy}
    with service.valkey.client() as redis:
        assert redis.keys("vs:reply:*") == []
        assert redis.xlen("vs:search:normal") == 0
