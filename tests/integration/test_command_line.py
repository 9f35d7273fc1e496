"""The `visual-search` command as a person runs it: a real process, its output and its exit code."""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial

import pytest
from pictures import jpeg, write_photos
from servers import wait_for
from slow_reading import SLOWLY

from storage.catalog import Catalog


@pytest.fixture
def home(tmp_path):
    """A folder with photos, and an environment whose data folder lies in it."""
    write_photos(tmp_path / "photos", 8)
    return tmp_path


@pytest.fixture
def run(home):
    """Run the command in that folder."""
    return partial(_run, home)


@pytest.fixture(scope="module")
def run_indexed(tmp_path_factory):
    """Run the command in a folder whose photos are indexed; for commands that change nothing."""
    home = tmp_path_factory.mktemp("indexed")
    write_photos(home / "photos", 8)
    assert _run(home, "index", "photos").returncode == 0
    yield partial(_run, home)
    assert _run(home, "audit", "photos").returncode == 0


def _run(home, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "visual_search", *arguments],
        cwd=home,
        env=_environment(home) | environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def _environment(home) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("VISUAL_SEARCH_")}
    return kept | {"VISUAL_SEARCH_DATA_DIR": str(home / "data"), "VISUAL_SEARCH_MODEL": "baseline"}


def test_index_search_and_evaluate_from_the_shell(run, home):
    indexed = run("index", "photos")
    assert indexed.returncode == 0, indexed.stderr
    assert "8 indexed" in indexed.stdout

    found = run("search", "--image", "photos/odd/03.jpg", "-k", "3", "--json")
    answer = json.loads(found.stdout)
    assert [result["rank"] for result in answer["results"]] == [1, 2, 3]
    assert answer["results"][0]["image_id"] == "odd/03.jpg"
    assert answer["results"][0]["score"] == pytest.approx(1.0)
    assert answer["model"]["name"] == "baseline"

    (home / "truth.json").write_text(
        json.dumps({"queries": [{"query_id": "odd/01.jpg", "ground_truth": ["odd/03.jpg"]}]})
    )
    evaluated = run("evaluate", "truth.json", "-k", "1", "-k", "7", "--output", "results.json")
    assert evaluated.stdout.startswith("Evaluation Results\n=================\nQueries: 1\nRecall@1: ")
    assert "Recall@7: 1.000\nmAP: " in evaluated.stdout
    assert json.loads((home / "results.json").read_text())["run"]["k_values"] == [1, 7]


def test_every_part_of_the_status_is_json_when_asked(run_indexed):
    status = json.loads(run_indexed("status", "--json").stdout)
    assert [(one["name"], one["images"]) for one in status["collections"]] == [("default", 8)]
    assert status["last_runs"][0]["counts"]["indexed"] == 8
    images = json.loads(run_indexed("images", "list", "--json", "--prefix", "odd/").stdout)
    assert [image["image_id"] for image in images] == ["odd/01.jpg", "odd/03.jpg", "odd/05.jpg", "odd/07.jpg"]
    assert json.loads(run_indexed("images", "show", "odd/01.jpg", "--json").stdout)["format"] == "JPEG"
    assert json.loads(run_indexed("settings", "--json").stdout)["model"] == "baseline"
    assert json.loads(run_indexed("failures", "list", "--json").stdout) == []
    assert json.loads(run_indexed("audit", "photos", "--json").stdout)["clean"] is True


def test_the_same_for_people(run_indexed):
    for arguments, expected in [
        (["status"], "default"),
        (["images", "list"], "8 images"),
        (["images", "show", "odd/01.jpg"], "JPEG"),
        (["settings"], "VISUAL_SEARCH_FETCH_THREADS"),
        (["failures", "list"], "0 failures"),
        (["audit", "photos"], "clean: 8 images"),
        (["search", "--id", "odd/01.jpg", "--offset", "2", "-k", "2"], "odd/"),
    ]:
        shown = run_indexed(*arguments)
        assert shown.returncode == 0, shown.stderr
        assert expected in shown.stdout


def test_some_failed_images_give_exit_code_3_and_their_reasons(run, home):
    (home / "photos" / "broken.jpg").write_bytes(jpeg(1)[:300])
    indexed = run("index", "photos", "--json")
    assert indexed.returncode == 3
    assert json.loads(indexed.stdout)["failures_by_reason"] == {"corrupt": 1}
    (failure,) = json.loads(run("failures", "list", "--json").stdout)
    assert (failure["image_id"], failure["reason"]) == ("broken.jpg", "corrupt")
    assert "broken.jpg" in run("failures", "list").stdout
    assert run("failures", "retry").returncode == 3
    (home / "photos" / "broken.jpg").write_bytes(jpeg(1))
    retried = run("failures", "retry")
    assert retried.returncode == 0
    assert "1 indexed" in retried.stdout


def test_filters_groups_and_the_page_with_pictures(run, home):
    (home / "labels.csv").write_text(
        "image_id,label,year\nodd/01.jpg,<b>sea</b>,2019\nodd/03.jpg,sky,2021\neven/00.jpg,sky,2022\n"
    )
    run("index", "photos", "--attributes", "labels.csv")
    found = run(
        "search", "--id", "even/02.jpg", "--filter", "year>=2019", "--filter", "label", "--json", "--html", "page.html"
    )
    assert sorted(one["image_id"] for one in json.loads(found.stdout)["results"]) == [
        "even/00.jpg",
        "odd/01.jpg",
        "odd/03.jpg",
    ]
    page = (home / "page.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 4  # the query and three results
    assert "&lt;b&gt;sea&lt;/b&gt;" in page
    assert "<b>sea" not in page
    grouped = run("search", "--id", "even/02.jpg", "--filter", "label", "--group-by", "label", "--json")
    assert len(json.loads(grouped.stdout)["results"]) == 2


def test_deleting_says_what_was_not_there(run):
    run("index", "photos")
    deleted = run("images", "delete", "odd/01.jpg", "never.jpg", "--json")
    assert deleted.returncode == 1
    assert json.loads(deleted.stdout) == {"deleted": 1, "failures_forgotten": [], "unknown": ["never.jpg"]}
    assert "1 deleted" in run("index", "photos").stdout
    assert "1 indexed" in run("index", "photos", "--restore-deleted").stdout


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["search"], 2, "at least one of"),
        (["search", "--not-id", "odd/01.jpg"], 2, "alone describes nothing"),
        (["search", "--id", "odd/01.jpg", "--text", "b"], 1, "baseline"),
        (["search", "--id", "odd/01.jpg", "--service"], 1, "visual-search up"),
        (["search", "--id", "odd/01.jpg", "--service", "--embedded"], 2, "exclude each other"),
        (["search", "--image", "none.jpg"], 2, "no picture at none.jpg"),
        (["search", "--id", "never.jpg"], 1, "never.jpg"),
        (["search", "--id", "odd/01.jpg", "--filter", "=x"], 2, "filter"),
        (["search", "--id", "odd/01.jpg", "-k", "0"], 2, "-k"),
        (["search", "--text", "a cat"], 1, "baseline"),
        (["search", "--id", "odd/01.jpg", "--collection", "other"], 1, "other"),
        (["index", "nowhere"], 1, "nowhere"),
        (["index", "gopher://x/y"], 1, "gopher"),
        (["index", "photos", "--attributes", "none.csv"], 2, "none.csv"),
        (["index", "photos", "--batch-size", "0"], 2, "batch_size"),
        (["index", "photos", "--collection", "No Spaces"], 1, "No Spaces"),
        (["images", "show", "never.jpg"], 1, "never.jpg"),
        (["evaluate", "none.json"], 1, "none.json"),
        (["frobnicate"], 2, "frobnicate"),
    ],
)
def test_wrong_use_is_answered_with_one_clear_line_and_no_traceback(run_indexed, arguments, code, message):
    answer = run_indexed(*arguments)
    assert answer.returncode == code, answer.stderr
    assert message in answer.stderr
    assert "Traceback" not in answer.stderr


def test_an_error_is_json_on_standard_error_when_json_is_asked(run_indexed):
    answer = run_indexed("search", "--id", "never.jpg", "--json")
    assert answer.stdout == ""
    assert json.loads(answer.stderr)["error"]["reason"] == "unknown_id"


def test_nothing_indexed_yet_is_said_plainly(run):
    assert "nothing is indexed" in run("status").stdout
    assert json.loads(run("status", "--json").stdout)["collections"] == []
    search = run("search", "--id", "x")
    assert search.returncode == 1
    assert "visual-search index" in search.stderr


def test_an_unreachable_model_is_told_with_the_choices(run):
    answer = run("index", "photos", "--model", "nobody/no-such-model", HF_HUB_OFFLINE="1")
    assert answer.returncode == 1
    assert "nobody/no-such-model" in answer.stderr
    assert "baseline" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_help_shows_examples_and_the_version_is_told(run):
    assert "visual-search index ~/Pictures" in run("index", "--help").stdout
    assert run("--version").stdout.startswith("visual-search ")


@pytest.mark.parametrize("after_seconds", [0.9, 1.4, 2.2])
def test_a_run_killed_at_any_moment_is_carried_on_by_the_same_command(run, home, after_seconds):
    write_photos(home / "photos", 300, first_seed=1000)
    process = subprocess.Popen(
        [sys.executable, "-m", "visual_search", "index", "photos"],
        cwd=home,
        env=_environment(home) | {"VISUAL_SEARCH_COMMIT_IMAGES": "20", "VISUAL_SEARCH_FETCH_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    time.sleep(after_seconds)
    process.send_signal(signal.SIGKILL)
    process.wait()
    carried_on = run("index", "photos", "--json")
    assert carried_on.returncode == 0, carried_on.stderr
    counts = json.loads(carried_on.stdout)
    print(f"killed after {after_seconds} s: {counts['unchanged']} of 300 were kept, {counts['indexed']} done now")
    assert counts["indexed"] + counts["unchanged"] + counts["reused"] == 300
    audit = json.loads(run("audit", "photos", "--json").stdout)
    assert (audit["clean"], audit["indexed"], audit["vectors"]) == (True, 300, 300)


def test_ctrl_c_keeps_what_was_finished_and_exits_130(home):
    write_photos(home / "photos", 800, first_seed=1000)
    process = subprocess.Popen(
        [*SLOWLY, "index", "photos"],
        cwd=home,
        env=_environment(home) | {"VISUAL_SEARCH_COMMIT_IMAGES": "10", "VISUAL_SEARCH_FETCH_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(lambda: _has_committed(home), what="a first commit")
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=180)
    assert process.returncode == 130, errors
    assert "the same command carries on" in errors
    assert "Traceback" not in errors


def _has_committed(home) -> bool:
    path = home / "data" / "catalog.sqlite"
    if not path.exists():
        return False
    with Catalog.open(path) as catalog:
        return any(catalog.images.count(collection.id) for collection in catalog.collections.list())
