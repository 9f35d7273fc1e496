"""Searches in this process, without a service: the index is loaded from SQL, the model when it is needed."""

from __future__ import annotations

from contextlib import closing

from pipeline.errors import InvalidQuery
from pipeline.replica import IndexReplica
from query_service.answers.answering import Answering, Served
from query_service.errors import error_of
from query_service.protocol import SearchAnswer, SearchRequest
from visual_search.collection import ImageCollection
from workers.models import LoadedModels


def answer_embedded(images: ImageCollection, request: SearchRequest) -> SearchAnswer:
    """What the service would answer for this collection: mixed queries and explanations too. Raises its errors."""
    generation = images.generation
    if generation is None:
        raise InvalidQuery(f"collection '{images.name}' is empty: run `visual-search index FOLDER` first")
    replica = IndexReplica(images.catalog, generation)
    replica.catch_up()
    served = {request.collection: Served(images.record, generation, replica)}
    models = LoadedModels(images.settings, weights="mapped")  # for one question only
    with closing(Answering(images.catalog, models, worker="embedded")) as answering:
        (reply,) = answering.answer([request], served, lambda _request_id: True)
    if reply.answer is None:
        assert reply.error is not None  # noqa: S101 - a reply is either of both
        raise error_of(reply.error.reason, reply.error.message)
    return reply.answer
