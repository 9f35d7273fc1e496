"""Fixtures of the browser tests: Debian's Chromium, one running service for all of them, watched pages."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from checkpoints import save_tiny_clip
from pictures import jpeg, picture
from playwright.sync_api import Browser, expect, sync_playwright
from watched_page import OpenPage, WatchedPage
from web_service import HOSTILE, ROLES, WebService, running_service, wait_until_ready

CHROMIUM = "/usr/bin/chromium"
_ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
_ARGUMENTS += ["--disable-component-update", "--disable-sync"]
PICTURES = 70  # more than two pages of results
WANTED_SEED = 500  # of the picture that tests search with; it is not indexed itself


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All of them need the whole system: `make test-slow`."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def _chromium() -> None:
    if shutil.which(CHROMIUM) is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"there is no {CHROMIUM}")


@pytest.fixture(scope="module")
def browser(_chromium: None) -> Iterator[Browser]:
    """Ends with each module: while Playwright runs, an event loop runs in this thread, and `asyncio.run` refuses to."""
    expect.set_options(timeout=120_000)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=_ARGUMENTS, timeout=180_000)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def service(_chromium: None, _valkey_program: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebService]:
    """Collections `default` (pictures, near-duplicates), `hostile`, `words` (CLIP), `incoming` (for jobs)."""
    with running_service(tmp_path_factory.mktemp("web")) as service:
        service.seed("default", _photos() | variants(), [json.dumps(_attributes(n)) for n in range(PICTURES)])
        service.seed("hostile", {name: jpeg(n) for n, name in enumerate(HOSTILE)} | _broken(), _hostile_attributes())
        service.seed("incoming", {"first.jpg": jpeg(0)})
        model = save_tiny_clip(service.folder / "clip")
        service.seed("words", {_name(number): jpeg(number) for number in range(8)}, model=str(model))
        for module in ROLES:
            service.start(module)
        wait_until_ready(service.url)
        yield service


@pytest.fixture
def open_page(browser: Browser, service: WebService) -> Iterator[OpenPage]:
    """`open_page(viewport=..., url=...)`: a tab in a context of its own; at the end nothing forbidden has happened."""
    opened: list[WatchedPage] = []

    def open_page(url: str = service.url, **context: Any) -> WatchedPage:
        opened.append(WatchedPage(browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **context}), url))
        return opened[-1]

    yield open_page
    for one in opened:
        one.page.context.close()
    assert [problem for one in opened for problem in one.problems] == []


@pytest.fixture
def watched(open_page: OpenPage) -> WatchedPage:
    """One tab on a desktop."""
    return open_page()


@pytest.fixture(scope="session")
def wanted() -> bytes:
    """The picture to search with: its three variants are indexed, itself it is not."""
    return jpeg(WANTED_SEED, (320, 240))


def variants() -> dict[str, bytes]:
    """The same picture smaller, at a low quality, and a little cropped."""
    whole = picture(WANTED_SEED, (320, 240))
    edits = {
        "small": (whole.resize((96, 72)), 90),
        "coarse": (whole, 20),
        "cropped": (whole.crop((8, 6, 312, 234)), 90),
    }
    made = {}
    for name, (edited, quality) in edits.items():
        buffer = io.BytesIO()
        edited.save(buffer, format="JPEG", quality=quality)
        made[f"variants/{name}.jpg"] = buffer.getvalue()
    return made


def _name(number: int) -> str:
    return f"photos/{number:03}.jpg"


def _photos() -> dict[str, bytes]:
    return {_name(number): jpeg(number) for number in range(PICTURES)}


def _attributes(number: int) -> dict[str, Any]:
    place = ("Paris", "Rome", "Oslo")[number % 3]
    return {"image_id": _name(number), "place": place, "year": 2000 + number % 10, "indoor": number % 2 == 0}


def _hostile_attributes() -> list[str]:
    attack = "<img src=x onerror=alert(5)>"
    return [json.dumps({"image_id": name, attack: '"><script>alert(6)</script>', "list": [attack]}) for name in HOSTILE]


def _broken() -> dict[str, bytes]:
    return {"<svg onload=alert(7)>.jpg": jpeg(99)[:200]}
