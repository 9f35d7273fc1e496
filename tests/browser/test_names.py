"""Names under the pictures: one line, a long one without its middle, nothing between its two ends but the dots."""

from __future__ import annotations

from playwright.sync_api import Page
from watched_page import OpenPage, WatchedPage
from web_service import HOSTILE

_LINES = "all => all.map((one) => [one.title, one.textContent, one.scrollWidth <= one.clientWidth])"
_ANY_CUT = "any => [...document.querySelectorAll('#grid .name')].some((one) => one.textContent.includes('…')) === any"


def _cut_names(page: Page) -> int:
    """How many names are shortened, each as it should be."""
    cut = 0
    lines = page.eval_on_selector_all("#grid .name", _LINES)
    assert len(lines) == len(HOSTILE)
    for image_id, shown, fits in lines:
        name = next(part for part in reversed(image_id.split("/")) if part)
        assert fits, shown
        if shown != name:
            begin, _, end = shown.partition("…")
            assert name.startswith(begin)
            assert end == name[-9:]
            cut += 1
    return cut


def test_a_long_name_loses_its_middle_and_follows_the_width_of_the_columns(watched: WatchedPage) -> None:
    page = watched.open("?c=hostile")
    page.wait_for_function(_ANY_CUT, arg=True)
    assert _cut_names(page) > 0
    page.set_viewport_size({"width": 620, "height": 900})  # two wide columns
    page.wait_for_function(_ANY_CUT, arg=False)
    assert _cut_names(page) == 0
    page.set_viewport_size({"width": 390, "height": 844})
    page.wait_for_function(_ANY_CUT, arg=True)
    assert _cut_names(page) > 0


def test_names_that_come_while_the_jobs_are_looked_at_are_cut_when_they_are_seen(open_page: OpenPage) -> None:
    page = open_page(viewport={"width": 390, "height": 844}).open("?c=hostile&view=jobs")
    page.get_by_role("button", name="Search", exact=True).first.click()
    page.wait_for_function(_ANY_CUT, arg=True)
    assert _cut_names(page) > 0
