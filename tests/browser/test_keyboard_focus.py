"""Where the focus is can be seen, nothing lies over it, and it is not lost with the thing that had it."""

from __future__ import annotations

import io

from PIL import Image
from playwright.sync_api import Page, expect
from watched_page import WatchedPage

ASKED = "?p=i1:photos/000.jpg"
_LIES_OVER = """card => { const box = card.getBoundingClientRect();
  return [document.querySelector(".top").getBoundingClientRect().bottom <= box.top,
          document.querySelector("#provenance").getBoundingClientRect().top >= box.bottom]; }"""


def colours_left_of(page: Page, selector: str, width: int = 8) -> set[tuple[int, ...]]:
    """The colours of so many pixels before the middle of an element's left edge."""
    box = page.locator(selector).bounding_box()
    assert box is not None
    clip = {"x": box["x"] - width, "y": box["y"] + box["height"] / 2, "width": width, "height": 1}
    with Image.open(io.BytesIO(page.screenshot(clip=clip, animations="disabled"))) as strip:  # type: ignore[arg-type]
        pixels = strip.convert("RGB")
        return {pixels.getpixel((x, 0)) for x in range(pixels.width)}  # type: ignore[misc]


def test_the_ring_of_a_focused_result_is_seen_all_around(watched: WatchedPage) -> None:
    page = watched.open(ASKED)
    watched.shows_other_than([])
    page.locator("#words").focus()
    page.keyboard.press("Shift+Tab")  # from now on the focus is one of the keyboard
    page.locator("#grid article").nth(1).focus()
    page.keyboard.press("ArrowLeft")
    assert (79, 70, 229) in colours_left_of(page, "#grid article:focus")


def test_the_ring_of_a_filter_is_seen_at_its_left_too(watched: WatchedPage) -> None:
    page = watched.open(ASKED)
    watched.shows_other_than([])
    page.get_by_label("year at least").focus()
    assert (79, 70, 229) in colours_left_of(page, "#filters input:focus", 4)


def test_neither_the_top_nor_the_line_at_the_bottom_covers_what_has_the_focus(watched: WatchedPage) -> None:
    page = watched.open(ASKED)
    watched.shows_other_than([])
    page.locator("#grid article").first.focus()
    for key in ("ArrowDown", "ArrowDown", "ArrowDown", "ArrowUp", "ArrowUp", "ArrowUp"):
        page.keyboard.press(key)
        assert page.locator("#grid article:focus").evaluate(_LIES_OVER) == [True, True], key


def test_escape_in_a_field_leaves_the_search_alone(watched: WatchedPage) -> None:
    page = watched.open("?c=words&p=i1:photos/000.jpg")
    watched.shows_other_than([])
    page.locator("#words").fill("half a thought")
    page.keyboard.press("Escape")
    assert page.locator("#words").input_value() == ""
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement === document.body")
    expect(page.locator("#chips li")).to_have_count(1)
    page.keyboard.press("Escape")
    expect(page.locator("#chips li")).to_have_count(0)


def test_taking_a_part_away_by_keyboard_leads_to_the_next_one_and_then_to_the_field(watched: WatchedPage) -> None:
    page = watched.open("?c=words&p=i1:photos/000.jpg&p=i1:photos/001.jpg")
    watched.shows_other_than([])
    page.locator("#chips .weight").first.focus()
    for focused in ("Remove 001.jpg", None):
        page.locator("#chips button").first.focus()
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.getAttribute('aria-label')") == focused
    assert page.evaluate("document.activeElement.id") == "words"


def test_tab_walks_the_page_in_the_order_in_which_it_reads(watched: WatchedPage) -> None:
    page = watched.open("?c=words&p=i1:photos/000.jpg")
    watched.shows_other_than([])
    walked = []
    for _ in range(15):
        page.keyboard.press("Tab")
        walked.append(page.evaluate("document.activeElement.id || document.activeElement.className"))
    assert walked == [
        "skip",
        "home",
        "",
        "",
        "collection",
        "weight",
        "icon-button",
        "words",
        "picture",
        "go",
        "min-score",
        "diversity",
        "near-duplicates",
        "share",
        "",
    ]
    assert page.evaluate("document.activeElement.tagName") == "ARTICLE"
