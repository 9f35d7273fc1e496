"""docker-compose.yml without containers: each service of ours, started by exactly its command and environment.

Only places differ: host names become the ports of real servers on this machine, `/data` and `/photos` test folders.
"""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
import yaml
from pictures import write_photos
from servers import ROOT, RoleProcess, free_port, wait_for

pytestmark = pytest.mark.slow  # real processes that wait for each other: `make test-slow`

COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES = COMPOSE["services"]
OURS = {name for name, service in SERVICES.items() if "build" in service}
KEY = "a-key-of-the-deployment"
SCOPES = [{"name": "page", "sha256": hashlib.sha256(KEY.encode()).hexdigest(), "scopes": ["search"]}]
GIVEN = {
    "POSTGRES_PASSWORD": "postgres5ecret",
    "VALKEY_PASSWORD": "valkeyOdd1e",
    "MODEL": "baseline",
    "API_KEYS": json.dumps(SCOPES),
}  # what a person puts into .env
STOP_SECONDS = 15


def _interpolated(value, given=GIVEN):
    """`${NAME:-default}` and `${NAME:?message}` as compose fills them in."""

    def fill(match):
        name, how, rest = match.groups()
        if given.get(name):
            return given[name]
        assert how == ":-", f"{name} must be given: {rest}"
        return rest

    return re.sub(r"\$\{(\w+)(:[-?])([^}]*)\}", fill, value)


class Deployment:
    """Starts services of the compose file as processes, in a folder in place of the containers' disks."""

    def __init__(self, folder: Path, places: dict[str, str]) -> None:
        self.folder = folder
        self._places = {"/photos": str(folder / "photos"), "/data": str(folder / "data"), **places}
        self.address = f"http://127.0.0.1:{places.get('8600')}"
        self.started: dict[str, RoleProcess] = {}
        (folder / "data").mkdir()

    def start(self, name: str, *arguments: str, instance: str = "") -> RoleProcess:
        service = SERVICES[name]
        command = [*service.get("entrypoint", []), *(arguments or service["command"])]
        log = self.folder / f"{name}{instance}.log"
        with log.open("ab") as output:
            process = subprocess.Popen(
                [self.placed(_interpolated(part)) for part in command],
                cwd=self.folder / "data",
                env=self.environment(service),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self.started[f"{name}{instance}"] = RoleProcess(process, log)
        return self.started[f"{name}{instance}"]

    def run(self, name: str, *arguments: str) -> RoleProcess:
        """Start a service that ends by itself, and wait for it; each run has a log of its own."""
        role = self.start(name, *arguments, instance=f"-{len(self.started)}")
        role.process.wait(timeout=120)
        return role

    def environment(self, service) -> dict[str, str]:
        mine = {name: value for name, value in os.environ.items() if name == "HOME" or name.startswith("COV")}
        mine["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.defpath])
        mine["PYTHONPATH"] = str(ROOT)  # the image holds this tree, whatever is installed here
        for name, value in service["environment"].items():
            given = os.environ.get(name) if value is None else self.placed(_interpolated(value))
            if name == "VISUAL_SEARCH_METRICS_PORT":  # each container has a 9100 of its own
                given = str(free_port())
            if given is not None:
                mine[name] = given
        return mine

    def placed(self, text: str) -> str:
        for place, here in self._places.items():
            text = text.replace(place, here)
        return text


@pytest.fixture
def database(postgres_server):
    """The user and the database that the image of PostgreSQL makes from its environment; its host and port."""
    environment = {name: _interpolated(value) for name, value in SERVICES["postgres"]["environment"].items()}
    user, name = environment["POSTGRES_USER"], environment["POSTGRES_DB"]
    postgres_server.execute(f"CREATE ROLE {user} LOGIN PASSWORD '{environment['POSTGRES_PASSWORD']}'")
    postgres_server.execute(f"CREATE DATABASE {name} OWNER {user}")
    yield f"127.0.0.1:{postgres_server.port}"
    postgres_server.execute(f"DROP DATABASE {name} WITH (FORCE)")
    postgres_server.execute(f"DROP ROLE {user}")


@pytest.fixture
def deployment(tmp_path, database, own_valkey):
    options = [_interpolated(part) for part in SERVICES["valkey"]["command"][1:]]
    valkey = own_valkey(*options, password=GIVEN["VALKEY_PASSWORD"])
    places = {
        "@postgres:5432": f"@{database}",
        "@valkey:6379": f"@127.0.0.1:{valkey.port}",
        "8600": str(free_port()),
    }
    made = Deployment(tmp_path, places)
    yield made
    for role in made.started.values():
        if role.process.poll() is None:
            role.stop(signal.SIGKILL)
        print(f"--- {role.log.name}\n{role.text()}")


def _healthy(deployment, name):
    """The compose file's own health check, run as compose runs it."""
    [how, *command] = SERVICES[name]["healthcheck"]["test"]
    assert how == "CMD"
    placed = [deployment.placed(part) for part in command]
    return subprocess.run(placed, env=deployment.environment(SERVICES[name]), check=False).returncode == 0


def _search_over_http(address, key, image_id):
    body = {"query": [{"image_id": image_id}], "k": 3}
    answer = httpx.post(f"{address}/v1/search", json=body, headers={"Authorization": f"Bearer {key}"}, timeout=30)
    return answer.status_code, [one["image_id"] for one in answer.json().get("results", [])]


def test_the_services_of_the_compose_file_index_a_folder_answer_searches_and_stop_cleanly(deployment):
    first = write_photos(deployment.folder / "photos", 20)[0]
    for _again in range(2):
        assert deployment.run("migrate").process.returncode == 0
    roles = [
        deployment.start("embed-worker", instance="-1"),
        deployment.start("embed-worker", instance="-2"),
        deployment.start("aggregator"),
        deployment.start("beat"),
        deployment.start("query-worker", instance="-1"),
        deployment.start("query-worker", instance="-2"),
        deployment.start("http"),
    ]
    for role in roles:
        wait_for(lambda role=role: role.says("ready"), seconds=60, what=f"{role.log.name} to be ready")

    submitted = deployment.run("cli", "submit", "/photos", "--wait")
    assert submitted.process.returncode == 0, submitted.text()
    audited = deployment.run("cli", "audit", "/photos")
    assert audited.process.returncode == 0, audited.text()

    asked = deployment.run("cli", "search", "--service", "--id", first, "-k", "3", "--json")
    assert asked.process.returncode == 0, asked.text()
    by_rpc = [one["image_id"] for one in json.loads(asked.text())["results"]]
    wait_for(lambda: _healthy(deployment, "http"), seconds=30, what="the health check of http")
    wait_for(lambda: _healthy(deployment, "aggregator"), seconds=30, what="the health check by progress")
    assert _search_over_http(deployment.address, KEY, first) == (200, by_rpc)
    assert len(by_rpc) == 3
    assert _search_over_http(deployment.address, "another", first) == (401, [])

    for role in roles:
        role.send(signal.SIGTERM)
    assert {role.log.stem: role.process.wait(timeout=STOP_SECONDS) for role in roles} == {
        role.log.stem: 0 for role in roles
    }
    for role in deployment.started.values():
        assert not any(
            secret in role.text() for secret in (GIVEN["POSTGRES_PASSWORD"], GIVEN["VALKEY_PASSWORD"], KEY)
        ), f"{role.log.name} shows a secret"


def test_a_database_that_is_away_stops_the_deployment_at_its_first_step(tmp_path):
    migrate = Deployment(tmp_path, {"@postgres:5432": f"@127.0.0.1:{free_port()}"}).run("migrate")
    assert migrate.process.returncode == 1
    assert "catalog_unavailable" in migrate.text()
    assert GIVEN["POSTGRES_PASSWORD"] not in migrate.text()


def test_every_service_of_ours_is_tested_above():
    assert {"migrate", "embed-worker", "aggregator", "beat", "query-worker", "http", "cli"} == OURS


def test_passwords_have_no_default():
    with pytest.raises(AssertionError, match="POSTGRES_PASSWORD must be given"):
        _interpolated(SERVICES["beat"]["environment"]["VISUAL_SEARCH_DATABASE_URL"], {})
    with pytest.raises(AssertionError, match="VALKEY_PASSWORD must be given"):
        _interpolated(SERVICES["beat"]["environment"]["VISUAL_SEARCH_REDIS_URL"], {})
    with pytest.raises(AssertionError, match="API_KEYS must be given"):
        _interpolated(SERVICES["http"]["environment"]["VISUAL_SEARCH_API_KEYS"], {})


def test_no_shell_stands_between_a_signal_and_our_processes():
    for name in OURS:
        assert isinstance(SERVICES[name]["command"], list), name
        assert SERVICES[name]["init"] is True, name
    dockerfile = (ROOT / "deploy" / "Dockerfile").read_text()
    assert re.search(r"^CMD \[", dockerfile, re.MULTILINE)
    assert re.search(r"^USER visual-search$", dockerfile, re.MULTILINE)


def test_what_the_image_copies_is_there_and_let_through():
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    for sources in re.findall(r"^COPY (?!--)(.+) \S+$", (ROOT / "deploy" / "Dockerfile").read_text(), re.MULTILINE):
        for source in sources.split():
            assert (ROOT / source).exists(), source
            assert f"!{source.split('/')[0]}" in ignored, source


def test_what_a_service_waits_for_can_come_about():
    for service in SERVICES.values():
        for name, condition in service.get("depends_on", {}).items():
            if condition["condition"] == "service_healthy":
                assert "healthcheck" in SERVICES[name]
            else:
                assert SERVICES[name]["restart"] == "no"
    volumes = [volume for one in SERVICES.values() for volume in one["volumes"]]
    used = {volume.split(":")[0] for volume in volumes if not volume.startswith(("$", "."))}
    assert used == set(COMPOSE["volumes"])
