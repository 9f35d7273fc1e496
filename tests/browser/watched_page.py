"""A page in Chromium that notes whatever must not happen: errors, dialogs, CSP violations, requests to other hosts."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import BrowserContext, ConsoleMessage, Dialog, Page, Request, expect

_HAND_OVER = """([kind, base64, name]) => {
  const bytes = Uint8Array.from(atob(base64), (one) => one.charCodeAt(0));
  const files = new DataTransfer();
  files.items.add(new File([bytes], name, { type: "image/jpeg" }));
  const event = kind === "paste"
    ? new ClipboardEvent("paste", { clipboardData: files, bubbles: true, cancelable: true })
    : new DragEvent(kind, { dataTransfer: files, bubbles: true, cancelable: true });
  document.body.dispatchEvent(event);
}"""


class WatchedPage:
    """One tab. `problems` must stay empty, but for console lines that hold one of the `expected` words."""

    def __init__(self, context: BrowserContext, url: str) -> None:
        self.url = url
        self.problems: list[str] = []
        self.expected: tuple[str, ...] = ()
        context.set_default_timeout(120_000)  # a busy machine; nothing is asserted about time
        self.page: Page = context.new_page()
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.problems.append(f"error: {error}"))
        self.page.on("dialog", self._dialog)
        self.page.on("request", self._request)

    def open(self, address: str = "") -> Page:
        """Open the page at this query string, and wait until it knows the collections."""
        self.page.goto(self.url + address)
        expect(self.page.locator("#collection")).to_be_enabled()
        return self.page

    def ids(self) -> list[str]:
        """What the grid shows, in order."""
        found: list[str] = self.page.eval_on_selector_all("#grid article", "all => all.map((one) => one.dataset.id)")
        return found

    def shows_other_than(self, before: Sequence[str]) -> list[str]:
        """Wait until the grid shows results, and others than before."""
        script = "before => { const now = [...document.querySelectorAll('#grid article')].map((one) => one.dataset.id);"
        script += " return now.length && document.querySelector('#grid .score') && now.join() !== before.join(); }"
        self.page.wait_for_function(script, arg=list(before))
        return self.ids()

    def shows(self, ids: Sequence[str]) -> None:
        """Wait until the first results are these."""
        script = "ids => [...document.querySelectorAll('#grid article')].map((one) => one.dataset.id)"
        self.page.wait_for_function(script + ".slice(0, ids.length).join() === ids.join()", arg=list(ids))

    def all_ids(self) -> list[str]:
        """Scroll until the last result has come."""
        script = (
            "() => { scrollTo(0, document.body.scrollHeight); const [more, busy] = ['#load-more', '#grid[aria-busy]']"
        )
        script += ".map((one) => document.querySelector(one)); return more.hidden && !busy; }"
        self.page.wait_for_function(script, polling=100)
        return self.ids()

    def hand_over(self, kind: str, picture: bytes, name: str = "given.jpg") -> None:
        """Paste or drop a picture, or drag it over the page (`dragenter`)."""
        self.page.evaluate(_HAND_OVER, [kind, base64.b64encode(picture).decode(), name])

    def _console(self, message: ConsoleMessage) -> None:
        harmless = message.type not in ("error", "warning") or any(word in message.text for word in self.expected)
        if not harmless:
            self.problems.append(f"console: {message.text}")

    def _dialog(self, dialog: Dialog) -> None:
        self.problems.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def _request(self, request: Request) -> None:
        address: Any = urlsplit(request.url)
        if address.scheme not in ("blob", "data") and address.netloc != urlsplit(self.url).netloc:
            self.problems.append(f"request to another host: {request.url}")


OpenPage = Callable[..., WatchedPage]  # the fixture `open_page`
