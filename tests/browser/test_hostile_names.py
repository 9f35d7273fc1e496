"""Names, attributes and reasons that are HTML stay words: no script runs, no element appears, no violation hides it."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect
from watched_page import OpenPage, WatchedPage
from web_service import HOSTILE

_VIOLATIONS = "window.violations = []; addEventListener('securitypolicyviolation', (one) => "
_VIOLATIONS += "violations.push(`${one.violatedDirective} ${one.blockedURI}`));"


@pytest.fixture
def hostile(open_page: OpenPage) -> WatchedPage:
    watched = open_page()
    watched.page.add_init_script(_VIOLATIONS)
    return watched


def assert_harmless(page: Page) -> None:
    page.wait_for_timeout(200)
    assert page.evaluate("violations") == []
    strange = "img[onerror], svg[onload], [src='x'], script:not([src^='static/']), main script"
    assert page.locator(strange).count() == 0


def test_hostile_ids_and_attributes_are_shown_as_words(hostile: WatchedPage) -> None:
    page = hostile.open("?c=hostile")
    expect(page.locator("#grid article")).to_have_count(len(HOSTILE))
    assert set(hostile.ids()) == set(HOSTILE)
    card = page.locator("#grid article").first
    card.hover()
    card.get_by_role("button", name="More like").click()
    hostile.shows_other_than([])
    expect(page.locator("#grid img.loaded").first).to_be_visible()
    assert "<img src=x onerror=alert(5)>" in page.locator("#filters").inner_text()
    page.locator("#grid .frame img").first.click()
    expect(page.locator("#detail")).to_contain_text("<script>alert(6)</script>")
    page.get_by_role("button", name="Explain").click()
    expect(page.locator("#detail tbody tr").first).to_be_visible()
    assert_harmless(page)


def test_a_hostile_filter_can_be_used(hostile: WatchedPage) -> None:
    page = hostile.open("?c=hostile")
    page.locator("#grid article").first.focus()
    page.keyboard.press("Enter")
    hostile.shows_other_than([])
    page.locator("#filters .toggle").first.click()
    expect(page.locator("#filters .toggle").first).to_have_attribute("aria-pressed", "true")
    expect(page.locator("#summary")).to_have_text("3 results")
    assert_harmless(page)


def test_a_hostile_failure_is_listed_as_words(hostile: WatchedPage) -> None:
    page = hostile.open("?c=hostile&view=jobs")
    expect(page.locator("#failures li")).to_contain_text("<svg onload=alert(7)>.jpg")
    assert_harmless(page)


def test_a_hostile_address_does_nothing(hostile: WatchedPage) -> None:
    hostile.expected = ("status of 4",)
    attack = "%3Cimg%20src%3Dx%20onerror%3Dalert(8)%3E"
    page = hostile.open(
        f"?p=i1:{attack}&f=%7B%22key%22%3A%22__proto__%22%2C%22gte%22%3A1%7D&f=broken&min=abc&x={attack}"
    )
    expect(page.locator("#banner")).to_contain_text("<img src=x")
    assert_harmless(page)


def test_a_collection_that_does_not_exist_is_named_as_words(hostile: WatchedPage) -> None:
    hostile.expected = ("status of 4",)
    page = hostile.page
    page.goto(f"{hostile.url}?c=%22%3E%3Cscript%3Ealert(9)%3C/script%3E")
    expect(page.locator("#banner")).to_be_visible()
    assert_harmless(page)
