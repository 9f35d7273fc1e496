"""All roles on this machine in one terminal: which commands they are, how they share the cores, and their Valkey.

Each role is started by the very command that a container uses (docker-compose.yml).
"""

from __future__ import annotations

import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TextIO

from storage.catalog import catalog_of
from storage.cores import usable_cores
from storage.settings import Settings
from workers.bundled_valkey import ensure_valkey, find_valkey, stop_valkey
from workers.errors import BundledServerError, PortTaken
from workers.machine.supervision import Role, Supervisor
from workers.servers import connect_redis

ENDED_BY_SIGTERM = 128 + signal.SIGTERM  # as shells have it


@dataclass(frozen=True)
class Shares:
    """How many embed workers there are, with how many threads each to decode and compute on, and the query worker's."""

    workers: int
    threads: int
    query_threads: int = 1

    @classmethod
    def of_the_cores(cls, workers: int, threads: int | None = None) -> Shares:
        """Share the cores: a quarter is the query worker's, the embed workers divide the rest.

        Compute threads above the cores cost a multiple of what they bring, so there are no more unless asked for.
        """
        cores = usable_cores()
        query_threads = max(1, cores // 4)
        return cls(workers, threads or max(1, (cores - query_threads) // workers), query_threads)


def roles_of(settings: Settings, shares: Shares, config: Path | None = None) -> list[Role]:
    """The processes of one machine; what flags changed in the settings reaches them by their environment."""
    given = {
        "VISUAL_SEARCH_DATA_DIR": str(settings.data_dir.absolute()),
        "VISUAL_SEARCH_MODEL": settings.model,
        "VISUAL_SEARCH_HTTP_PORT": str(settings.http_port),
    }
    if config is not None:
        given["VISUAL_SEARCH_CONFIG"] = str(config.absolute())

    def role(name: str, module: str, threads: int = 1) -> Role:
        return Role(name, [sys.executable, "-m", module], {**given, "OMP_NUM_THREADS": str(threads)})

    numbers = [""] if shares.workers == 1 else [f".{number}" for number in range(1, shares.workers + 1)]
    workers = [role(f"embed-worker{number}", "workers.embed_worker", shares.threads) for number in numbers]
    asked = [role("query-worker", "query_service.worker", shares.query_threads), role("http", "query_service.http")]
    roles = [role("aggregator", "workers.aggregator"), *workers, role("beat", "workers.beat"), *asked]
    return _with_metrics_ports(roles, settings.metrics_port)


def _with_metrics_ports(roles: Sequence[Role], first: int | None) -> list[Role]:
    """Give each role a metrics port of its own, counted up from the first; 0 lets each take a free one."""
    if not first:
        return list(roles)
    ports = {role.name: str(first + number) for number, role in enumerate(roles)}
    return [
        replace(role, environment={**role.environment, "VISUAL_SEARCH_METRICS_PORT": ports[role.name]})
        for role in roles
    ]


def page_address(settings: Settings) -> str:
    """Where a browser on this machine finds the web page."""
    host = "127.0.0.1" if settings.http_host in ("0.0.0.0", "::") else settings.http_host  # noqa: S104 - only compared
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.http_port}/"


def with_port(settings: Settings) -> Settings:
    """The settings with the port that the HTTP API is going to have, a free one for 0.

    Raises PortTaken when nobody could listen there: the role would crash and be started again without end.
    """
    try:
        found = socket.getaddrinfo(settings.http_host, settings.http_port, type=socket.SOCK_STREAM)
        family, kind, protocol, _, address = found[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            return settings.model_copy(update={"http_port": probe.getsockname()[1]})
    except OSError as error:
        raise PortTaken(
            f"cannot listen on {settings.http_host} port {settings.http_port}: {error.strerror or error}; "
            "choose another with --port (or the setting `http_port`)"
        ) from error


def run_everything(settings: Settings, shares: Shares, output: TextIO, *, config: Path | None = None) -> bool:
    """Run all roles until a signal comes; whether all then ended in time.

    Without a `redis_url` the bundled Valkey is started, started again when it dies, and stopped at the end.
    Raises at once what would let every role fail: CatalogError, RedisUnavailable, RedisUnusable, BundledServerError.
    """
    bundled = settings.redis_url is None
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(ENDED_BY_SIGTERM))  # while starting: end through `finally`
    try:
        catalog_of(settings).close()  # brings the schema up to date before anybody looks
        connect_redis(settings).close()
        supervisor = Supervisor(roles_of(settings, shares, config), output)

        def keep_valkey() -> None:
            try:
                if find_valkey(settings) is None:  # one that stands still is not waited for: signals are to be heard
                    ensure_valkey(settings)
            except BundledServerError as error:  # its port or the disk may be free again at the next look
                supervisor.say(str(error))

        return supervisor.run(keep_valkey) if bundled else supervisor.run()
    finally:
        with _nothing_interrupts():
            if bundled:
                stop_valkey(settings)


@contextmanager
def _nothing_interrupts() -> Iterator[None]:
    """Within the block, which takes seconds at most, a further Ctrl-C, SIGTERM or SIGHUP changes nothing."""
    numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
