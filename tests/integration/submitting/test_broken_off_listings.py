"""A listing that broke off goes on where it was, in one process at a time."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import suppress

import pytest
from interleaved import at_every_transaction, overtaken
from submitted_work import request_for

from pipeline.indexing.source import SourceItem
from pipeline.reindex import rebuild_from_vectors
from storage.errors import StorageUnavailable
from storage.images.backend import StoredObject
from workers.job_client import JobClient
from workers.submitting.planner import Planner
from workers.submitting.submit import generation_for


class TestBrokenOffListing:
    """A listing of 9,000 references that exist on no disk: what is listed is all that counts here."""

    NAMES = tuple(f"{number:05}.jpg" for number in range(9000))

    def items(self) -> Iterator[SourceItem]:
        for name in self.NAMES:
            yield SourceItem(name, StoredObject(name, f"file:///photos/{name}", "e", 1, 0.0))

    def planner(self, client: JobClient) -> Planner:
        generation = generation_for(client.catalog, "default", client.settings)
        job, _ = client.catalog.jobs.open(request_for(client, "file:///photos/"))
        return Planner(client.catalog, generation, job, list)

    def test_the_same_request_goes_on_behind_the_last_page(self, client: JobClient) -> None:
        def broken_off() -> Iterator[SourceItem]:
            for number, item in enumerate(self.items()):
                if number == 5000:
                    raise KeyboardInterrupt
                yield item

        with pytest.raises(KeyboardInterrupt):
            self.planner(client).add(broken_off())
        job = client.list()[0].job
        assert (job.state, job.counts["listed"], job.listed_until) == ("listing", 4096, "04095.jpg")
        self.planner(client).add(self.items())
        progress = client.list()[0]
        assert (progress.job.id, progress.listed) == (job.id, 9000)
        assert sorted(client.catalog.batches.image_ids(job.id)) == list(self.NAMES)

    def test_it_is_gone_on_with_also_when_the_generation_was_made_anew_meanwhile(self, client: JobClient) -> None:
        def broken_off() -> Iterator[SourceItem]:
            for number, item in enumerate(self.items()):
                if number == 5000:
                    raise KeyboardInterrupt
                yield item

        with pytest.raises(KeyboardInterrupt):
            self.planner(client).add(broken_off())
        [begun] = client.list()
        rebuild_from_vectors(client.catalog, generation_for(client.catalog, "default", client.settings))
        generation = generation_for(client.catalog, "default", client.settings)
        assert generation.id != begun.job.generation_id
        placed = ((item.stored.key, item) for item in self.items())
        progress = client._submission.placed(request_for(client, "file:///photos/"), generation, placed)
        assert (progress.job.id, progress.job.state, progress.listed) == (begun.job.id, "running", 9000)
        assert sorted(client.catalog.batches.image_ids(progress.job.id)) == list(self.NAMES)
        leased = client.catalog.batches.lease(client.catalog.batches.sweep().to_send[0].batch_id, "worker", 60)
        assert leased is not None
        assert leased.generation.id == generation.id

    def test_of_two_that_list_at_once_one_stops(self, client: JobClient, caplog: pytest.LogCaptureFixture) -> None:
        overtaken = False

        def slow() -> Iterator[SourceItem]:
            nonlocal overtaken
            for number, item in enumerate(self.items()):
                if number == 5000 and not overtaken:
                    overtaken = True
                    self.planner(client).add(self.items())  # the same command, started a second time
                yield item

        generation = generation_for(client.catalog, "default", client.settings)
        with caplog.at_level(logging.WARNING):
            placed = ((item.stored.key, item) for item in slow())
            progress = client._submission.placed(request_for(client, "file:///photos/"), generation, placed)
        assert "listed by another process" in caplog.text
        assert progress.listed == 9000
        assert sorted(client.catalog.batches.image_ids(progress.job.id)) == list(self.NAMES)


def test_a_listing_that_fails_harms_no_other_of_the_same_job(
    client: JobClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two commands list one source; for one of them it goes away, at whatever step of the other that is."""

    def run(number: int) -> bool:
        source = f"file:///photos-{number}/"
        request, items = request_for(client, source), [_item(source, name) for name in ("a.jpg", "b.jpg")]
        generation = generation_for(client.catalog, "default", client.settings)

        def other_command() -> None:
            client._submission.placed(request, generation, [(one.stored.key, one) for one in items])

        def going_away() -> Iterator[tuple[str, SourceItem]]:
            raise StorageUnavailable("the disk is gone")
            yield

        with overtaken(monkeypatch, number, other_command) as overtaking, suppress(StorageUnavailable):
            client._submission.placed(request, generation, going_away())
        if not overtaking.happened:
            return False
        progress = client.list(limit=1)[0]
        assert (progress.job.source, progress.job.state, progress.listed) == (source, "running", 2)
        return True

    assert at_every_transaction(run) > 1


def _item(source: str, name: str) -> SourceItem:
    return SourceItem(name, StoredObject(name, f"{source}{name}", "e", 1, 0.0))
