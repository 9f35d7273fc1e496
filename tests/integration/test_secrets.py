"""No password and no key in any log, command line or row, with all roles running and things going wrong."""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys

import httpx
import psutil
import pytest
from databases import _QUOTED_PASSWORD, PASSWORD
from pictures import jpeg, write_photos
from pydantic import SecretStr
from servers import ROOT, environment_of, free_port, wait_for
from sqlalchemy import create_engine, inspect, text

from storage.settings import ApiKey, Settings

pytestmark = pytest.mark.slow

VALKEY_PASSWORD = "oddPassw0rdOfValkey"  # noqa: S105 - a test server's
KEY = "oddKeyOfTheApi0123456789"
IN_ADDRESS = "oddPassw0rdInAnAddress"
ROLES = ("workers.embed_worker", "workers.aggregator", "workers.beat", "query_service.worker", "query_service.http")


@pytest.fixture
def settings(tmp_path, own_valkey, postgres_url):
    valkey = own_valkey(password=VALKEY_PASSWORD)
    key = ApiKey(name="tests", sha256=hashlib.sha256(KEY.encode()).hexdigest(), scopes=("admin",))
    return Settings(
        data_dir=tmp_path / "home",
        model="baseline",
        redis_url=SecretStr(f"redis://:{VALKEY_PASSWORD}@127.0.0.1:{valkey.port}/0"),
        database_url=SecretStr(postgres_url),
        sweep_seconds=0.5,
        http_port=free_port(),
        api_keys=[key],
        log_format="json",
    )


def _command(settings, *arguments):
    done = subprocess.run(
        [sys.executable, "-m", "visual_search", *arguments],
        cwd=ROOT, env=environment_of(settings), capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    return done.stdout + done.stderr


def _rows(url):
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    with engine.connect() as connection:
        yield from (
            str(tuple(row))
            for table in inspect(engine).get_table_names()
            for row in connection.execute(text(f'SELECT * FROM "{table}"'))
        )
    engine.dispose()


def test_secrets_are_nowhere_to_be_read(settings, start_role, own_valkey, tmp_path):
    write_photos(tmp_path / "photos", 6)
    (tmp_path / "photos" / "broken.jpg").write_bytes(jpeg(1)[:200])
    roles = [start_role(module, settings) for module in ROLES]
    for role in roles:
        wait_for(lambda role=role: role.says("ready"), what=str(role.log))
    said = [_command(settings, "submit", str(tmp_path / "photos"), "--wait")]
    (tmp_path / "list.txt").write_text(
        f"https://me:{IN_ADDRESS}@img.example/a.jpg\ns3://me:{IN_ADDRESS}@bucket/a.jpg\n"
    )
    said.append(_command(settings, "submit", "--list", str(tmp_path / "list.txt"), "--wait"))
    said.append(_command(settings, "failures", "list", "--json"))
    address = f"http://127.0.0.1:{settings.http_port}"
    for given in (KEY, "wrong-" + KEY):
        headers = {"Authorization": f"Bearer {given}", "X-Odd": given}
        paths = ("/v1/collections", "/v1/jobs/1", "/v1/image?id=nothing", "/metrics", "/v1/search?key=" + given)
        said += [_without(httpx.get(address + path, headers=headers, timeout=30).text, given) for path in paths]
    said += [
        _command(settings, "status", "--json"),
        _command(settings, "settings"),
        _command(settings, "jobs", "list", "--json"),
        _command(settings, "search", "--service", "--id", "even/00.jpg"),
    ]
    for name, scheme in (("redis_url", "redis://:"), ("database_url", "postgresql://postgres:")):
        wrong = f"{scheme}{VALKEY_PASSWORD}@127.0.0.1:{free_port()}/0"
        said.append(_command(settings.model_copy(update={name: SecretStr(wrong)}), "status"))
        said.append(_command(settings.model_copy(update={name: SecretStr(wrong)}), "submit", str(tmp_path / "photos")))
    with_processes = [" ".join(psutil.Process(role.process.pid).cmdline()) for role in roles]
    stored = list(_rows(settings.database_url.get_secret_value()))
    for role in roles:
        role.stop(signal.SIGTERM)
    everything = [*said, *with_processes, *stored, *(role.text() for role in roles)]
    assert any("broken.jpg" in one for one in stored), "the rows were read"
    for secret in (VALKEY_PASSWORD, KEY, IN_ADDRESS, PASSWORD, _QUOTED_PASSWORD):
        found = [one for one in everything if secret in one]
        assert not found, f"{secret} stands in: {found[0][:2000]}"


def _without(answer, given):
    """The answer of a route that does not exist may name the address that the asker wrote."""
    return answer.replace(f"key={given}", "")
