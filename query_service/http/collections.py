"""Collections over HTTP: which there are, and by which attributes their images can be filtered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Query

from pipeline.embedders.baseline import BASELINE_NAME
from query_service.http.access import requires
from query_service.http.service import HttpService, Service
from storage.catalog import CollectionRecord

MOST_ATTRIBUTES = 100  # of a collection that are described
MOST_VALUES = 50  # of an attribute

router = APIRouter(prefix="/v1/collections", tags=["collections"], dependencies=[requires("search")])

CollectionName = Annotated[
    str | None, Query(max_length=200, description="A collection; by default that of the settings.")
]


@router.get("")
def collections(service: Service) -> Sequence[Mapping[str, Any]]:
    """List all collections by name; `text_search`: whether their model reads words."""
    return [_document(service, record) for record in service.catalog.collections.list()]


@router.get("/{name}/attributes")
def attributes(name: str, service: Service) -> Mapping[str, Any]:
    """Describe the attributes that images have: numbers by their bounds, others by their most frequent values."""
    found = service.catalog.attribute_values.summaries(
        service.catalog.collections.get(name).id, most_keys=MOST_ATTRIBUTES, most_values=MOST_VALUES
    )
    return {"attributes": [asdict(one) for one in found]}


def collection_named(service: HttpService, name: str | None) -> CollectionRecord:
    """The collection of a request that may name none. Raises UnknownCollection."""
    return service.catalog.collections.get(name or service.settings.collection)


def _document(service: HttpService, record: CollectionRecord) -> Mapping[str, Any]:
    generation = service.catalog.generations.active(record.id)
    model = generation.model.name if generation else None
    return {
        "name": record.name,
        "images": record.image_count,
        "failures": service.catalog.failures.count(record.id),
        "model": model,
        "active_generation": generation.id if generation else None,
        "last_seq": generation.last_seq if generation else 0,
        "text_search": model not in (None, BASELINE_NAME),
    }
