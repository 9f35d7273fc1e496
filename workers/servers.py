"""Connects to Redis, checks at start-up that it can be relied on, and turns its errors into ours.

Knows no keys: what is kept there belongs to the files that use it. No message ever holds a password.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from urllib.parse import urlsplit

from redis import Redis, exceptions
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from storage.settings import Settings
from workers.bundled_valkey import ensure_valkey
from workers.errors import RedisUnavailable, RedisUnusable

_CONNECT_SECONDS = 5.0
_ANSWER_SECONDS = 30.0  # above every blocking read of ours
_RETRIES = 3  # with 0.05, 0.1, 0.2 s between: a restarted server is back, a dead one is told soon
_OLDEST_VERSION = (6, 2)  # XAUTOCLAIM

# Refusals of a server that is full, or is being replaced by its replica
_WILL_PASS = (exceptions.OutOfMemoryError, exceptions.ReadOnlyError, exceptions.MasterDownError)


def redis_url(settings: Settings) -> str:
    """The URL of the settings, or of the bundled Valkey, which is started if need be. It may hold a password."""
    if settings.redis_url is not None:
        return settings.redis_url.get_secret_value()
    return ensure_valkey(settings)


def connect_redis(settings: Settings) -> Redis:
    """A checked connection pool; the caller closes it. Raises RedisUnavailable, RedisUnusable, BundledServerError."""
    url = redis_url(settings)
    require_guarded(url, settings)
    return connect_url(url)


def require_guarded(url: str, settings: Settings) -> None:
    """Raise RedisUnusable for a server beyond this machine without TLS or password, unless the settings allow it.

    Who reaches Redis can queue work, read every search, and answer in our place.
    """
    try:
        parts = urlsplit(url)
        host = parts.hostname or "localhost"
    except ValueError:
        return  # no usable address: connecting says so
    if settings.redis_trusted_network or _is_this_machine(host):
        return
    lacks = [what for what, there in (("TLS", parts.scheme == "rediss"), ("a password", parts.password)) if not there]
    if lacks:
        raise RedisUnusable(
            f"{without_password(url)} is beyond this machine and lacks {' and '.join(lacks)}: use "
            "rediss://user:password@host, or say that nobody else is in that network (setting `redis_trusted_network`)"
        )


def _is_this_machine(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def connect_url(url: str) -> Redis:
    """Connect to this URL and check the server. Raises RedisUnavailable and RedisUnusable."""
    place = without_password(url)
    try:
        client = _client(url)
    except (ValueError, TypeError) as error:
        raise RedisUnusable(f"{place} is no usable Redis address: {error}") from error
    try:
        _check(client, place)
    except (RedisUnavailable, RedisUnusable):
        client.close()
        raise
    return client


def without_password(url: str) -> str:
    """The address for messages: scheme, host, port and database number alone."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return "redis_url"
    return f"{parts.scheme}://{host}{'' if port is None else f':{port}'}{parts.path}"


@contextmanager
def redis_errors_translated(place: str = "Redis") -> Iterator[None]:
    """Within the block Redis's own errors become RedisUnavailable (gone, loading) or RedisUnusable (refused)."""
    try:
        yield
    except (exceptions.AuthenticationError, exceptions.AuthorizationError, exceptions.NoPermissionError) as error:
        raise RedisUnusable(f"{place} refuses this user or password: {error}") from error
    except exceptions.InvalidResponse as error:
        raise RedisUnusable(f"{place} does not answer like a Redis server; is another program listening?") from error
    except (exceptions.ConnectionError, exceptions.TimeoutError) as error:
        raise RedisUnavailable(f"{place} cannot be reached: {error}") from error
    except exceptions.ResponseError as error:
        if isinstance(error, _WILL_PASS) or str(error).startswith("MISCONF"):  # its disk is full
            raise RedisUnavailable(f"{place} cannot be used now: {error}") from error
        raise RedisUnusable(f"{place} refused a command: {error}") from error
    except exceptions.RedisError as error:
        raise RedisUnavailable(f"{place} failed: {error}") from error


def _client(url: str) -> Redis:
    return Redis.from_url(
        url,
        socket_connect_timeout=_CONNECT_SECONDS,
        socket_timeout=_ANSWER_SECONDS,
        health_check_interval=30,
        retry=Retry(ExponentialBackoff(cap=0.4, base=0.05), _RETRIES),
        protocol=2,  # RESP3 answers have other shapes
    )


def _check(client: Redis, place: str) -> None:
    with redis_errors_translated(place):
        client.ping()
        info = client.info()
    version = str(info.get("redis_version", "0"))
    if tuple(int(part) for part in version.split(".")[:2] if part.isdigit()) < _OLDEST_VERSION:
        raise RedisUnusable(f"{place} is version {version}; 6.2 or newer is needed (any Valkey will do)")
    policy = info.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        raise RedisUnusable(
            f"{place} has maxmemory-policy {policy}: it would drop queued work when memory is short. "
            "Set it to noeviction (CONFIG SET maxmemory-policy noeviction, and in its configuration file)"
        )
