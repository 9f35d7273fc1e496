"""What a log line looks like for people and for machines, and what is counted costs nothing."""

import json
import logging
import subprocess
import sys

import pytest
from servers import ROOT, environment_of

from storage.settings import Settings
from workers.machine.logs import CONTEXT_FIELDS, about, configure_logging

_ROLE = """
import logging, sys, warnings
from workers.machine.logs import about
from workers.machine.role_process import run_role

def run(settings, stop):
    log = logging.getLogger("somewhere")
    log.info("took %d images", 3, extra=about(job=1, batch=2, image="a b/\\u00fc.jpg"))
    log.info("two\\nlines")
    warnings.warn("odd", stacklevel=1)
    if "fail" in sys.argv:
        raise ValueError("nobody expected this")

sys.exit(run_role("test", run))
"""


def _run(settings, *arguments, **environment):
    return subprocess.run(
        [sys.executable, "-c", _ROLE, *arguments],
        cwd=ROOT,
        env={**environment_of(settings), **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=180,
    )


def test_every_json_line_parses_and_carries_its_ids(tmp_path):
    ended = _run(Settings(data_dir=tmp_path, log_format="json"), "fail")
    assert (ended.returncode, ended.stdout) == (1, "")
    lines = [json.loads(line) for line in ended.stderr.splitlines()]
    took = lines[0]
    assert (took["level"], took["logger"], took["message"]) == ("INFO", "somewhere", "took 3 images")
    assert (took["job"], took["batch"], took["image"], took["role"]) == (1, 2, "a b/ü.jpg", "test")
    assert took["time"].endswith("Z")
    assert took["process"].rpartition(":")[2].isdigit()
    assert lines[1]["message"] == "two\nlines"
    assert "odd" in lines[2]["message"]
    assert "ValueError: nobody expected this" in lines[3]["traceback"]


def test_a_text_line_ends_with_its_ids(tmp_path):
    ended = _run(Settings(data_dir=tmp_path))
    assert ended.returncode == 0
    assert ended.stderr.splitlines()[0].endswith("INFO somewhere: took 3 images [job=1 batch=2 image=a b/ü.jpg]")


def test_wrong_settings_are_one_line_and_exit_code_1(tmp_path):
    ended = _run(Settings(data_dir=tmp_path), VISUAL_SEARCH_LOG_FORMAT="xml")
    assert ended.returncode == 1
    [line] = ended.stderr.splitlines()
    assert "invalid_settings: setting 'log_format'" in line


def test_what_is_not_known_is_no_field():
    assert about(job=3, image="a") == {"job": 3, "image": "a"}
    assert set(CONTEXT_FIELDS) == set(about.__kwdefaults__)


def test_configuring_twice_writes_each_line_once():
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    try:
        configure_logging("test", "text")
        configure_logging("test", "json")
        assert len([one for one in root.handlers if one not in before]) == 1
    finally:
        for one in [one for one in root.handlers if one not in before]:
            root.removeHandler(one)
        root.setLevel(level)
        logging.captureWarnings(capture=False)


@pytest.mark.parametrize("name", CONTEXT_FIELDS)
def test_no_field_clashes_with_what_logging_uses_itself(name):
    assert name not in logging.makeLogRecord({}).__dict__
