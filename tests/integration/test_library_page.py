"""The examples of docs/library.md, run as they stand there, beside a running system."""

from __future__ import annotations

import json
import subprocess

import pytest
from checkpoints import save_tiny_clip
from documents import ROOT, code_blocks
from pictures import jpeg, write_photos
from servers import wait_for
from user_shell import UserShell

PAGE = ROOT / "docs" / "library.md"
GIVEN = """
from pathlib import Path
from PIL import Image

image_bytes = Path("query.jpg").read_bytes()
image = Image.open("query.jpg")
"""


@pytest.fixture
def user(user_shell: UserShell, _valkey_program: None) -> UserShell:
    """The photos, the query and the ground truth that the page names; a tiny checkpoint stands for CLIP."""
    home = user_shell.home
    model = save_tiny_clip(home / "checkpoint", projection_dim=512)
    user_shell.variables |= {"VISUAL_SEARCH_MODEL": str(model), "VISUAL_SEARCH_DATA_DIR": str(home / "data")}
    user_shell.variables |= {"VISUAL_SEARCH_HTTP_PORT": "0", "VISUAL_SEARCH_SWEEP_SECONDS": "1", "OMP_NUM_THREADS": "1"}
    user_shell.variables["VISUAL_SEARCH_SEARCH_SECONDS"] = "120"  # a busy machine takes longer than people wait
    write_photos(home / "Pictures" / "2024", 10)
    (home / "Pictures" / "2024" / "cat.jpg").write_bytes(jpeg(60))
    (home / "query.jpg").write_bytes(jpeg(3))
    truth = {"queries": [{"query_id": "2024/cat.jpg", "ground_truth": ["2024/odd/01.jpg"]}]}
    (home / "ground_truth.json").write_text(json.dumps(truth))
    truth = {"queries": [{"query_id": "photo_001", "ground_truth": ["photo_002"]}]}
    (home / "evaluation_data.json").write_text(json.dumps(truth))
    return user_shell


def run(user: UserShell, number: int, *, after: str = "") -> list[str]:
    """Run one example of the page as a program; `after` is put behind the one picture that it indexes."""
    code = [block for block in code_blocks(PAGE) if block.startswith("from visual_search import")][number]
    call = 'indexing_service.index_image(image, "photo_001")\n'
    (user.home / "example.py").write_text(GIVEN + code.replace(call, call + after))
    return user.run("python example.py")


@pytest.mark.slow
def test_the_examples_of_the_page_run_as_they_stand_there(user: UserShell):
    collection = run(user, 0)
    assert collection[0] == "11 0 {}"
    assert "Queries: 1" in collection
    log = user.home / "up.log"
    with log.open("wb") as out:
        up = subprocess.Popen(["visual-search", "up"], cwd=user.home, env=user.variables, stdout=out, stderr=out)
    try:
        wait_for(lambda: "web page at" in log.read_text() or up.poll() is not None, what="the system")
        assert run(user, 1)[-1].startswith("11 11 ")
        (user.home / "years.csv").write_text("image_id,year\n2024/cat.jpg,2024\n")
        user.run("visual-search submit Pictures --wait --attributes years.csv")
        assert "2024/cat.jpg" in run(user, 2)[0]
    finally:
        up.terminate()
        assert up.wait(120) == 0
        print(log.read_text())


def test_the_example_of_the_parts_runs_as_it_stands_there(user: UserShell):
    """The page's own model is CLIP from the hub: the tiny checkpoint is put in its place, under its name."""
    target = user.home / "openai" / "clip-vit-base-patch32"
    target.parent.mkdir()
    (user.home / "checkpoint").rename(target)
    for number in range(2, 12):
        (user.home / f"photo_{number:03}.jpg").write_bytes(jpeg(number))
    more = 'for path in Path().glob("photo_*.jpg"):\n    indexing_service.index_image(path, path.stem)\n'
    printed = run(user, 3, after=more)
    assert printed[0].startswith("1. photo_0")
    assert "Evaluation Results" in printed
