"""A listing that broke off goes on where it was, in one process at a time."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from submitted_work import request_for

from pipeline.indexing.source import SourceItem
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
