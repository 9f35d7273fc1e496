"""Query workers as real processes with real Valkey: answers, freshness, switches, kills, wiping, draining."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from databases import PostgresServer
from query_collections import MODEL, OTHER, store, vector
from redis import Redis
from search_entries import ask, reply, request, submit
from servers import ROOT, RoleProcess, StartRole, ValkeyServer, environment_of, wait_for

from query_service.client import SearchClient
from query_service.transport.request_queue import CANCEL_SCRIPT, STREAMS, cancel_arguments, reply_key
from storage.catalog import Catalog, Generation, catalog_of
from storage.settings import Settings
from workers.change_hints import announce_change
from workers.servers import connect_url
from workers.signs.health import health_of

pytestmark = pytest.mark.slow  # real processes: `make test-slow`


@pytest.fixture(params=["sqlite", "postgresql"])
def settings(request: pytest.FixtureRequest, tmp_path: Path, redis_url: str) -> Settings:
    database = {"database_url": request.getfixturevalue("postgres_url")} if request.param == "postgresql" else {}
    return Settings(data_dir=tmp_path / "data", model="baseline", redis_url=redis_url, **database)


@pytest.fixture
def client(redis_url: str) -> Iterator[Redis]:
    with connect_url(redis_url) as connected:
        yield connected


@pytest.fixture
def catalog(settings: Settings) -> Iterator[Catalog]:
    with catalog_of(settings) as opened:
        yield opened


@pytest.fixture
def generation(catalog: Catalog) -> Generation:
    """The collection `default` with ten images."""
    made = catalog.generations.ensure_active(catalog.collections.ensure("default").id, MODEL)
    store(catalog, made, [f"{number:02}.jpg" for number in range(10)])
    return made


def by_vector(name: str, **fields: Any) -> Any:
    return request(parts=[{"vector": vector(name).tolist()}], **fields)


def start(start_role: StartRole, settings: Settings) -> RoleProcess:
    worker = start_role("query_service.worker", settings)
    wait_for(lambda: worker.says("ready"), what="the query worker to be ready")
    return worker


def best(client: Redis, name: str, **fields: Any) -> str:
    answer = ask(client, by_vector(name, **fields)).answer
    assert answer is not None
    return answer.results[0].image_id


def test_a_worker_answers_refuses_and_drains(
    start_role: StartRole, settings: Settings, client: Redis, catalog: Catalog, generation: Generation
) -> None:
    worker = start(start_role, settings)
    found = ask(client, by_vector("03.jpg", options={"top_k": 3}))
    assert found.answer is not None
    expected = sorted(
        (float(((vector(f"{n:02}.jpg") - vector("03.jpg")) ** 2).sum()), f"{n:02}.jpg") for n in range(10)
    )
    assert [one.image_id for one in found.answer.results] == [name for _, name in expected[:3]]
    assert found.answer.results[0].source_uri == "file:///03.jpg"
    provenance = found.answer.provenance
    assert (provenance.generation_id, provenance.seq, provenance.images) == (generation.id, 10, 10)
    assert set(provenance.stage_seconds) >= {"queued", "embed", "search", "total"}
    # what cannot be answered gets the reason, and the worker lives on
    reasons = {}
    for name, one in {
        "unknown_collection": by_vector("x", collection="none-such"),
        "unknown_id": request(parts=[{"image_id": "none"}]),
        "invalid_vector": request(parts=[{"vector": [1.0, 0.0]}]),
        "no_model": request(parts=[{"text": "a dog"}]),
    }.items():
        error = ask(client, one).error
        assert error is not None
        reasons[name] = error.reason
    assert reasons["unknown_collection"] == "unknown_collection"
    assert reasons["unknown_id"] == "unknown_id"
    assert all(reasons.values())
    for message in (b"", b"\x00", b"\x81\xa1v\x02", b"\xc1" * 100, b"\x81\xa1v\x01"):
        forged = request()
        client.xadd(STREAMS["normal"], {"id": forged.request_id, "m": message, "t": 60_000})
        error = reply(client, forged.request_id).error
        assert error is not None
        assert error.reason in {"malformed_message", "invalid_query"}
    # its time is over; nobody waits
    worker.send(signal.SIGSTOP)
    late, gone, fine = (by_vector("03.jpg", timeout_seconds=seconds) for seconds in (0.1, 60.0, 60.0))
    for one in (late, gone, fine):
        submit(client, one)
    client.eval(CANCEL_SCRIPT, *cancel_arguments(gone.request_id, 600.0))
    time.sleep(0.15)
    worker.send(signal.SIGCONT)
    assert reply(client, fine.request_id).answer is not None
    error = reply(client, late.request_id).error
    assert error is not None
    assert error.reason == "deadline_exceeded"
    assert not client.exists(reply_key(gone.request_id))
    # many at once are one batch
    worker.send(signal.SIGSTOP)
    many = [by_vector(f"{number % 10:02}.jpg") for number in range(20)]
    for one in many:
        submit(client, one)
    worker.send(signal.SIGCONT)
    answers = [reply(client, one.request_id).answer for one in many]
    assert max(one.provenance.batch_size for one in answers if one) > 1
    assert [one.results[0].image_id for one in answers if one] == [f"{n % 10:02}.jpg" for n in range(20)]

    # status tells what it did, and that it waits for work
    def idle() -> bool:
        [role] = health_of(client, stuck_seconds=60).roles
        return (role.role, role.state, role.doing) == ("query_worker", "idle", "") and role.done >= 30

    wait_for(idle, what="status to show an idle worker")
    # SIGTERM answers what was taken and ends soon
    assert worker.stop() == 0


@pytest.mark.usefixtures("generation")
def test_who_reads_that_a_worker_is_ready_finds_it_ready(
    start_role: StartRole, settings: Settings, client: Redis
) -> None:
    start(start_role, settings)
    with SearchClient(settings) as asking:
        assert asking.workers() == 1
    [role] = health_of(client, stuck_seconds=60).roles
    assert (role.role, role.state, role.doing) == ("query_worker", "idle", "")


def test_what_is_committed_is_found_and_what_is_removed_is_gone(
    start_role: StartRole, settings: Settings, client: Redis, catalog: Catalog, generation: Generation
) -> None:
    start(start_role, settings)
    waits: dict[bool, list[float]] = {True: [], False: []}
    slowest_search = 0.0  # on a crowded machine a search itself takes long
    for number in range(12):
        name, hinted = f"new-{number}", number % 2 == 0
        last_seq = store(catalog, generation, [name])
        committed = time.monotonic()
        if hinted:
            announce_change(client, generation.id, last_seq)
        found = ""
        while found != name:
            time.sleep(0.02)
            asked = time.monotonic()
            found = best(client, name)
            slowest_search = max(slowest_search, time.monotonic() - asked)
            assert asked - committed < 180, "never searchable"
        waits[hinted].append(time.monotonic() - committed)
    print({hinted: [round(one, 3) for one in sorted(several)] for hinted, several in waits.items()})
    # a machine that stands still for seconds holds up one or two of them, and not the middle one
    assert max(sorted(several)[3] for several in waits.values()) < 1.0 + 4 * slowest_search
    catalog.images.delete(generation.collection_id, ["new-3"])
    wait_for(lambda: best(client, "new-3") != "new-3")
    # another collection appears without a restart
    other = catalog.generations.ensure_active(catalog.collections.ensure("other").id, MODEL)
    store(catalog, other, ["elsewhere"])
    wait_for(lambda: ask(client, by_vector("x", collection="other")).answer is not None)
    assert best(client, "x", collection="other") == "elsewhere"


def test_a_switch_of_generations_is_followed_and_every_answer_is_of_one(
    start_role: StartRole, settings: Settings, client: Redis, catalog: Catalog, generation: Generation
) -> None:
    start(start_role, settings)
    successor = catalog.lifecycle.begin(generation.collection_id, OTHER)
    store(catalog, successor, [f"{number:02}.jpg" for number in range(10)], salt="!")
    expected = {generation.id: "", successor.id: "!"}
    seen = []
    catalog.lifecycle.activate(successor.id)
    end = time.monotonic() + 60
    while time.monotonic() < end and seen.count(successor.id) < 3:
        answer = ask(client, by_vector("05.jpg", options={"top_k": 10})).answer
        assert answer is not None
        seen.append(answer.provenance.generation_id)
        for one in answer.results:
            distance = float(((vector(one.image_id + expected[seen[-1]]) - vector("05.jpg")) ** 2).sum())
            assert one.distance == pytest.approx(distance, abs=1e-5)
    assert seen.count(successor.id) == 3
    assert seen == sorted(seen), "never back"


def test_a_killed_workers_searches_are_taken_over_and_a_wiped_or_restarted_redis_is_outlived(
    start_role: StartRole, settings: Settings, own_valkey: Any, catalog: Catalog, generation: Generation
) -> None:
    server: ValkeyServer = own_valkey()
    with connect_url(server.url) as client:
        ours = settings.model_copy(update={"redis_url": type(settings.redis_url)(server.url)})
        ours.model_fields_set.add("redis_url")
        first = start(start_role, ours)
        # held by a worker that died: taken from the stream, never answered
        assert ask(client, by_vector("01.jpg")).answer is not None
        left = by_vector("02.jpg")
        first.send(signal.SIGSTOP)
        submit(client, left)  # the worker, which still waits in the server, gets it
        client.xreadgroup("query", "dead", {STREAMS["normal"]: ">"})  # unless it was stopped between two reads
        [held] = client.xpending_range(STREAMS["normal"], "query", min="-", max="+", count=10)
        first.stop(signal.SIGKILL)
        second = start(start_role, ours)
        found = reply(client, left.request_id).answer
        assert found is not None
        assert found.results[0].image_id == "02.jpg"
        assert found.provenance.worker.encode() != held["consumer"], "it was taken over"
        client.flushall()
        wait_for(lambda: client.exists(STREAMS["normal"]))
        assert best(client, "03.jpg") == "03.jpg"
        server.kill()
        wait_for(lambda: second.says("waiting for Redis"))
        server.start()
        assert best(client, "04.jpg") == "04.jpg"
        assert second.text().count("waiting for Redis") == 1
        assert second.stop() == 0


def test_servers_that_are_away_at_the_start_or_later_are_waited_for(
    start_role: StartRole, tmp_path: Path, own_valkey: Any, postgres_server: PostgresServer
) -> None:
    valkey: ValkeyServer = own_valkey()
    valkey.kill()
    with postgres_server.another() as postgres:
        url = postgres.url(postgres.make_database())
        settings = Settings(data_dir=tmp_path / "data", redis_url=valkey.url, database_url=url)
        with catalog_of(settings) as catalog:
            generation = catalog.generations.ensure_active(catalog.collections.ensure("default").id, MODEL)
            store(catalog, generation, ["01.jpg", "02.jpg"])
        postgres.stop()
        worker = start_role("query_service.worker", settings)
        wait_for(lambda: worker.says("waiting for Redis"))
        valkey.start()
        wait_for(lambda: worker.says("waiting for the catalog"))
        postgres.start()
        wait_for(lambda: worker.says("ready"))
        with connect_url(valkey.url) as client:
            assert best(client, "01.jpg") == "01.jpg"
            postgres.stop()
            for filtered in ({}, {"options": {"filter": {"op": "exists", "key": "year"}}}):
                error = ask(client, by_vector("01.jpg", **filtered)).error
                assert error is not None
                assert (error.reason, error.retryable) == ("catalog_unavailable", True)
            postgres.start()
            wait_for(lambda: ask(client, by_vector("02.jpg")).answer)
            with catalog_of(settings) as catalog:
                store(catalog, generation, ["03.jpg"])
            wait_for(lambda: best(client, "03.jpg") == "03.jpg")
        assert worker.stop() == 0


def test_a_worker_that_waits_for_a_server_ends_when_it_is_told_to(
    start_role: StartRole, tmp_path: Path, own_valkey: Any
) -> None:
    valkey: ValkeyServer = own_valkey()
    valkey.kill()
    worker = start_role("query_service.worker", Settings(data_dir=tmp_path / "data", redis_url=valkey.url))
    wait_for(lambda: worker.says("waiting for Redis"))
    assert worker.stop() == 0


@pytest.mark.parametrize("settings", ["sqlite"], indirect=True)
@pytest.mark.usefixtures("generation")
def test_a_worker_that_is_told_to_stop_ends_also_while_redis_is_silent(
    start_role: StartRole, settings: Settings, own_valkey: Any
) -> None:
    """Its question to Redis alone may stay without an answer for minutes."""
    valkey: ValkeyServer = own_valkey()
    ours = settings.model_copy(update={"redis_url": type(settings.redis_url)(valkey.url)})
    ours.model_fields_set.add("redis_url")
    worker = start(start_role, ours)
    assert valkey.process is not None
    valkey.process.send_signal(signal.SIGSTOP)
    try:
        assert worker.stop(seconds=90) == 0
    finally:
        valkey.process.send_signal(signal.SIGCONT)
    assert "ended without it" in worker.text()


SLOW_BOOT = """
import sys, time
from pipeline.replica import IndexReplica
from query_service import worker
IndexReplica.boot = classmethod(lambda *_: time.sleep(3600))
sys.exit(worker.main())
"""


@pytest.mark.parametrize("settings", ["sqlite"], indirect=True)
@pytest.mark.usefixtures("generation")
def test_a_worker_that_is_told_to_stop_does_not_load_to_the_end(settings: Settings, client: Redis) -> None:
    process = subprocess.Popen([sys.executable, "-c", SLOW_BOOT], cwd=ROOT, env=environment_of(settings))
    try:
        wait_for(lambda: [role.doing for role in health_of(client, stuck_seconds=60).roles])
        time.sleep(0.5)  # the heartbeat begins just after the loading
        process.terminate()
        assert process.wait(120) == 0
    finally:
        process.kill()
        process.wait()
