"""Cores that a process may use: its affinity, and the quotas of its control groups as their files show them."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest

from storage.cores import quota_cores, usable_cores


def _groups(folder: Path, own: str, files: dict[str, str]) -> tuple[Path, Path]:
    """A folder of control groups with these files, and what /proc/self/cgroup says."""
    for name, content in files.items():
        path = folder / "groups" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    (folder / "own").write_text(own)
    return folder / "groups", folder / "own"


def _version_1(folder: str, quota: int) -> dict[str, str]:
    return {f"{folder}/cpu.cfs_quota_us": f"{quota}\n", f"{folder}/cpu.cfs_period_us": "100000\n"}


@pytest.mark.parametrize(
    ("own", "files", "cores"),
    [
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 1.5),
        ("0::/\n", {"cpu.max": "max 100000\n"}, math.inf),
        ("0::/a/b\n", {"cpu.max": "max 100000", "a/cpu.max": "200000 100000", "a/b/cpu.max": "max 100000"}, 2.0),
        ("0::/not/shown/here\n", {"cpu.max": "300000 100000"}, 3.0),
        ("4:cpu,cpuacct:/\n", _version_1("cpu,cpuacct", 50_000), 0.5),
        ("4:cpu:/x\n", _version_1("cpu/x", -1), math.inf),
        ("4:memory:/\n0::/\n", {}, math.inf),
        ("0::/\n", {"cpu.max": "nonsense"}, math.inf),
    ],
    ids=["v2", "v2 unlimited", "a group above", "own group not shown", "v1", "v1 unlimited", "no files", "no numbers"],
)
def test_the_narrowest_quota_of_all_groups_counts(
    tmp_path: Path, own: str, files: dict[str, str], cores: float
) -> None:
    assert quota_cores(*_groups(tmp_path, own, files)) == cores


def test_where_there_are_no_control_groups_there_is_no_quota(tmp_path: Path) -> None:
    assert quota_cores(tmp_path / "none", tmp_path / "own") == math.inf


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system pins no processes")
def test_a_pinned_process_uses_only_its_cores() -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert usable_cores() == 1
    finally:
        os.sched_setaffinity(0, before)
    assert 1 <= usable_cores() <= len(before)
