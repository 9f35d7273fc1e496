"""Refining on the page: sliders, the near-duplicate switch and filters change the results at once."""

from __future__ import annotations

from playwright.sync_api import Page, expect
from watched_page import WatchedPage

ASKED = "?p=i1:variants/small.jpg"


def slide(page: Page, selector: str, value: str) -> None:
    script = "(slider, value) => { slider.value = value; for (const name of ['input', 'change']) "
    script += "slider.dispatchEvent(new Event(name, { bubbles: true })); }"
    page.locator(selector).evaluate(script, value)


def numbers(watched: WatchedPage) -> set[int]:
    return {int(one[-7:-4]) for one in watched.ids() if one.startswith("photos/")}


def test_the_lowest_score_drops_the_rest(watched: WatchedPage) -> None:
    page = watched.open(ASKED)
    before = watched.shows_other_than([])
    slide(page, "#min-score", "0.95")
    after = watched.shows_other_than(before)
    assert after == before[: len(after)]
    assert all(float(text) >= 0.95 for text in page.locator("#grid .number").all_inner_texts())


def test_variety_changes_the_order(watched: WatchedPage) -> None:
    page = watched.open(ASKED)
    before = watched.shows_other_than([])
    slide(page, "#diversity", "0.8")
    watched.shows_other_than(before)
    assert "div=0.8" in page.url


def test_near_duplicates_can_be_hidden(watched: WatchedPage) -> None:
    page = watched.open("?p=i1:photos/000.jpg")
    watched.shows_other_than([])
    before = watched.all_ids()
    page.get_by_label("Hide near-duplicates").check()
    watched.shows_other_than(before)  # scrolled down as it is, it goes on by itself to the last result
    after = watched.all_ids()
    assert [sum(one.startswith("variants/") for one in ids) for ids in (before, after)] == [3, 1]


def test_a_value_is_a_toggle_and_shows_its_count(watched: WatchedPage) -> None:
    page = watched.open(ASKED)
    before = watched.shows_other_than([])
    rome = page.locator("#filters").get_by_role("button", name="Rome")
    assert "23" in rome.inner_text()
    rome.click()
    watched.shows_other_than(before)
    assert {number % 3 for number in numbers(watched)} == {1}
    expect(rome).to_have_attribute("aria-pressed", "true")
    page.get_by_role("button", name="Reset all of these").click()
    watched.shows(before)


def test_a_number_is_a_range(watched: WatchedPage) -> None:
    page = watched.open(ASKED)
    before = watched.shows_other_than([])
    page.get_by_label("year at least").fill("2008")
    watched.shows_other_than(before)
    assert {number % 10 for number in numbers(watched)} == {8, 9}


def test_the_newest_of_many_requests_wins(watched: WatchedPage) -> None:
    page = watched.open(ASKED)
    watched.shows_other_than([])
    for step in range(1, 20):
        slide(page, "#min-score", f"{step / 20}")
    expect(page.locator("#min-score-value")).to_have_text("0.95")
    page.wait_for_url("**min=0.95**")
    expect(page.locator("#grid")).not_to_have_attribute("aria-busy", "true")
    page.wait_for_function(
        "() => [...document.querySelectorAll('#grid .number')].every((one) => Number(one.textContent) >= 0.95)"
    )
