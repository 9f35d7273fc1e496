"""What comes between the steps of a mirror: new files, a cancellation, a kill; at every transaction of it."""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path

import pytest
from interleaved import at_every_transaction, overtaken
from pictures import jpeg, write_photos
from submitted_work import ids_of, work_off

from pipeline.indexing.selection import SourceSelection
from workers.job_client import JobClient

GONE = {"even/00.jpg", "odd/03.jpg"}


def mirrored(client: JobClient, tmp_path: Path, number: int) -> tuple[Path, SourceSelection]:
    """A folder that is indexed under ids of its own and of which two files are gone since."""
    photos, selection = tmp_path / f"photos-{number}", SourceSelection(id_prefix=f"{number}/")
    write_photos(photos, 5)
    client.submit(photos, selection)
    work_off(client.catalog)
    for name in GONE:
        (photos / name).unlink()
    return photos, selection


def live(client: JobClient, selection: SourceSelection) -> set[str]:
    return {one.removeprefix(selection.id_prefix) for one in ids_of(client) if one.startswith(selection.id_prefix)}


def test_what_is_indexed_while_a_mirror_looks_is_not_removed_by_it(
    client: JobClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(number: int) -> bool:
        photos, selection = mirrored(client, tmp_path, number)

        def another_submit() -> None:
            for name in ("odd/03.jpg", "odd/new.jpg"):  # one that comes back, and one that was never there
                (photos / name).write_bytes(jpeg(100 + number))
            client.submit(photos, selection)
            work_off(client.catalog)

        with overtaken(monkeypatch, number, another_submit) as overtaking:
            client.submit(photos, selection, mirror=True)
        if overtaking.happened:
            assert {"odd/03.jpg", "odd/new.jpg"} <= live(client, selection), f"at transaction {number}"
        return overtaking.happened

    assert at_every_transaction(run) > 8


def test_a_cancelled_mirror_removes_nothing_more(
    client: JobClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(number: int) -> bool:
        photos, selection = mirrored(client, tmp_path, number)
        at_cancel: list[set[str]] = []

        def cancel() -> None:
            newest = client.list(limit=1)[0].job
            if newest.options["mirror"] and client.catalog.jobs.cancel(newest.id):
                at_cancel.append(live(client, selection))

        with overtaken(monkeypatch, number, cancel) as overtaking:
            client.submit(photos, selection, mirror=True)
        if at_cancel:
            assert live(client, selection) == at_cancel[0], f"at transaction {number}"
            assert client.list(limit=1)[0].removed == 5 - len(at_cancel[0])
        return overtaking.happened

    assert at_every_transaction(run) > 8


def test_a_mirror_that_was_killed_and_is_gone_on_with_counts_what_it_removed(
    client: JobClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed() -> None:
        raise KeyboardInterrupt

    def run(number: int) -> bool:
        photos, selection = mirrored(client, tmp_path, number)
        with overtaken(monkeypatch, number, killed) as overtaking, suppress(KeyboardInterrupt):
            client.submit(photos, selection, mirror=True)
        if overtaking.happened:
            client.submit(photos, selection, mirror=True)
        mirrors = [
            one for one in client.list(limit=2) if one.job.options["mirror"] and one.job.source.count(photos.name)
        ]
        assert sum(one.removed for one in mirrors) == len(GONE), f"at transaction {number}"
        assert all(one.job.state == "finished" for one in mirrors)
        return overtaking.happened

    assert at_every_transaction(run) > 8


def test_a_disk_that_goes_away_while_a_mirror_looks_costs_nothing(
    client: JobClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(number: int) -> bool:
        photos, selection = mirrored(client, tmp_path, number)
        (photos / "even" / "00.jpg").write_bytes(jpeg(0))

        def unmount() -> None:
            for path in photos.iterdir():
                shutil.rmtree(path)

        with overtaken(monkeypatch, number, unmount) as overtaking:
            client.submit(photos, selection, mirror=True)
        if overtaking.happened:
            assert live(client, selection) >= {"even/02.jpg", "even/04.jpg", "odd/01.jpg"}, f"at transaction {number}"
        return overtaking.happened

    assert at_every_transaction(run) > 8
