"""Query workers killed, frozen and restarted under load: no search is lost, and every answer is exact."""

from __future__ import annotations

from pathlib import Path

import pytest
from crash.searches import run_once, told
from databases import PostgresServer

pytestmark = pytest.mark.slow  # real processes: `make test-slow`

SEED = 20261124  # of all that happens; `python -m crash.searches --seed N` runs others


@pytest.mark.usefixtures("_valkey_program")
def test_no_search_is_lost_and_every_answer_is_exact_whoever_dies(tmp_path: Path) -> None:
    """Two workers, indexing and a change of the model under way; each answer against brute force."""
    report = run_once(SEED, 0, tmp_path, None)
    print(f"seed {SEED}: {told(report)}")
    assert report.problems == []
    assert report.answers > 200


@pytest.mark.usefixtures("_valkey_program")
def test_the_same_on_postgresql(tmp_path: Path, postgres_server: PostgresServer) -> None:
    """Its writers and readers meet in other places."""
    report = run_once(SEED, 1, tmp_path, postgres_server)
    print(f"seed {SEED}: {told(report)}")
    assert report.problems == []
    assert report.answers > 200
