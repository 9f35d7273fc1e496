"""Reranking of results that are there already: the steps without the search."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.rerank.options import RerankKeywords, RerankOptions
from pipeline.rerank.steps import rerank_page
from pipeline.results import SearchResults
from storage.errors import ModelMismatch

if TYPE_CHECKING:  # only names: typing_extensions is no dependency of ours, and VectorIndex would load FAISS
    from typing_extensions import Unpack

    from storage.vector_index import VectorIndex


class Reranker:
    """Reranks fixed results; with an index it can compare them (diversity, near-duplicates).

    It works on what it is given: a page can be short because the results were few. For pages that are always
    full use NearestNeighborSearch.search_page, which runs the same steps and asks the index for more.
    """

    def __init__(self, index: VectorIndex | None = None) -> None:
        self._index = index

    def rerank(
        self, results: SearchResults, options: RerankOptions | None = None, **keywords: Unpack[RerankKeywords]
    ) -> SearchResults:
        """Return a page of the results; keywords are the fields of RerankOptions and win over `options`.

        The order given is kept wherever no step changes it. Results that are normalized already stay as they
        are. Filters and groups look at the attributes that the results carry. Raises InvalidQuery for bad
        options and for diversity or near-duplicates without an index, ModelMismatch when results and index
        are of different models, UnknownImageId when the index does not hold a result.
        """
        chosen = (options or RerankOptions()).replace(**keywords)
        lookup = None
        if self._index is not None and chosen.needs_vectors:
            _check_same_model(results, self._index)
            lookup = self._index.reconstruct_many
        if results.normalized:
            chosen = chosen.replace(normalize=False)
        page = rerank_page(iter(results.results), chosen, lookup, falling=False)
        normalized = results.normalized or chosen.normalize
        return results.model_copy(update={"results": page, "normalized": normalized})


def _check_same_model(results: SearchResults, index: VectorIndex) -> None:
    if results.model is not None and index.model is not None and results.model != index.model:
        raise ModelMismatch(f"results of {results.model} cannot be compared by vectors of {index.model}")
