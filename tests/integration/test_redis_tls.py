"""Jobs and searches through a Redis that speaks TLS alone, with an authority of the tests' own; and what is refused."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from certificates import Certificate, make_certificate
from pictures import jpeg, write_photos
from pydantic import SecretStr
from servers import StartRole, free_port, wait_for

from query_service.client import SearchClient
from storage.settings import Settings
from workers.errors import RedisUnavailable
from workers.job_client import JobClient
from workers.servers import connect_redis, connect_url

PASSWORD = "tls-test-password"  # noqa: S105 - a test server's


@dataclass(frozen=True)
class TlsServer:
    """A running server: its port, and the certificate that it shows."""

    port: int
    certificate: Certificate

    def url(self, host: str = "localhost", more: str = "") -> str:
        return f"rediss://:{PASSWORD}@{host}:{self.port}/0{more}"


@pytest.fixture
def tls_server(tmp_path: Path) -> Iterator[TlsServer]:
    """The system's Redis or Valkey, for the bundled one has no TLS. It speaks nothing else; its name is `localhost`."""
    program = shutil.which("valkey-server") or shutil.which("redis-server")
    if program is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("there is no redis-server with TLS")
    certificate, port = make_certificate(tmp_path, "localhost"), free_port()
    command = [program, "--port", "0", "--tls-port", str(port), "--bind", "127.0.0.1", "--dir", str(tmp_path)]
    command += ["--tls-cert-file", str(certificate.certificate), "--tls-key-file", str(certificate.key)]
    command += ["--tls-ca-cert-file", str(certificate.authority), "--tls-auth-clients", "no"]
    command += ["--requirepass", PASSWORD, "--save", "", "--appendonly", "no"]
    log = tmp_path / "redis.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)

    def is_ready() -> bool:
        if process.poll() is not None:
            pytest.fail(f"{program} ended:\n{log.read_text()}")
        return "Ready to accept connections" in log.read_text()

    try:
        wait_for(is_ready, what="the server")
        yield TlsServer(port, certificate)
    finally:
        process.kill()
        process.wait()


def test_the_authority_is_named_in_the_address_or_in_the_environment(tls_server, monkeypatch):
    with connect_url(tls_server.url(more=f"?ssl_ca_certs={tls_server.certificate.authority}")) as client:
        assert client.ping()
    monkeypatch.setenv("SSL_CERT_FILE", str(tls_server.certificate.authority))
    with connect_url(tls_server.url()) as client:
        assert client.ping()


def test_a_certificate_of_an_unknown_authority_is_refused(tls_server):
    with pytest.raises(RedisUnavailable, match="CERTIFICATE_VERIFY_FAILED") as refused:
        connect_redis(Settings(redis_url=SecretStr(tls_server.url())))
    assert PASSWORD not in str(refused.value)


def test_a_certificate_for_another_name_is_refused(tls_server, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(tls_server.certificate.authority))
    with pytest.raises(RedisUnavailable, match="mismatch"):
        connect_url(tls_server.url("127.0.0.1"))


def test_plain_text_gets_no_answer_from_it(tls_server):
    with pytest.raises(RedisUnavailable):
        connect_url(tls_server.url().replace("rediss://", "redis://"))


@pytest.mark.slow
def test_all_roles_work_over_tls(tls_server, tmp_path: Path, start_role: StartRole, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(tls_server.certificate.authority))
    write_photos(tmp_path / "photos", 6)
    settings = Settings(
        data_dir=tmp_path / "home", model="baseline", redis_url=SecretStr(tls_server.url()), batch_images=2
    )
    modules = ("workers.aggregator", "workers.embed_worker", "workers.beat", "query_service.worker")
    roles = [start_role(module, settings) for module in modules]
    for role in roles:
        wait_for(lambda role=role: role.says("ready"), what=str(role.log))
    with JobClient(settings) as jobs:
        number = jobs.submit(tmp_path / "photos").job.id
        wait_for(lambda: jobs.get(number).is_over, what="the job to be over")
        assert jobs.get(number).indexed == 6
    with SearchClient(settings) as client:
        found = wait_for(lambda: client.search(image=jpeg(3), timeout=60).results, what="an answer")
        assert found[0].image_id == "odd/03.jpg"
