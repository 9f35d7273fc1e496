"""Generations over HTTP: which models a collection has vectors of, and the switch between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query

from query_service.http.access import requires
from query_service.http.collections import CollectionName, collection_named
from query_service.http.service import HttpService, Service
from storage.catalog import Generation
from storage.errors import GenerationClosed, UnknownGeneration

MOST_NUMBER = 2**31 - 1  # that the catalog's numbers reach

router = APIRouter(prefix="/v1/generations", tags=["generations"])

GenerationNumber = Annotated[int, Path(ge=1, le=MOST_NUMBER)]
AllowMissing = Annotated[bool, Query(description="Switch although some images would not be found.")]


@router.get("", dependencies=[requires("search")])
def generations(service: Service, collection: CollectionName = None) -> Sequence[Mapping[str, Any]]:
    """List the generations of a collection, oldest first; `missing`: images that have no vector in it."""
    record = collection_named(service, collection)
    return [_document(service, one) for one in service.catalog.generations.list(record.id)]


@router.post("/{generation_id}/activate", dependencies=[requires("admin")])
def activate(
    generation_id: GenerationNumber, service: Service, *, allow_missing: AllowMissing = False
) -> Mapping[str, Any]:
    """Switch the searches of its collection to a generation, at once."""
    lifecycle = service.catalog.lifecycle
    try:
        service.catalog.generations.get(generation_id)
    except GenerationClosed as error:
        raise UnknownGeneration(str(error)) from error
    allowed = lifecycle.missing_count(generation_id) if allow_missing else 0
    return _document(service, lifecycle.activate(generation_id, missing_allowed=allowed))


def _document(service: HttpService, generation: Generation) -> Mapping[str, Any]:
    is_retired = generation.state == "retired"
    return {
        "id": generation.id,
        "state": generation.state,
        "model": generation.model.model_dump(),
        "last_seq": generation.last_seq,
        "missing": 0 if is_retired else service.catalog.lifecycle.missing_count(generation.id),
        "created_at": generation.created_at,
    }
