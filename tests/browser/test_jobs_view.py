"""The jobs view on real jobs: submitted, followed live, failed pictures retried, cancelled, pictures uploaded."""

from __future__ import annotations

import re
import signal
from pathlib import Path

from pictures import jpeg
from playwright.sync_api import Locator, Page, expect
from servers import wait_for
from watched_page import OpenPage, WatchedPage
from web_service import LONG, WebService


def write(folder: Path, count: int, first_seed: int) -> Path:
    folder.mkdir()
    for number in range(count):
        (folder / f"{number:03}.jpg").write_bytes(jpeg(first_seed + number))
    return folder


def submit(page: Page, folder: Path) -> Locator:
    page.get_by_label("Folder or S3 address").fill(str(folder))
    page.get_by_role("button", name="Index it").click()
    return page.locator(".job", has_text=f"{folder.name}/").first


def test_a_job_is_followed_and_its_failures_are_retried(watched: WatchedPage, service: WebService) -> None:
    folder = write(service.folder / "incoming <b>", 24, 1000)
    (folder / "broken.jpg").write_bytes(jpeg(1100)[:200])
    page = watched.open("?c=incoming&view=jobs")
    worker = service.roles["workers.embed_worker-0"]
    worker.send(signal.SIGSTOP)  # until the page follows the job: else it may be over before the page looks
    try:
        with page.expect_response(lambda response: response.url.endswith("/events")):
            job = submit(page, folder)
    finally:
        worker.send(signal.SIGCONT)
    expect(job.locator(".pill")).to_have_text("finished", timeout=LONG)
    expect(job).to_contain_text("25 of 25 images")
    expect(job).to_contain_text("1 failed")
    failure = page.locator("#failures li", has_text="broken.jpg")
    expect(failure.locator(".pill")).to_have_text("corrupt")
    (folder / "broken.jpg").write_bytes(jpeg(1100))
    expect(page.locator("#collection option:checked")).to_have_text("incoming (25 images)")
    job.get_by_role("button", name="Retry 1 failed").click()
    expect(page.locator("#failures li", has_text="broken.jpg")).to_have_count(0, timeout=LONG)


def test_progress_is_live_and_a_job_can_be_cancelled(watched: WatchedPage, service: WebService) -> None:
    worker = service.roles["workers.embed_worker-0"]
    page = watched.open("?c=incoming&view=jobs")
    worker.send(signal.SIGSTOP)
    try:
        job = submit(page, write(service.folder / "endless", 12, 2000))
        expect(job.locator(".pill")).to_have_text("running")
        expect(job).to_contain_text("0 of 12 images")
        job.get_by_role("button", name="Cancel").click()
        expect(job.locator(".pill")).to_have_text("cancelled", timeout=LONG)
    finally:
        worker.send(signal.SIGCONT)


def test_uploaded_pictures_become_searchable(watched: WatchedPage, service: WebService) -> None:
    page = watched.open("?c=incoming&view=jobs")
    picture = {"name": "from-my-phone.jpg", "mimeType": "image/jpeg", "buffer": jpeg(3000)}
    page.set_input_files("#upload", [picture])
    expect(page.locator(".job", has_text="upload").first.locator(".pill")).to_have_text("finished", timeout=LONG)
    asked = {"collection": "incoming", "query": [{"image_id": "from-my-phone.jpg"}]}
    wait_for(lambda: page.request.post(f"{watched.url}v1/search", data=asked).ok, what="it to be searchable")
    page.get_by_role("button", name="Search", exact=True).first.click()
    page.set_input_files("#picture", [picture])
    watched.shows_other_than([])
    assert watched.ids()[0] == "from-my-phone.jpg"


def test_pictures_dropped_on_the_jobs_are_added_to_the_collection(watched: WatchedPage) -> None:
    page = watched.open("?c=incoming&view=jobs")
    before = page.locator("#collection option:checked").inner_text()
    watched.hand_over("dragenter", jpeg(3100))
    expect(page.locator("#drop-hint")).to_have_text("Drop pictures to add them to incoming")
    watched.hand_over("drop", jpeg(3100), "dropped.jpg")
    expect(page.locator("#drop-hint")).to_be_hidden()
    expect(page.locator(".job", has_text="upload").first.locator(".pill")).to_have_text("finished", timeout=LONG)
    expect(page.locator("#collection option:checked")).not_to_have_text(before)
    assert page.request.get(f"{watched.url}v1/images/dropped.jpg?collection=incoming").ok
    page.locator("[data-view=search]").click()
    expect(page.locator("#grid article").first).to_be_visible()
    expect(page.locator("#chips li"), "it is no search").to_have_count(0)


def test_the_jobs_and_the_failures_are_those_of_the_chosen_collection(watched: WatchedPage) -> None:
    page = watched.open("?c=hostile&view=jobs")
    expect(page.locator(".job .source")).to_have_text([re.compile("hostile/$")])
    page.locator("#collection").select_option("words")
    expect(page.locator(".job .source")).to_have_text([re.compile("words/$")])
    expect(page.locator("#failures-section")).to_be_hidden()


def test_a_look_at_the_jobs_does_not_scroll_back_to_the_button_that_was_pressed(open_page: OpenPage) -> None:
    watched = open_page(viewport={"width": 1280, "height": 300})
    page = watched.open("?c=hostile&view=jobs")
    button = page.get_by_role("button", name="Retry 1 failed")
    button.focus()
    page.evaluate("scrollTo(0, 0)")
    expect(button).not_to_be_in_viewport()
    looks = [page.wait_for_event("requestfinished", lambda request: "/v1/failures" in request.url) for _ in range(2)]
    assert len(looks) == 2
    expect(button).to_be_focused()
    assert page.evaluate("scrollY") == 0


def test_a_job_whose_source_could_not_be_listed_says_so(watched: WatchedPage) -> None:
    page = watched.open("?c=incoming&view=jobs")
    counts = dict.fromkeys(["listed", "indexed", "failed"], 0)
    job = {"id": 1, "kind": "index", "source": "s3://gone/", "state": "failed", "counts": counts, "is_over": True}
    script = "async (job) => (await import('./static/job_card.js')).jobCard(job, {}).textContent"
    assert "could not be listed" in page.evaluate(script, job)
    assert "could not" not in page.evaluate(script, {**job, "state": "finished"})


def test_a_folder_that_does_not_exist_is_refused_with_the_reason(watched: WatchedPage, service: WebService) -> None:
    watched.expected = ("status of 4",)
    page = watched.open("?c=incoming&view=jobs")
    submit(page, service.folder / "nowhere")
    expect(page.locator("#banner")).to_contain_text("nowhere")
    page.wait_for_event("requestfinished", lambda request: "/v1/failures" in request.url)
    expect(page.locator("#banner"), "the next look at the jobs leaves it there").to_be_visible()
