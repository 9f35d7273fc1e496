"""Files that a release and its contributors rely on: pre-commit, templates, changelog, what the wheel is made of."""

from __future__ import annotations

import re

import yaml
from documents import ROOT


def test_pre_commit_runs_what_make_check_runs():
    check = (ROOT / "Makefile").read_text().split("\ncheck: ")[1].split("\n\n")[0]
    commands = [line.split("$(BIN)/")[1].removesuffix(" .") for line in check.splitlines() if "$(BIN)/" in line]
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    assert [hook["entry"].removeprefix(".venv/bin/") for hook in hooks] == commands


def test_issue_templates_are_forms_with_a_name_and_something_to_fill_in():
    forms = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
    for form in [yaml.safe_load(one.read_text()) for one in forms if one.name != "config.yml"]:
        assert form["name"]
        assert form["description"]
        assert any(field.get("validations", {}).get("required") for field in form["body"])


def test_the_changelog_begins_with_what_is_not_released_yet_and_then_has_versions_with_dates():
    changes = (ROOT / "CHANGELOG.md").read_text()
    headings = re.findall(r"^## (.+)$", changes, re.MULTILINE)
    assert headings[0] == "[Unreleased]"
    assert all(re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", heading) for heading in headings[1:])
    kinds = set(re.findall(r"^### (.+)$", changes, re.MULTILINE))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_every_file_of_the_packages_is_code_or_of_a_kind_that_goes_into_the_wheel():
    setup = (ROOT / "pyproject.toml").read_text().split("[tool.setuptools.package-data]")[1]
    kinds = {".py", *re.findall(r'"\*(\.\w+)"', setup.split("]")[0])}
    for package in ("visual_search", "query_service", "workers", "pipeline", "storage"):
        for path in (ROOT / package).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts and path.name != "py.typed":
                assert path.suffix in kinds, f"{path.relative_to(ROOT)} is left out of the wheel"
