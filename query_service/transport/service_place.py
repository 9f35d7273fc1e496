"""Where the service is: Redis's address, whether query workers have given a sign there, and what to say if not.

Starts nothing, and loads neither SQL nor models. The names of heartbeats are spelt here, since importing
`workers.signs.heartbeat` would load SQLAlchemy; a test compares both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from query_service.errors import DeadlineExceeded
from storage.settings import Settings
from workers.bundled_valkey import find_valkey
from workers.errors import BundledServerError, RedisUnavailable
from workers.servers import require_guarded

SIGNS = "vs:heartbeat:query_worker:*"
FORGET_SECONDS = 600.0  # a sign's key lives so long; what has passed of it says how old the sign is
FRESH_SECONDS = 15.0  # three heartbeats
LOOK_SECONDS = 2.0  # for looking for signs and for cancelling, where they have no time of their own
REASON_SECONDS = 1.0  # for finding out, beyond a search's time, why there was no answer
HOW_TO_START = "start one with `visual-search up`, or `python -m query_service.worker`"

CONNECT_SECONDS = 2.0  # for the system to connect; less where a search has less time
POOL_OPTIONS = {
    "socket_connect_timeout": CONNECT_SECONDS,
    "socket_keepalive": True,
    "protocol": 2,  # RESP3 answers have other shapes
}


def find_service(settings: Settings, redis_url: str | None = None) -> str:
    """Redis's URL: given, configured, or the bundled server's if it runs. It may hold a password.

    Raises RedisUnavailable when there is none: asking starts no server. RedisUnusable when it is not guarded.
    """
    given = redis_url or (settings.redis_url and settings.redis_url.get_secret_value())
    if given:
        require_guarded(given, settings)
        return given
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


def signs_wanted(cursor: Any) -> tuple[Any, ...]:
    """The command for a part of the names of the query workers' signs; its answer is the next cursor and the names."""
    return "SCAN", cursor, "MATCH", SIGNS, "COUNT", 1000


def signs_left(keys: Sequence[bytes]) -> list[tuple[Any, ...]]:
    """The commands for how long these signs will still stand; `silent_seconds` understands the answers.

    SCAN may name a key twice while the server rearranges its table: it counts once.
    """
    return [("PTTL", key) for key in dict.fromkeys(keys)]


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
