"""How the roles are doing, judged by the work that they get done and not by mere signs of life."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel
from redis import Redis

from storage.settings import Settings
from workers.bundled_valkey import find_valkey
from workers.servers import connect_redis
from workers.signs.heartbeat import BEAT_SECONDS, LOADING, Sign, read_local_signs, read_signs
from workers.signs.queue_lengths import QueueLengths, queue_lengths

RoleState = Literal["working", "idle", "stuck", "gone"]

_SILENT_SECONDS = 4 * BEAT_SECONDS  # a busy machine may hold back one or two
_LEAST_STUCK_SECONDS = 60.0
_WORK_OF = {  # role: the queues that it empties
    "embed": ("batches",),
    "aggregator": ("results",),
    "query_worker": ("searches (high)", "searches (normal)", "searches (low)"),
}


class RoleHealth(BaseModel):
    """One process. `stuck`: it has work and has not got on for long; `gone`: no sign any more, nor an end in order.

    `trouble`: why it gave its last work back.
    """

    role: str
    process: str
    state: RoleState
    doing: str
    trouble: str = ""
    done: int
    progress_seconds_ago: float
    sign_seconds_ago: float


class QueueHealth(BaseModel):
    """All processes and queues; `server` says why there are none when no queue server runs."""

    server: str = ""
    roles: list[RoleHealth] = []
    waiting: dict[str, int] = {}

    @property
    def healthy(self) -> bool:
        """Whether nobody is stuck, and whoever is gone is missed by no work."""
        stuck = any(role.state == "stuck" for role in self.roles)
        gone = {role.role for role in self.roles if role.state == "gone"}
        alive = {role.role for role in self.roles if role.state in ("working", "idle")}
        needed = {role for role, queues in _WORK_OF.items() if any(self.waiting.get(queue) for queue in queues)}
        return not stuck and (gone | needed) <= alive


class LocalHealth(BaseModel):
    """The processes of one machine or container, by what they left there."""

    roles: list[RoleHealth] = []

    @property
    def healthy(self) -> bool:
        """Whether a process gives signs, and none is stuck or missing."""
        alive = {role.role for role in self.roles if role.state in ("working", "idle")}
        gone = {role.role for role in self.roles if role.state == "gone"}
        return bool(alive) and gone <= alive and not any(role.state == "stuck" for role in self.roles)

    @property
    def ready(self) -> bool:
        """Whether they are healthy, and none is still loading what it is to work with."""
        return self.healthy and not any(role.doing == LOADING for role in self.roles if role.state != "gone")


def health_here(settings: Settings) -> LocalHealth:
    """Judge the processes of this machine or container; asks neither Redis nor SQL.

    A process renews its progress while it has nothing to do, so one that has not for long is stuck.
    """
    signs = read_local_signs(settings)
    return LocalHealth(roles=[_judged(sign, _stuck_seconds(settings), _SILENT_SECONDS) for sign in signs])


def queue_health(settings: Settings) -> QueueHealth:
    """Ask the queue server; starts none. Raises RedisUnavailable and RedisUnusable when one is configured."""
    if settings.redis_url is None and find_valkey(settings) is None:
        return QueueHealth(server="no queue server is running (`visual-search up` starts one)")
    with connect_redis(settings) as client:
        return health_of(client, stuck_seconds=_stuck_seconds(settings))


def _stuck_seconds(settings: Settings) -> float:
    return max(_LEAST_STUCK_SECONDS, 2 * settings.lease_seconds)


def health_of(client: Redis, *, stuck_seconds: float, silent_seconds: float = _SILENT_SECONDS) -> QueueHealth:
    """The same of a server that is connected."""
    lengths = queue_lengths(client)
    roles = [
        _judged(sign, stuck_seconds, silent_seconds, has_work=lengths.waiting_for(sign.record.role) > 0)
        for sign in read_signs(client)
    ]
    return QueueHealth(roles=roles, waiting=_by_name(lengths))


def _judged(sign: Sign, stuck_seconds: float, silent_seconds: float, *, has_work: bool = True) -> RoleHealth:
    record = sign.record
    state: RoleState = "working" if record.doing else "idle"
    if sign.silent_seconds > silent_seconds:
        state = "gone"
    elif (has_work or record.doing) and sign.still_seconds > stuck_seconds:
        state = "stuck"
    return RoleHealth(
        role=record.role,
        process=record.process,
        state=state,
        doing=record.doing,
        trouble=record.trouble,
        done=record.done,
        progress_seconds_ago=round(sign.still_seconds, 1),
        sign_seconds_ago=round(sign.silent_seconds, 1),
    )


def _by_name(lengths: QueueLengths) -> dict[str, int]:
    searches = {f"searches ({priority})": number for priority, number in lengths.searches.items()}
    return {
        "batches": lengths.batches,
        "results": lengths.results,
        "dead letters": lengths.dead_letters,
        "dead searches": lengths.dead_searches,
        **searches,
    }


def rows_of(roles: Sequence[RoleHealth]) -> list[tuple[str, ...]]:
    """The table that people read."""
    return [
        (
            role.role, role.process, role.state, role.doing or role.trouble or "-", str(role.done),
            f"{role.progress_seconds_ago:.0f} s ago", f"{role.sign_seconds_ago:.0f} s ago",
        )
        for role in roles
    ]  # fmt: skip
