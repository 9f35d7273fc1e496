"""Examples of docs/operations.md, as they stand there: schedules by a real beat, the model change with its gate."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from checkpoints import save_tiny_clip
from documents import ROOT, code_blocks
from pictures import jpeg, write_photos
from servers import wait_for
from user_shell import UserShell

pytestmark = pytest.mark.slow  # whole systems

PAGE = ROOT / "docs" / "operations.md"


@pytest.fixture
def user(user_shell: UserShell, _valkey_program: None) -> UserShell:
    """A user with some photos, a data folder of their own, and no port taken."""
    user_shell.variables |= {"VISUAL_SEARCH_HTTP_PORT": "0", "VISUAL_SEARCH_SWEEP_SECONDS": "1", "OMP_NUM_THREADS": "1"}
    user_shell.variables["VISUAL_SEARCH_SEARCH_SECONDS"] = "120"  # a busy machine takes longer than people wait
    write_photos(user_shell.home / "photos", 12)
    return user_shell


@contextmanager
def system(user: UserShell) -> Iterator[None]:
    """`visual-search up` in another terminal of that user, until the end."""
    log = user.home / "up.log"
    with log.open("wb") as out:
        up = subprocess.Popen(
            ["visual-search", "up"], cwd=user.home, env=user.variables, stdin=subprocess.DEVNULL, stdout=out, stderr=out
        )  # fmt: skip
    try:
        wait_for(lambda: "web page at" in log.read_text() or up.poll() is not None, what="the system")
        yield
    finally:
        up.terminate()
        code = up.wait(120)
        print(log.read_text())
    assert code == 0


def jobs(user: UserShell) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = json.loads("\n".join(user.run("visual-search jobs list --json")))
    return listed


def state_of(kind: str, user: UserShell) -> Callable[[], list[str]]:
    """States of the runs of that kind that are over."""
    return lambda: [one["state"] for one in jobs(user) if one["kind"] == kind and one["state"] != "running"]


def test_the_schedules_of_the_page_are_run_by_the_beat(user: UserShell):
    """Only the times are changed, to one that was due a little while ago, and the folder."""
    user.variables["VISUAL_SEARCH_MODEL"] = "baseline"
    user.run("visual-search index photos")
    (user.home / "photos" / "even" / "00.jpg").unlink()  # what the mirror takes out
    for number in range(4):
        (user.home / "photos" / f"new-{number}.jpg").write_bytes(jpeg(100 + number))
    (block,) = [one for one in code_blocks(PAGE, "toml") if "[[schedules]]" in one]
    due = (datetime.now(timezone.utc) - timedelta(minutes=2)).strftime("%M %H * * *")
    lines = [f'cron = "{due}"' if line.startswith("cron") else line for line in block.splitlines()]
    text = "\n".join(lines).replace("/srv/photos", str(user.home / "photos"))
    (user.home / "visual-search.toml").write_text(text)
    with system(user):
        for kind, states in {"index": ["finished"] * 2, "rebuild": ["finished"], "prune": ["finished"]}.items():
            wait_for(lambda kind=kind, states=states: state_of(kind, user)() == states, seconds=180, what=kind)
        wait_for(state_of("audit", user), seconds=180, what="the audit")
        (sync, _) = [one for one in jobs(user) if one["kind"] == "index"]
        assert (sync["counts"]["indexed"], sync["counts"]["removed"]) == (4, 1)
    user.run("visual-search audit photos")


def test_the_commands_that_change_the_model_do_so_as_they_stand_on_the_page(user: UserShell):
    """Seeded checkpoints stand where the page says a hub name and a folder; the gate asks what the second finds."""
    save_tiny_clip(user.home / "openai" / "clip-vit-large-patch14", projection_dim=32, seed=1)
    save_tiny_clip(user.home / "my-checkpoint", projection_dim=24, seed=2)
    write_photos(user.home / "photos", 40)
    user.run("visual-search index photos --model ./my-checkpoint --collection truth")
    user.run("visual-search index photos --model baseline")
    queries = []
    for query in ("odd/01.jpg", "even/02.jpg", "odd/31.jpg"):
        found = user.run(f"visual-search search --id {query} -k 1 --collection truth --json")
        queries.append({"query_id": query, "ground_truth": [json.loads("\n".join(found))["results"][0]["image_id"]]})
    (user.home / "ground_truth.json").write_text(json.dumps({"queries": queries}))
    block = next(one for one in code_blocks(PAGE) if one.startswith("visual-search reindex"))
    models = []
    with system(user):
        for command in block.splitlines():
            printed = user.run(command)
            print(command, *printed, sep="\n  ")
            assert "--gate" not in command or any(line.startswith("gate passed: recall@10") for line in printed)
            listed = json.loads("\n".join(user.run("visual-search generations list --json")))
            models += [Path(one["model"].split(" ")[0]).name for one in listed if one["state"] == "active"]
    large, mine = "clip-vit-large-patch14", "my-checkpoint"
    assert models == [large, mine, large, large, large, large, large]  # back from the rebuilt one to the one before it
