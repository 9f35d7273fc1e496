"""The demo as `make demo` runs it, and the progress bar on a real terminal."""

import json
import os
import pty
import subprocess
import sys

import pytest
from pictures import jpeg, write_photos

PATIENT = {"VISUAL_SEARCH_SEARCH_SECONDS": "120"}  # a busy machine takes longer than people wait


def _run(home, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("VISUAL_SEARCH_")}
    return subprocess.run(
        [sys.executable, "-m", "visual_search", "demo", *arguments],
        cwd=home,
        env=environment | {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(home / "no-models"), "COLUMNS": "200"} | PATIENT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_the_demo_finds_every_edited_copy_and_says_which_model_it_used(tmp_path):
    pytest.importorskip("skimage")
    demo = _run(tmp_path, "--no-system")
    assert demo.returncode == 0, demo.stderr
    assert "NOTICE: This run uses `baseline` (openai/clip-vit-base-patch32 cannot be had here)" in demo.stdout
    assert "Indexed 36 of 36 images" in demo.stdout
    assert "Recall@3: 1.000" in demo.stdout
    page = (tmp_path / "demo-output" / "results.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 3 * (1 + 6)
    assert "This run uses" in page
    truth = json.loads((tmp_path / "demo-output" / "ground_truth.json").read_text())
    assert len(truth["queries"]) == 6
    again = _run(tmp_path, "--model", "baseline", "--no-system")
    assert again.returncode == 0, again.stderr
    assert "(as asked)" in again.stdout


def test_the_demo_takes_ones_own_photos(tmp_path):
    write_photos(tmp_path / "mine", 9)
    (tmp_path / "mine" / "broken.jpg").write_bytes(jpeg(1)[:300])
    demo = _run(tmp_path, "--photos", "mine", "--model", "baseline", "--output", "out", "--no-system")
    assert demo.returncode == 0, demo.stderr
    assert "Indexed 9 of 10 images" in demo.stdout
    assert "broken.jpg: corrupt" in demo.stdout
    assert (tmp_path / "out" / "results.html").exists()
    assert len(list((tmp_path / "mine").rglob("*.jpg"))) == 10


@pytest.mark.slow
@pytest.mark.usefixtures("_valkey_program")
def test_the_whole_system_answers_as_the_library_does_and_leaves_no_process(tmp_path):
    write_photos(tmp_path / "mine", 12)
    demo = _run(tmp_path, "--photos", "mine", "--model", "baseline", "--output", "out")
    assert demo.returncode == 0, demo.stdout + demo.stderr + (tmp_path / "out" / "system.log").read_text()
    assert "Job 1 done" in demo.stdout
    assert "Both answer exactly as the library did above." in demo.stdout
    log = (tmp_path / "out" / "system.log").read_text()
    for role in ("aggregator", "embed-worker", "beat", "query-worker", "http"):
        assert f"{role} started" in log
    assert log.splitlines()[-1].endswith("| all ended")
    picture = tmp_path / "out" / "page.png"
    if picture.exists():  # a browser is here
        assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    else:
        assert not os.environ.get("CI")
        assert "no browser here" in demo.stdout


def test_a_model_that_was_asked_for_is_never_replaced(tmp_path):
    write_photos(tmp_path / "mine", 1)
    demo = _run(tmp_path, "--photos", "mine", "--model", "nobody/no-such-model")
    assert demo.returncode == 1
    assert "nobody/no-such-model" in demo.stderr
    assert not (tmp_path / "demo-output" / "results.html").exists()


def test_a_terminal_sees_a_bar_with_rate_and_total(tmp_path):
    write_photos(tmp_path / "photos", 40)
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "visual_search", "index", "photos", "--model", "baseline", "--data-dir", "data"],
        cwd=tmp_path,
        stdout=theirs,
        stderr=theirs,
        env=os.environ | {"TERM": "xterm", "COLUMNS": "160"},
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # Linux reports the other side's end so
            break
        if not part:
            break
        shown += part
    os.close(ours)
    assert process.wait(180) == 0
    text = shown.decode(errors="replace")
    assert "40/40" in text
    assert "images/s" in text
    assert "ETA" in text


def test_the_demo_never_empties_a_folder_that_it_did_not_make(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "mine.txt").write_text("precious")
    demo = _run(tmp_path, "--output", ".", "--model", "baseline")
    assert demo.returncode == 2
    assert "no earlier demo made it" in demo.stderr
    assert (tmp_path / "photos" / "mine.txt").read_text() == "precious"


def test_a_demo_without_a_single_readable_image_fails(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "broken.jpg").write_bytes(b"junk")
    demo = _run(tmp_path, "--photos", "mine", "--model", "baseline")
    assert demo.returncode == 2
    assert "nothing to search" in demo.stderr
