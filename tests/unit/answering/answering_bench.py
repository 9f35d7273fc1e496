"""A catalog with pictures and the parts that answer questions on it, in this process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from pictures import jpeg

from pipeline.embedding_service import EmbeddingService
from pipeline.replica import IndexReplica
from pipeline.search import NearestNeighborSearch
from query_service.answers.answering import Answering, Served
from query_service.protocol import QueryPart, SearchAnswer, SearchReply, SearchRequest
from storage.catalog import Catalog, IndexBatch, IndexedImage
from storage.records import ImageMetadata
from workers.models import LoadedModels

IMAGES = 60


def wanted(_request_id: str) -> bool:
    return True


@dataclass
class Bench:
    """A collection `photos` of sixty pictures, embedded by a tiny CLIP, and the engine that answers for it."""

    catalog: Catalog
    answering: Answering
    served: Served
    service: EmbeddingService

    def answer(self, *requests: SearchRequest) -> list[SearchReply]:
        return self.answering.answer(requests, {"photos": self.served}, wanted)

    def one(self, *parts: QueryPart, **fields: Any) -> SearchAnswer:
        (reply,) = self.answer(request(*parts, **fields))
        assert reply.answer is not None, reply.error
        return reply.answer

    def reason(self, *parts: QueryPart, **fields: Any) -> str:
        (reply,) = self.answer(request(*parts, **fields))
        assert reply.error is not None
        return reply.error.reason

    def alone(self, asked: SearchRequest) -> Any:
        """What the library answers to a request of one stored image, with no batch and no queue."""
        index, images = self.served.replica.index, self.catalog.images
        search = NearestNeighborSearch(index, metadata=lambda ids: images.shown(self.served.collection.id, ids))
        exclude = set(asked.exclude) | ({asked.parts[0].image_id} if asked.exclude_query else set())
        vector = index.reconstruct(asked.parts[0].image_id or "")
        return search.search_page(vector, asked.options, asked.request_id, exclude=exclude)


def request(*parts: QueryPart, **fields: Any) -> SearchRequest:
    return SearchRequest(collection="photos", parts=parts, **fields)


def photo(number: int) -> QueryPart:
    return QueryPart(image_id=f"photo {number:02}")


def fill(catalog: Catalog, models: LoadedModels, service: EmbeddingService) -> Bench:
    collection = catalog.collections.ensure("photos")
    generation = catalog.generations.ensure_active(collection.id, service.identity)
    vectors = service.embed_images([jpeg(seed // 2) for seed in range(IMAGES)])  # each picture twice: ties
    catalog.commit(generation.id, IndexBatch(upserts=[stored(number, row) for number, row in enumerate(vectors)]))
    replica = IndexReplica(catalog, generation)
    replica.catch_up()
    return Bench(catalog, Answering(catalog, models, worker="here:1"), Served(collection, generation, replica), service)


def stored(number: int, vector: np.ndarray) -> IndexedImage:
    attributes: dict[str, Any] = {"year": 2000 + number % 7}
    if number % 3:
        attributes["shop"] = "xy"[number % 2]
    name = f"photo {number:02}"
    return IndexedImage(ImageMetadata(image_id=name, source_uri=f"file:///{name}", attributes=attributes), vector)


class Watched:
    """Counts the calls of one method of an object, which go on to the method itself."""

    def __init__(self, patch: pytest.MonkeyPatch, owner: Any, name: str) -> None:
        self.calls: list[Any] = []
        method = getattr(owner, name)

        def passed_on(*arguments: Any, **keywords: Any) -> Any:
            self.calls.append(arguments[-1])
            return method(*arguments, **keywords)

        patch.setattr(owner, name, passed_on)
