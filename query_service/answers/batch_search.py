"""The search of one collection for a whole batch: filters by SQL, pages by the index, metadata by SQL again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipeline.pages import Page, PageQuestion, search_pages
from query_service.answers.asked import Asked, Served, together_or_alone
from query_service.answers.stage_seconds import StageSeconds
from storage.catalog import Catalog, ShownImage
from storage.filters import Filter


class CollectionSearch:
    """Searches what is served of one collection. SQL's share of the time is counted as `metadata`."""

    def __init__(self, served: Served, catalog: Catalog, seconds: StageSeconds) -> None:
        self._served = served
        self._images = catalog.images
        self._seconds = seconds
        self._matching: dict[str, set[str] | Exception] = {}  # by the filter's JSON

    def search(self, batch: Sequence[Asked]) -> None:
        """Set the page of each request, or fail it. Never raises."""
        questions: list[PageQuestion] = []
        ready: list[Asked] = []
        for asked in batch:
            try:
                questions.append(self._question(asked))
                ready.append(asked)
            except Exception as error:  # noqa: BLE001 - fails the requests with this filter alone
                asked.fail(error)
        for asked, page in zip(ready, together_or_alone(questions, self._pages), strict=True):
            if isinstance(page, Exception):
                asked.fail(page)
            else:
                asked.page = page

    def _pages(self, questions: Sequence[PageQuestion]) -> list[Page]:
        return search_pages(self._served.replica.index, questions, self._known)

    def _question(self, asked: Asked) -> PageQuestion:
        assert asked.vector is not None  # noqa: S101 - embedding has set it, or the request is over
        options = asked.request.options
        return PageQuestion(
            vector=asked.vector,
            options=options,
            only=None if options.filter is None else self._matching_ids(options.filter),
            only_matches_filter=True,
            exclude=asked.excluded(),
            explain=asked.request.explain,
        )

    def _matching_ids(self, condition: Filter) -> set[str]:
        """The ids that match, asked once for all requests with this filter; one object, so that they are grouped.

        As JSON, because 1, 1.0 and True are equal in Python and different in a filter.
        """
        key = condition.model_dump_json()
        if key not in self._matching:
            try:
                with self._seconds.of("metadata"):
                    self._matching[key] = self._images.matching_ids(self._served.collection.id, condition)
            except Exception as error:  # noqa: BLE001 - the same for every request with this filter
                self._matching[key] = error
        outcome = self._matching[key]
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def _known(self, image_ids: Sequence[str]) -> Mapping[str, ShownImage]:
        with self._seconds.of("metadata"):
            return self._images.shown(self._served.collection.id, image_ids)
