"""Nearest-neighbour search: questions in any form to ranked results. Knows no SQL, no files, and no queue."""

from __future__ import annotations

import operator
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.embedders.base import Vectors
from pipeline.embedding_service import EmbeddingService, ImageInput
from pipeline.errors import InvalidQuery
from pipeline.pages import MetadataLookup, PageQuestion, hit_blocks, result_of, results_of, search_pages
from pipeline.rerank.explanation import Explanation
from pipeline.rerank.options import RerankOptions
from pipeline.rerank.stream import Stream
from pipeline.results import SearchResult, SearchResults
from storage.errors import ModelMismatch
from storage.records import ModelIdentity
from storage.vector_checks import check_id_collection, check_vector
from storage.vector_index import Hit, VectorIndex

_FIRST_FETCH = 64  # hits of a stream that is read without saying how far


class NearestNeighborSearch:
    """Searches one index, exactly. Pictures and texts need the embedding service; ids and vectors do not.

    With a metadata lookup results carry address and attributes. Raises ModelMismatch when made with a service
    of another model or dimension than the index: their vectors cannot be compared.
    """

    def __init__(
        self,
        index: VectorIndex,
        embedding_service: EmbeddingService | None = None,
        *,
        metadata: MetadataLookup | None = None,
    ) -> None:
        self._index = index
        self._embedding_service = embedding_service
        self._metadata = metadata
        if embedding_service is not None:
            _check_same_model(index, embedding_service)

    @property
    def index(self) -> VectorIndex:
        """The index that is searched."""
        return self._index

    @property
    def model(self) -> ModelIdentity | None:
        """The model whose vectors are searched, if it is known."""
        return self._index.model

    def search_by_id(
        self,
        image_id: str,
        query_id: str | None = None,
        k: int = 10,
        *,
        exclude_query: bool = True,
        only: Collection[str] | None = None,
    ) -> SearchResults:
        """Return the k images most like a stored one, itself left out or not.

        Like all searches here: fewer than k only when there are no more, sorted by distance and then id,
        `only` keeps to these ids, and an empty index gives empty results.
        Raises UnknownImageId, and InvalidQuery for k below 1.
        """
        vector = self._index.reconstruct(image_id)
        exclude = (image_id,) if exclude_query else ()
        return self.search_by_vector(vector, query_id or image_id, k, exclude=exclude, only=only)

    def search_by_vector(
        self,
        vector: Any,
        query_id: str | None = None,
        k: int = 10,
        *,
        exclude: Collection[str] = (),
        only: Collection[str] | None = None,
    ) -> SearchResults:
        """Return the k images nearest to a (dimension,) float32 vector of unit length.

        Raises InvalidVector, and InvalidQuery for k below 1.
        """
        hits = self._index.search(vector, _check_k(k), only=only, exclude=exclude)
        return self._answer(query_id or "vector", self._results(hits))

    def search_by_image(
        self,
        image: ImageInput,
        query_id: str | None = None,
        k: int = 10,
        *,
        exclude: Collection[str] = (),
        only: Collection[str] | None = None,
    ) -> SearchResults:
        """Return the k images most like a picture (bytes, path or PIL). Raises as `image_vector` does."""
        count, name = _check_k(k), query_id or _image_name(image)
        return self.search_by_vector(self.image_vector(image), name, count, exclude=exclude, only=only)

    def search_by_text(
        self,
        text: str,
        query_id: str | None = None,
        k: int = 10,
        *,
        exclude: Collection[str] = (),
        only: Collection[str] | None = None,
    ) -> SearchResults:
        """Return the k images that fit a text best. Raises as `text_vector` does."""
        count = _check_k(k)
        return self.search_by_vector(self.text_vector(text), query_id or text, count, exclude=exclude, only=only)

    def search_many(
        self, vectors: Any, query_ids: Sequence[str], k: int = 10, *, only: Collection[str] | None = None
    ) -> list[SearchResults]:
        """Answer (n, dimension) query vectors at once, faster than one by one. Raises as one search does."""
        if len(vectors) != len(query_ids):
            raise InvalidQuery(f"{len(vectors)} query vectors but {len(query_ids)} query ids: they must be as many")
        if not len(vectors):
            return []
        answers = self._index.search_many(vectors, _check_k(k), only=only)
        return [self._answer(name, self._results(hits)) for name, hits in zip(query_ids, answers, strict=True)]

    def rank_many_by_id(self, image_ids: Sequence[str], k: int, *, exclude_query: bool = True) -> list[list[str]]:
        """Return the ids alone, best first, for many stored images at once; metadata is not looked up.

        Raises UnknownImageId, InvalidQuery.
        """
        count = _check_k(k)
        if not image_ids:
            return []
        answers = self._index.search_many(self._index.reconstruct_many(image_ids), count + 1)
        excluded = image_ids if exclude_query else [None] * len(image_ids)
        pairs = zip(answers, excluded, strict=True)
        return [[hit.image_id for hit in hits if hit.image_id != own][:count] for hits, own in pairs]

    def search_page(
        self,
        vector: Any,
        options: RerankOptions,
        query_id: str | None = None,
        *,
        only: Collection[str] | None = None,
        exclude: Collection[str] = (),
    ) -> SearchResults:
        """Return one reranked page that is full while candidates remain, whatever the options drop.

        The index is asked for more until the page is full, so that while it does not change, pages of the
        same options fit together: none repeats or skips a result. For a filter on a large collection give
        `only` the ids that SQL found. Raises InvalidVector, and InvalidQuery when options need attributes and
        there is no metadata lookup.
        """
        question = self._question(vector, options, only, exclude)
        return self.answer(question, query_id)[0]

    def explain_page(
        self,
        vector: Any,
        options: RerankOptions,
        query_id: str | None = None,
        *,
        only: Collection[str] | None = None,
        exclude: Collection[str] = (),
    ) -> tuple[SearchResults, Explanation]:
        """Return what `search_page` returns, and how it came about: each result's way through the steps."""
        question = self._question(vector, options, only, exclude)
        results, explanation = self.answer(replace(question, explain=True), query_id)
        assert explanation is not None  # noqa: S101 - the question asks for it
        return results, explanation

    def answer(self, question: PageQuestion, query_id: str | None = None) -> tuple[SearchResults, Explanation | None]:
        """Return the page of a question made elsewhere, and how it came about if the question asks that.

        Raises InvalidVector, InvalidQuery.
        """
        (page,) = search_pages(self._index, [question], self._metadata)
        normalized = question.options.normalize
        return self._answer(query_id or "vector", page.results, normalized=normalized), page.explanation

    def ranked(
        self,
        vector: Any,
        *,
        only: Collection[str] | None = None,
        exclude: Collection[str] = (),
        first_fetch: int = _FIRST_FETCH,
    ) -> Stream:
        """Yield all results in order of relevance, with raw scores, asking the index only for what is read.

        Each time it asks for twice as many, so that reading n results takes about log2(n / first_fetch)
        searches. An image is never yielded twice, even when the index changes meanwhile.
        """
        fetch = _check_k(first_fetch)
        question = self._question(vector, RerankOptions(), only, exclude)
        first = self._index.search(question.vector, fetch, only=only, exclude=exclude)
        yield from results_of(hit_blocks(self._index, question, first, fetch), self._metadata)

    def image_vector(self, image: ImageInput) -> Vectors:
        """Embed a picture as a query: (dimension,) float32, unit length.

        Raises InvalidQuery without an embedding service, DecodeError and StorageError for a picture refused.
        """
        return self._service("an image").embed_image(image)

    def text_vector(self, text: str) -> Vectors:
        """Embed a text as a query: (dimension,) float32, unit length.

        Raises InvalidQuery without an embedding service, TextNotSupported with a model that knows no texts.
        """
        return self._service("a text").embed_text(text)

    def _service(self, kind: str) -> EmbeddingService:
        if self._embedding_service is None:
            message = "use NearestNeighborSearch(index, embedding_service=EmbeddingService(...)), or search by id"
            raise InvalidQuery(f"a search by {kind} needs a model to embed it: {message} or vector")
        # checked again, because an index may have got its model with its first vectors
        _check_same_model(self._index, self._embedding_service)
        return self._embedding_service

    def _results(self, hits: Sequence[Hit]) -> list[SearchResult]:
        known = self._metadata([hit.image_id for hit in hits]) if self._metadata is not None and hits else {}
        return [result_of(hit, rank, known.get(hit.image_id)) for rank, hit in enumerate(hits, start=1)]

    def _question(
        self, vector: Any, options: RerankOptions, only: Collection[str] | None, exclude: Collection[str]
    ) -> PageQuestion:
        query = check_vector(vector, self._index.dimension, "the query")[0]
        return PageQuestion(query, options, only=only, exclude=frozenset(check_id_collection(exclude, "exclude")))

    def _answer(self, query_id: str, results: list[SearchResult], *, normalized: bool = False) -> SearchResults:
        return SearchResults(query_id=query_id, results=results, normalized=normalized, model=self._index.model)


def _check_same_model(index: VectorIndex, service: EmbeddingService) -> None:
    if service.dimension != index.dimension:
        raise ModelMismatch(f"the index holds {index.dimension}-d vectors, {service.identity} makes others")
    if index.model is not None and index.model != service.identity:
        raise ModelMismatch(f"the index is of {index.model}, the queries would be of {service.identity}")


def _check_k(k: int) -> int:
    try:
        count = operator.index(k)
    except TypeError:
        count = 0
    if count < 1 or isinstance(k, bool):
        raise InvalidQuery(f"k, the number of results, must be a whole number of at least 1, got {k!r}")
    return count


def _image_name(image: ImageInput) -> str:
    return str(image) if isinstance(image, str | Path) else "image"
