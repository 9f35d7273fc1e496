"""The commands `submit` and `jobs`, run in this process against a real Valkey and real folders."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pictures import write_photos
from servers import ROOT

from storage.catalog import BatchResult, Catalog, ImageFailure, IndexBatch
from visual_search.cli.app import main
from visual_search.cli.job_output import duration

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    write_photos(tmp_path / "photos", 6)
    return tmp_path / "photos"


@pytest.fixture
def run(tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command; gives its exit code, standard output and standard error."""
    monkeypatch.setenv("VISUAL_SEARCH_DATA_DIR", str(tmp_path / "home"))
    monkeypatch.setenv("VISUAL_SEARCH_MODEL", "baseline")
    monkeypatch.setenv("VISUAL_SEARCH_REDIS_URL", redis_url)

    def run_command(*arguments: str) -> tuple[int, str, str]:
        code = 0
        try:
            main(list(arguments))
        except SystemExit as leaving:
            code = int(leaving.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run_command


def run_json(run: Run, *arguments: str) -> Any:
    code, output, error = run(*arguments, "--json")
    assert code == 0, error
    return json.loads(output)


def fail_everything(home: Path) -> None:
    """Commit every waiting batch as a worker would that can read no file."""
    with Catalog.open(home / "catalog.sqlite") as catalog:
        for unsent in catalog.batches.sweep(resend_seconds=0).to_send:
            leased = catalog.batches.lease(unsent.batch_id, "test", 60)
            assert leased is not None
            failures = [ImageFailure(one.image_id, one.uri, "corrupt", "cut off") for one in leased.items]
            result = BatchResult(
                leased.id, leased.generation.id, IndexBatch(failures=failures), {"failed": len(failures)}
            )
            catalog.commit_results(None, [result])


def test_submit_prints_the_job_and_the_same_again_is_no_second_one(run: Run, photos: Path) -> None:
    submitted = run_json(run, "submit", str(photos), "--batch-images", "4", "--priority", "3")
    assert (submitted["id"], submitted["state"], submitted["batches_left"], submitted["priority"]) == (
        1,
        "running",
        2,
        3,
    )
    assert submitted["counts"]["pending"] == 6
    assert run_json(run, "submit", str(photos))["id"] == 1
    [listed] = run_json(run, "jobs", "list")
    assert listed == run_json(run, "jobs", "show", "1") | {key: listed[key] for key in ("rate", "eta_seconds")}


def test_the_same_for_people(run: Run, photos: Path) -> None:
    code, output, _error = run("submit", str(photos), "--include", "even/*", "--mirror")
    assert code == 0
    assert "job 1: index file://" in output
    assert "running: 0 of 3 images done (3 pending); 0.0 images/s" in output
    code, output, _error = run("jobs", "list", "--collection", "default")
    assert code == 0
    assert "1 jobs" in output
    assert "0 of 3" in output
    assert "running" in run("jobs", "show", "1")[1]


def test_cancelling_and_watching_a_cancelled_job(run: Run, photos: Path) -> None:
    run("submit", str(photos))
    assert run_json(run, "jobs", "cancel", "1")["state"] == "cancelled"
    code, output, error = run("jobs", "watch", "1")
    assert code == 1
    assert "cancelled: 0 of 6 images done (6 pending)" in output
    assert "cancelled: 0 of 6" in error


def test_a_job_that_is_over_cannot_be_cancelled_and_that_is_told(run: Run, photos: Path, tmp_path: Path) -> None:
    run("submit", str(photos))
    fail_everything(tmp_path / "home")
    code, output, error = run("jobs", "cancel", "1")
    assert code == 0
    assert "finished: 6 of 6" in output
    assert "job 1 was over already" in error
    assert run("jobs", "cancel", "1", "--json")[2] == ""


def test_waiting_shows_progress_and_ends_with_3_when_images_failed(run: Run, photos: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "visual_search", "submit", str(photos), "--wait"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as waiting:
        assert waiting.stderr is not None
        assert waiting.stderr.readline().startswith("running: 0 of 6 images done")
        fail_everything(tmp_path / "home")
        output, error = waiting.communicate(timeout=180)
    assert waiting.returncode == 3
    assert re.search(r"finished: 6 of 6 images done \(6 failed\); [\d.]+ images/s over \d+ s\n", output)
    assert "finished: 6 of 6" in error
    code, output, _error = run("jobs", "retry-failed", "1")
    assert code == 0
    assert "retry" in output
    assert run_json(run, "jobs", "retry-failed")[0]["id"] == 2


def test_waiting_for_a_job_with_nothing_to_do_ends_well(run: Run, photos: Path) -> None:
    run("index", str(photos))
    code, output, error = run("submit", str(photos), "--wait", "--json")
    assert (code, error) == (0, "")
    assert json.loads(output)["counts"]["unchanged"] == 6
    code, output, error = run("jobs", "retry-failed")
    assert (code, output) == (0, "0 jobs\n")
    assert "nothing to try again" in error


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["jobs", "show", "99"], 1, "there is no catalog"),
        (["submit", "/no/such/folder"], 1, "no folder"),
        (["submit", "x", "--priority", "10"], 2, "--priority"),
    ],
)
def test_wrong_use_is_answered_with_one_clear_line(run: Run, arguments: list[str], code: int, message: str) -> None:
    got, _output, error = run(*arguments)
    assert (got, message in error) == (code, True), error


def test_an_unknown_job_is_told(run: Run, photos: Path) -> None:
    run("submit", str(photos))
    code, _output, error = run("jobs", "show", "99", "--json")
    assert code == 1
    assert json.loads(error)["error"]["reason"] == "unknown_job"


@pytest.mark.parametrize(("seconds", "text"), [(4.4, "4 s"), (125, "2 min 5 s"), (7380, "2 h 3 min")])
def test_the_time_that_is_left_is_told_in_words(seconds: float, text: str) -> None:
    assert duration(seconds) == text
