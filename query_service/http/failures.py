"""Failures over HTTP: every image that could not be indexed, why, and another try."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Query

from query_service.http.access import requires
from query_service.http.collections import CollectionName, collection_named
from query_service.http.service import Service
from query_service.http.storable_text import storable
from workers.submitting.job_document import job_document

MOST_FAILURES = 1000  # of one page

router = APIRouter(prefix="/v1/failures", tags=["failures"])


@router.get("", dependencies=[requires("search")])
def failures(
    service: Service,
    collection: CollectionName = None,
    after: Annotated[str, Query(description="The last image id of the page before.")] = "",
    limit: Annotated[int, Query(ge=1, le=MOST_FAILURES)] = 50,
) -> Sequence[Mapping[str, Any]]:
    """List images that could not be indexed, by id, page by page."""
    record = collection_named(service, collection)
    found = service.catalog.failures.list(record.id, after=storable(after), limit=limit)
    return [asdict(one) for one in found]


@router.post("/retry", dependencies=[requires("admin")], status_code=202)
def retry(service: Service, collection: CollectionName = None) -> Sequence[Mapping[str, Any]]:
    """Queue every failed image again, as one job; none when nothing failed. Those whose file is gone stay failed."""
    return [job_document(job) for job in service.jobs.retry_failed(collection=collection)]
