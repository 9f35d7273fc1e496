"""Where the service is: Redis's address, whether query workers have given a sign there, and what to say if not.

Starts nothing, and loads neither SQL nor models. The names of heartbeats are spelt here, since importing
`workers.heartbeat` would load SQLAlchemy; a test compares both.
"""

from __future__ import annotations

from collections.abc import Sequence

from query_service.errors import DeadlineExceeded
from storage.settings import Settings
from workers.bundled_valkey import find_valkey
from workers.errors import BundledServerError, RedisUnavailable

SIGNS = "vs:heartbeat:query_worker:*"
FORGET_SECONDS = 600.0  # a sign's key lives so long; what has passed of it says how old the sign is
FRESH_SECONDS = 15.0  # three heartbeats
HOW_TO_START = "start one with `visual-search up`, or `python -m query_service.worker`"

POOL_OPTIONS = {
    "socket_connect_timeout": 2.0,
    "socket_timeout": 30.0,  # for sending; each wait for an answer has a time of its own
    "socket_keepalive": True,
    "protocol": 2,  # RESP3 answers have other shapes
}


def find_service(settings: Settings, redis_url: str | None = None) -> str:
    """Redis's URL: given, configured, or the bundled server's if it runs. It may hold a password.

    Raises RedisUnavailable when there is none: asking starts no server.
    """
    if redis_url is not None:
        return redis_url
    if settings.redis_url is not None:
        return settings.redis_url.get_secret_value()
    try:
        running = find_valkey(settings)
    except BundledServerError as error:
        raise RedisUnavailable(f"no search service can be found: {error}") from error
    if running is None:
        raise RedisUnavailable(
            f"no search service is running for {settings.data_dir}: start one with `visual-search up`, "
            "or name its Redis (VISUAL_SEARCH_REDIS_URL)"
        )
    return running.url


def silent_seconds(milliseconds_left: Sequence[int]) -> list[float]:
    """How long each query worker has been silent, from the PTTLs of its signs; the freshest first."""
    return sorted(max(0.0, FORGET_SECONDS - left / 1000) for left in milliseconds_left if left >= 0)


def no_answer(error: DeadlineExceeded, silences: Sequence[float]) -> DeadlineExceeded:
    """The same error, which also says whether anybody is there to answer."""
    fresh = [seconds for seconds in silences if seconds <= FRESH_SECONDS]
    if fresh:
        workers = "1 query worker lives" if len(fresh) == 1 else f"{len(fresh)} query workers live"
        why = f"{workers} (last sign {fresh[0]:.0f} s ago) and did not get to it: try again, or give it more time"
    elif silences:
        why = f"the last sign of a query worker is {silences[0]:.0f} s old: {HOW_TO_START}"
    else:
        why = f"no query worker has given a sign: {HOW_TO_START}"
    return DeadlineExceeded(f"{error}; {why}")
