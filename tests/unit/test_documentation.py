"""What the documents say of the program is what the program does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from documents import ROOT, anchors_of, console_commands, links_of, pages, prose_of, words_of

import visual_search
from storage.settings import Settings


def _rows_of_the_settings_class() -> list[str]:
    rows = []
    for name, field in Settings.model_fields.items():
        default = "see the meaning" if field.default_factory is not None else f"`{field.default}`"
        rows.append(f"| `VISUAL_SEARCH_{name.upper()}` | `{name}` | {default} | {field.description} |")
    return rows


def test_the_configuration_page_lists_every_setting_as_the_class_has_it():
    page = (ROOT / "docs" / "configuration.md").read_text()
    listed = [line for line in page.splitlines() if line.startswith("| `VISUAL_SEARCH_")]
    assert listed == _rows_of_the_settings_class()


def test_what_is_made_from_the_program_is_up_to_date():
    import write_references

    assert write_references.stale() == [], "run `make references`"


def test_every_public_name_is_there_and_in_both_library_pages():
    page = (ROOT / "docs" / "library.md").read_text()
    reference = (ROOT / "docs" / "library-reference.md").read_text()
    for name in visual_search.__all__:
        value = getattr(visual_search, name)
        if not name.startswith("__"):
            assert f"`{name}" in page, f"{name} is missing in docs/library.md"
            assert f"\n::: {value.__module__}.{name}\n" in reference, f"{name} is missing in docs/library-reference.md"
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = visual_search.no_such_name


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_a_file_and_to_a_heading_in_it(page):
    for target, anchor in links_of(page):
        file = page.parent / target if target else page
        assert file.exists(), f"links to {target}"
        if anchor:
            assert anchor in anchors_of(file), f"links to #{anchor} of {file.name}"


def _pages_of_the_site(entry: object) -> list[str]:
    if isinstance(entry, str):
        return [entry]
    values = entry.values() if isinstance(entry, dict) else entry
    return [page for value in values for page in _pages_of_the_site(value)]


def test_readme_and_the_site_list_every_page():
    pages_there = {page.name for page in (ROOT / "docs").glob("*.md")}
    assert pages_there <= {Path(target).name for target, _ in links_of(ROOT / "README.md")}
    site = yaml.load((ROOT / "mkdocs.yml").read_text(), Loader=yaml.BaseLoader)  # noqa: S506 - it makes strings only
    assert pages_there <= set(_pages_of_the_site(site["nav"]))


def test_every_command_has_an_example_and_every_example_is_read_by_the_program(command_tree):
    for page in command_tree.pages:
        if not page.commands:
            assert any(one.startswith(page.path) for one in page.examples), f"{page.path} --help has no example"
        for words in map(words_of, page.examples):
            if words[0] == "visual-search":
                command_tree.parse(words[1:])


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_line_in_the_documents_is_read_by_the_program(page, command_tree):
    for command in console_commands(page):
        words = words_of(command)
        if words[0] == "visual-search":
            command_tree.parse(words[1:])


def test_every_make_target_that_is_named_is_there():
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for page in pages():
        text = page.read_text()
        named = re.findall(r"(?:`|^    |&& )make ((?:[a-z-]+ ?)+)", text, re.MULTILINE)
        for name in " ".join(named).split():
            assert name in targets, f"{page.name} names `make {name}`"


def test_no_page_names_a_python_module_that_is_not_there():
    for page in pages():
        for module in re.findall(
            r"python -m ((?:storage|pipeline|workers|query_service|visual_search)[\w.]*)", prose_of(page)
        ):
            path = ROOT / module.replace(".", "/")
            assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), f"{page.name}: {module}"


def test_every_metric_that_any_module_registers_is_explained():
    for path in [path for package in ("workers", "query_service") for path in (ROOT / package).rglob("*.py")]:
        for name in re.findall(r'(?:Counter|Gauge|Histogram)\(\s*"(visual_search_\w+)"', path.read_text()):
            assert f"`{name}" in (ROOT / "docs" / "metrics.md").read_text(), f"{path.name} has {name}"


def test_reason_codes_are_all_explained():
    import tables

    page = (ROOT / "docs" / "errors.md").read_text()
    for one in tables.error_classes():
        assert one.__doc__
        assert f"`{one.reason}`" in page, f"{one.__name__}'s reason {one.reason} is missing in docs/errors.md"


def test_the_version_stands_in_one_place():
    version = visual_search.__version__
    assert re.fullmatch(r"\d+\.\d+\.\d+", version)
    assert "version" in (ROOT / "pyproject.toml").read_text().split('dynamic = ["')[1].split('"]')[0]
    files = [ROOT / "pyproject.toml", ROOT / "Makefile", *ROOT.glob("deploy/**/*.y*ml"), ROOT / "docker-compose.yml"]
    for file in files:
        assert not re.search(rf"\b{re.escape(version)}\b", file.read_text()), (
            f"{file.name} repeats the version {version}"
        )
