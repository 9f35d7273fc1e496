"""A service that holds nothing yet: the page says what to do, no error frightens, and the first picture gets in."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pictures import jpeg
from playwright.sync_api import expect
from watched_page import OpenPage
from web_service import LONG, ROLES, WebService, running_service, wait_until_ready


@pytest.fixture
def empty_service(
    _chromium: None, _valkey_program: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[WebService]:
    with running_service(tmp_path_factory.mktemp("empty")) as service:
        for module in ROLES:
            service.start(module)
        wait_until_ready(service.url)
        yield service


def test_the_first_picture_is_added_and_found_without_any_error(empty_service: WebService, open_page: OpenPage) -> None:
    """The page is closed before the service ends: else it would tell that nobody answers."""
    page = open_page(empty_service.url).page
    page.goto(empty_service.url)
    expect(page.locator("#nothing")).to_contain_text("Nothing is indexed yet")
    expect(page.locator("#banner")).to_be_hidden()
    page.get_by_role("button", name="Add pictures").click()
    expect(page.locator("#no-jobs")).to_be_visible()
    expect(page.locator("#banner")).to_be_hidden()
    page.set_input_files("#upload", [{"name": "first.jpg", "mimeType": "image/jpeg", "buffer": jpeg(1)}])
    expect(page.locator(".job .pill")).to_have_text("finished", timeout=LONG)
    expect(page.locator("#collection option:checked")).to_have_text("default (1 image)")
    page.locator("[data-view=search]").click()
    expect(page.locator("#grid article")).to_have_count(1)
    expect(page.locator("#banner")).to_be_hidden()
