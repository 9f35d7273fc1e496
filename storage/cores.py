"""How many cores this process may use: its affinity (`taskset`, cpusets) and its container's quota."""

from __future__ import annotations

import math
import os
from pathlib import Path, PurePosixPath

_CGROUPS = Path("/sys/fs/cgroup")
_OWN_GROUPS = Path("/proc/self/cgroup")


def usable_cores() -> int:
    """The cores that threads of this process can be on at once, at least 1; a quota of 1.5 cores counts as 2."""
    present = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(present, quota_cores())))


def quota_cores(groups: Path = _CGROUPS, own: Path = _OWN_GROUPS) -> float:
    """The cores' worth of time that control groups (Linux, versions 1 and 2) allow; infinite without a limit.

    A process is bound by the limits of its own group and of all groups above. In a container its own group is usually
    shown as the root, so the root is looked at too.
    """
    limits = [_limit(folder) for path in _own_paths(own) for folder in _upwards(groups, path)]
    return min(limits, default=math.inf)


def _own_paths(own: Path) -> list[tuple[str, PurePosixPath]]:
    """The controllers' folder ("" in version 2) and this process's group below it."""
    try:
        lines = own.read_text(encoding="utf-8").splitlines()
    except OSError:  # no Linux, or no /proc
        return []
    fields = (line.split(":", 2) for line in lines)
    return [(names, PurePosixPath(path)) for _, names, path in fields if not names or "cpu" in names.split(",")]


def _upwards(groups: Path, own: tuple[str, PurePosixPath]) -> list[Path]:
    names, path = own
    return [groups / names / one.relative_to("/") for one in (path, *path.parents) if one.is_absolute()]


def _limit(folder: Path) -> float:
    """Quota divided by period of one group: `cpu.max` of version 2, or the two files of version 1."""
    try:
        if (folder / "cpu.max").is_file():
            quota, period = (folder / "cpu.max").read_text(encoding="ascii").split()
        else:
            names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
            quota, period = ((folder / name).read_text(encoding="ascii").strip() for name in names)
        return math.inf if quota in ("max", "-1") else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):  # the group is not shown here, or says nothing of the cores
        return math.inf
