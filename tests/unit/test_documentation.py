"""What the documents say of the program is what the program does."""

import re
from pathlib import Path

import pytest

import visual_search
from storage.settings import Settings

ROOT = Path(__file__).parents[2]


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


def test_every_public_name_is_there_and_in_the_library_page():
    page = (ROOT / "docs" / "library.md").read_text()
    for name in visual_search.__all__:
        assert getattr(visual_search, name) is not None
        if not name.startswith("__"):
            assert f"`{name}" in page, f"{name} is missing in docs/library.md"
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = visual_search.no_such_name


def test_links_between_the_documents_lead_somewhere():
    for page in [ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_reason_codes_are_unique_and_all_explained():
    import pipeline.errors
    import query_service.errors
    import storage.errors
    import workers.errors
    from storage.errors import VisualSearchError

    classes = [
        value
        for module in (storage.errors, pipeline.errors, workers.errors, query_service.errors)
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, VisualSearchError)
    ]
    page = (ROOT / "docs" / "errors.md").read_text()
    for one in set(classes):
        assert one.__doc__
        assert f"`{one.reason}`" in page, f"{one.__name__}'s reason {one.reason} is missing in docs/errors.md"
