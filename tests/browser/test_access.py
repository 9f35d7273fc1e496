"""Who may use the page and what it asks of a browser: keyboard, phone, offline, API key, weight."""

from __future__ import annotations

import hashlib
from pathlib import Path

import httpx
from playwright.sync_api import expect
from servers import ROOT, free_port
from watched_page import OpenPage, WatchedPage
from web_service import WebService, wait_until_ready

from storage.settings import ApiKey, Settings

KEY = "vs-a-key-for-tests"


def focused(watched: WatchedPage) -> str | None:
    found: str | None = watched.page.evaluate("document.activeElement.dataset.id ?? null")
    return found


def test_results_can_be_walked_and_asked_with_by_keyboard_alone(watched: WatchedPage) -> None:
    page = watched.open("?p=i1:photos/000.jpg")
    before = watched.shows_other_than([])
    page.locator("#grid article").first.focus()
    page.keyboard.press("ArrowRight")
    assert focused(watched) == before[1]
    page.keyboard.press("ArrowDown")
    below = focused(watched)
    assert below in before[3:9]
    page.keyboard.press("Enter")
    found = watched.shows_other_than(before)
    assert below not in found
    assert focused(watched) == found[0], "the focus stays in the grid"
    page.keyboard.press("x")
    assert found[0] not in watched.shows_other_than(found)
    page.keyboard.press("Escape")
    expect(page.locator("#chips li")).to_have_count(0)


def test_slash_goes_to_the_search_field(watched: WatchedPage) -> None:
    page = watched.open()
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") in ("words", "picture")


def test_every_control_has_a_name_for_screen_readers(watched: WatchedPage) -> None:
    page = watched.open("?p=i1:photos/000.jpg")
    watched.shows_other_than([])
    script = """() => [...document.querySelectorAll("button, input, select")].filter((one) => one.checkVisibility())
      .filter((one) => !(one.ariaLabel || one.textContent.trim() || one.labels?.length)).map((one) => one.outerHTML)"""
    assert page.evaluate(script) == []


def test_a_phone_shows_everything_without_scrolling_sideways(open_page: OpenPage, wanted: bytes) -> None:
    phone = open_page(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    page = phone.open("?p=i1:photos/000.jpg&p=i-0.5:photos/001.jpg&x=photos/002.jpg")
    phone.shows_other_than([])
    width = "() => document.documentElement.scrollWidth"
    assert page.evaluate(width) == 360
    page.locator("#refine-toggle").tap()
    expect(page.locator("#min-score")).to_be_visible()
    assert page.evaluate(width) == 360
    page.locator("#refine-toggle").tap()
    page.locator("#grid .frame img").first.tap(position={"x": 30, "y": 30})
    expect(page.locator("#detail")).to_be_visible()
    page.get_by_role("button", name="Explain").tap()
    expect(page.locator("#detail tbody tr").first).to_be_visible()
    assert page.locator("#detail").evaluate("box => box.scrollWidth - box.clientWidth") == 0
    page.get_by_role("button", name="Close").tap()
    page.locator("[data-view=jobs]").tap()
    expect(page.locator("#jobs li").first).to_be_visible()
    assert page.evaluate(width) == 360


def test_nothing_jumps_when_the_pictures_arrive(watched: WatchedPage) -> None:
    page = watched.page
    page.add_init_script(
        "window.shift = 0; new PerformanceObserver((list) => { for (const one of list.getEntries()) "
        "if (!one.hadRecentInput) window.shift += one.value; }).observe({ type: 'layout-shift', buffered: true });"
    )
    watched.open("?p=i1:photos/000.jpg")
    watched.shows_other_than([])
    page.wait_for_function("() => document.querySelectorAll('#grid img.loaded').length > 8")
    assert page.evaluate("window.shift") < 0.1  # "good" by the measure that browsers use


def test_offline_is_said_and_the_search_is_made_again_when_online(watched: WatchedPage) -> None:
    watched.expected = ("ERR_INTERNET_DISCONNECTED",)
    page = watched.open("?p=i1:photos/000.jpg")
    before = watched.shows_other_than([])
    page.evaluate("scrollTo(0, 300)")
    page.context.set_offline(True)
    page.get_by_label("Hide near-duplicates").check()
    banner = page.locator("#banner")
    expect(banner).to_contain_text("cannot be reached")
    expect(banner).to_be_in_viewport()
    expect(banner.get_by_role("button", name="Retry now")).to_be_visible()
    assert watched.ids() == before, "the results before stay in sight"
    page.context.set_offline(False)
    expect(banner).to_be_hidden()


def test_a_key_is_asked_for_and_kept_in_the_tab_only(open_page: OpenPage, service: WebService) -> None:
    key = ApiKey(name="page", sha256=hashlib.sha256(KEY.encode()).hexdigest(), scopes=("admin",))
    guarded = Settings(
        **{**service.settings.model_dump(exclude_unset=True), "http_port": free_port(), "api_keys": [key]}
    )
    service.start("query_service.http", guarded)
    url = f"http://127.0.0.1:{guarded.http_port}/"
    wait_until_ready(url)
    tab = open_page(url)
    tab.expected = ("status of 401",)
    tab.page.goto(url + "?p=i1:photos/000.jpg")
    for given in ("wrong", KEY):
        expect(tab.page.locator("#key-dialog")).to_be_visible()
        tab.page.locator("#key-field").fill(given)
        tab.page.locator("#key-use").click()
    tab.shows_other_than([])
    expect(tab.page.locator("#grid img.loaded").first).to_be_visible()
    assert tab.page.evaluate("[localStorage.length, document.cookie]") == [0, ""]


def test_the_page_is_light_and_asks_no_other_host(service: WebService) -> None:
    web = ROOT / "query_service" / "web"
    files = [path for path in web.iterdir() if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 100_000
    assert [path.name for path in files if _names_another_host(path)] == []
    scripts = {path.name for path in files if path.suffix == ".js"}
    page = (web / "index.html").read_text(encoding="utf-8")
    assert {name for name in scripts if f'href="static/{name}"' not in page} == {"app.js"}, "all others are preloaded"
    policy = httpx.get(service.url, timeout=120).headers["content-security-policy"]
    assert "unsafe" not in policy


def _names_another_host(path: Path) -> bool:
    text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
    return "http://" in text or "https://" in text
