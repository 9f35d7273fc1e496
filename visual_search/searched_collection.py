"""Searching a collection in this process: an index in memory that follows the catalog, questions, pages."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from pipeline.embedders.base import Vectors
from pipeline.errors import InvalidQuery
from pipeline.evaluate import EvaluationResult, evaluate_model
from pipeline.pages import PageQuestion
from pipeline.replica import IndexReplica
from pipeline.rerank import RerankOptions
from pipeline.rerank.explanation import Explanation
from pipeline.results import SearchResults
from pipeline.search import NearestNeighborSearch
from storage.catalog import Generation
from storage.errors import StorageError
from storage.snapshots import snapshots_of
from visual_search.opened_collection import OpenedCollection
from visual_search.query import Query

_log = logging.getLogger(__name__)


class SearchedCollection(OpenedCollection):
    """An open collection and its index in memory; every search sees all that is committed until then."""

    _replica: IndexReplica | None = None

    @property
    def search_service(self) -> NearestNeighborSearch:
        """Exact search over everything committed until now. Raises InvalidQuery while nothing is indexed."""
        return self._search_in(self._caught_up())

    def _search_in(self, replica: IndexReplica) -> NearestNeighborSearch:
        return NearestNeighborSearch(
            replica.index,
            metadata=lambda ids: self.catalog.images.shown(self.record.id, ids),
        )

    def _caught_up(self) -> IndexReplica:
        generation = self._searched()
        if self._replica is None or self._replica.generation.id != generation.id:
            self._replica = self._booted(generation)
        self._replica.catch_up()
        return self._replica

    def _booted(self, generation: Generation) -> IndexReplica:
        """From the newest snapshot where the workers publish some, which saves time and memory; else from SQL."""
        if self.catalog.snapshots.newest(generation.id) is not None:
            try:
                return IndexReplica.boot(self.catalog, generation, snapshots_of(self.settings, self.catalog))
            except StorageError as error:
                _log.warning("the index is made without a snapshot: %s", error)
        return IndexReplica(self.catalog, generation)

    def _searched(self) -> Generation:
        generation = self.generation
        if generation is None:
            raise InvalidQuery(f"collection '{self.name}' is empty: run `visual-search index FOLDER` first")
        return generation

    def search(self, query: Query, options: RerankOptions | None = None) -> SearchResults:
        """Answer one query, reranked; pages are full while anything matches. See RerankOptions."""
        return self._answer(query, options or RerankOptions(), explain=False)[0]

    def explain(self, query: Query, options: RerankOptions | None = None) -> tuple[SearchResults, Explanation]:
        """Answer as `search` does, and tell what each rerank step did to each result."""
        results, explanation = self._answer(query, options or RerankOptions(), explain=True)
        assert explanation is not None  # noqa: S101 - it was asked for
        return results, explanation

    def _answer(
        self, query: Query, options: RerankOptions, *, explain: bool
    ) -> tuple[SearchResults, Explanation | None]:
        replica = self._caught_up()  # its generation is the one that is asked, whatever is switched to meanwhile
        vector, query_id = self._query_vector(query, replica)
        only = None if options.filter is None else self.catalog.images.matching_ids(self.record.id, options.filter)
        exclude = frozenset() if query.image_id is None else frozenset((query.image_id,))
        question = PageQuestion(vector, options, only=only, only_matches_filter=True, exclude=exclude, explain=explain)
        return self._search_in(replica).answer(question, query_id)

    def _query_vector(self, query: Query, replica: IndexReplica) -> tuple[Vectors, str]:
        """The query as (dimension,) float32 of unit length, and its name."""
        if query.image_id is not None:
            return replica.index.reconstruct(query.image_id), query.image_id
        if query.text is not None:
            return self._service_for(replica.generation).embed_text(query.text), query.text
        assert query.image is not None  # noqa: S101 - Query checks it
        name = str(query.image) if isinstance(query.image, (str, Path)) else "image"
        return self._service_for(replica.generation).embed_image(query.image), name

    def evaluate(
        self,
        dataset_path: str | Path,
        k_values: Sequence[int] = (1, 5, 10, 20),
        output_path: Path | None = None,
    ) -> EvaluationResult:
        """Measure the collection on a ground truth file. Raises EvaluationError when it is broken."""
        return evaluate_model(
            search_service=self.search_service,
            dataset_path=dataset_path,
            k_values=k_values,
            output_path=output_path,
        )
