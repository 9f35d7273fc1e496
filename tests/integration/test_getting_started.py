"""The path of a new user: every command of docs/getting-started.md, as it stands there, in an empty home."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "tests" / "release" / "walk_getting_started.py"


@pytest.mark.slow
def test_every_command_of_the_page_works_as_it_stands_there(tmp_path):
    report = tmp_path / "outcomes.json"
    ended = subprocess.run(
        [sys.executable, str(PROGRAM), "--json", str(report)], capture_output=True, text=True, check=False
    )
    print(ended.stdout)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    outcomes = {one["line"]: one for one in json.loads(report.read_text())}
    assert {one["code"] for one in outcomes.values()} == {0, None}
    skipped = [line for line, one in outcomes.items() if one["code"] is None]
    assert all(line.startswith("make demo") for line in skipped)
    (submitted,) = [one for line, one in outcomes.items() if line.startswith("visual-search submit ~/Pictures --wait")]
    assert "60 indexed" in submitted["output"]
