"""Searching on the page: pictures go in, the right results come out, and each result leads on."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect
from watched_page import WatchedPage

VARIANTS = {"variants/small.jpg", "variants/coarse.jpg", "variants/cropped.jpg"}


def upload(watched: WatchedPage, picture: bytes) -> list[str]:
    page = watched.open()
    page.set_input_files("#picture", {"name": "mine.jpg", "mimeType": "image/jpeg", "buffer": picture})
    return watched.shows_other_than([])


def test_an_uploaded_photo_finds_its_near_duplicates_first(watched: WatchedPage, wanted: bytes) -> None:
    found = upload(watched, wanted)
    assert set(found[:3]) == VARIANTS
    scores = [float(text) for text in watched.page.locator("#grid .number").all_inner_texts()]
    assert scores == sorted(scores, reverse=True)
    assert scores[2] > 0.9
    assert "mine.jpg" in watched.page.locator("#chips").inner_text()


def test_the_pictures_to_begin_with_do_not_look_as_if_something_were_to_come(watched: WatchedPage) -> None:
    page = watched.open()
    expect(page.locator("#grid article").first).to_be_visible()
    expect(page.locator("#grid")).not_to_have_attribute("aria-busy", "true")


def test_a_damaged_picture_is_told_and_no_other_pictures_pass_for_its_results(
    watched: WatchedPage, wanted: bytes
) -> None:
    page = watched.open()
    watched.expected = ("400",)
    expect(page.locator("#grid article").first).to_be_visible()
    watched.hand_over("drop", wanted[: len(wanted) // 2])
    expect(page.locator("#banner")).to_contain_text("the file is damaged")
    expect(page.locator("#banner")).not_to_contain_text("OSError")
    expect(page.locator("#summary")).to_have_text("No answer")
    expect(page.locator("#grid article")).to_have_count(0)
    expect(page.locator("#nothing")).to_contain_text("Change what is asked")
    page.get_by_role("button", name="Start over").click()
    expect(page.locator("#grid article").first).to_be_visible()
    for gone in ("#nothing", "#banner", "#chips li"):
        expect(page.locator(gone)).to_be_hidden()


@pytest.mark.parametrize("kind", ["paste", "drop"])
def test_a_picture_can_be_pasted_and_dropped(watched: WatchedPage, wanted: bytes, kind: str) -> None:
    watched.open()
    watched.hand_over(kind, wanted)
    assert set(watched.shows_other_than([])[:3]) == VARIANTS


def test_more_like_this_finds_what_is_like_both(watched: WatchedPage, wanted: bytes) -> None:
    before = upload(watched, wanted)
    card = watched.page.locator("#grid article").nth(8)
    chosen = card.get_attribute("data-id")
    card.hover()
    card.get_by_role("button", name="More like").click()
    found = watched.shows_other_than(before)
    assert chosen not in found, "the picture that is asked with is no result"
    assert watched.page.locator("#chips li").count() == 2


def test_less_like_this_moves_a_result_away(watched: WatchedPage, wanted: bytes) -> None:
    before = upload(watched, wanted)
    card = watched.page.locator("#grid article").nth(4)
    card.hover()
    card.get_by_role("button", name="Less like").click()
    watched.shows_other_than(before)
    assert "NOT" in watched.page.locator("#chips .less").inner_text()
    watched.page.locator("#chips .less").get_by_role("button").click()
    expect(watched.page.locator("#chips .less")).to_have_count(0)
    watched.shows(before)


def test_the_weight_of_a_part_can_be_changed(watched: WatchedPage) -> None:
    page = watched.open("?p=i1:photos/001.jpg&p=i1:photos/002.jpg")
    before = watched.shows_other_than([])
    page.locator("#chips .weight").nth(1).fill("-1")
    page.locator("#chips .weight").nth(1).press("Enter")
    watched.shows_other_than(before)
    assert "i-1%3Aphotos" in page.url


def test_an_excluded_result_does_not_come_back(watched: WatchedPage, wanted: bytes) -> None:
    before = upload(watched, wanted)
    card = watched.page.locator("#grid article").first
    card.hover()
    card.get_by_role("button", name="Exclude").click()
    assert before[0] not in watched.shows_other_than(before)


def test_scrolling_loads_everything_once(watched: WatchedPage) -> None:
    page = watched.open("?p=i1:photos/000.jpg")
    watched.shows_other_than([])
    found = watched.all_ids()
    expect(page.locator("#summary")).to_have_text("72 results")
    assert len(found) == len(set(found)) == 72
    assert page.locator(".rank").last.inner_text() == "72"


def test_the_back_button_returns_to_the_search_before_with_its_upload(watched: WatchedPage, wanted: bytes) -> None:
    before = upload(watched, wanted)
    card = watched.page.locator("#grid article").nth(5)
    card.hover()
    card.get_by_role("button", name="More like").click()
    after = watched.shows_other_than(before)
    watched.page.go_back()
    assert watched.shows_other_than(after) == before
    watched.page.go_forward()
    assert watched.shows_other_than(before) == after


def test_the_address_holds_the_search(watched: WatchedPage) -> None:
    watched.open("?p=i1:photos/003.jpg&min=0.2&div=0.5&f=" + '{"key":"place","values":["Rome"]}')
    first = watched.shows_other_than([])
    watched.page.reload()
    assert watched.shows_other_than([]) == first
    assert {number % 3 for number in (int(one[-7:-4]) for one in first)} == {1}


def test_the_answer_says_where_it_comes_from(watched: WatchedPage, wanted: bytes) -> None:
    upload(watched, wanted)
    line = watched.page.locator("#provenance").inner_text()
    for fact in ("baseline", "Generation", "Change", "73 images", "total", "there and back"):
        assert fact in line


def test_a_result_can_be_explained(watched: WatchedPage, wanted: bytes) -> None:
    upload(watched, wanted)
    watched.page.locator("#grid .frame img").nth(1).click()
    detail = watched.page.locator("#detail")
    detail.get_by_role("button", name="Explain").click()
    expect(detail.locator("tbody tr").first).to_be_visible()
    assert "normalize" in detail.locator("table").inner_text()
    watched.page.keyboard.press("Escape")
    expect(detail).to_be_hidden()


def test_a_model_without_words_says_so(watched: WatchedPage) -> None:
    watched.expected = ("status of 4",)
    page = watched.open()
    expect(page.locator("#words")).to_be_disabled()
    expect(page.locator("#words-note")).to_contain_text("reads pictures only")
    page.goto(f"{watched.url}?p=t1:a cat")
    expect(page.locator("#banner")).to_contain_text("search with a picture instead")


def test_words_and_pictures_are_mixed_with_weights(watched: WatchedPage) -> None:
    page = watched.open("?c=words")
    page.keyboard.press("/")
    page.keyboard.type("a photo of a cat")
    page.keyboard.press("Enter")
    words = watched.shows_other_than([])
    expect(page.locator("#chips li")).to_contain_text("“a photo of a cat”")
    page.locator("#grid article").nth(3).focus()
    page.keyboard.press("Enter")
    both = watched.shows_other_than(words)
    page.locator("#chips .weight").first.fill("-2")
    page.locator("#chips .weight").first.press("Enter")
    watched.shows_other_than(both)


def test_a_broken_picture_is_refused_with_its_reason(watched: WatchedPage, wanted: bytes) -> None:
    watched.expected = ("status of 4",)
    page = watched.open()
    page.set_input_files("#picture", {"name": "half.jpg", "mimeType": "image/jpeg", "buffer": wanted[:300]})
    expect(page.locator("#banner")).to_be_visible()
    expect(page.locator("#banner")).to_contain_text("picture")
