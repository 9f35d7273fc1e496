"""A job's progress as server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Depends
from fastapi.encoders import jsonable_encoder
from sse_starlette import EventSourceResponse, ServerSentEvent

from query_service.http.access import requires
from query_service.http.jobs import JobNumber
from query_service.http.service import HttpService, Service
from storage.catalog import JobProgress
from storage.errors import VisualSearchError
from workers.submitting.job_document import job_document

LOOK_SECONDS = 0.5  # between two looks at a job
STOP_SECONDS = 0.1  # after which it is noticed that the service is to stop
PING_SECONDS = 15  # proxies close what is silent for a minute

router = APIRouter(tags=["jobs"], dependencies=[requires("search")])


def _known(job: JobNumber, service: Service) -> JobProgress:
    """Look once before the stream begins: what goes wrong now has a status of its own."""
    return service.jobs.get(job)


@router.get("/v1/jobs/{job}/events", response_class=EventSourceResponse)
async def events(first: Annotated[JobProgress, Depends(_known)], service: Service) -> EventSourceResponse:
    """Follow a job: `progress` with the job as JSON whenever it changed, at last `end` when nothing more will come."""
    return EventSourceResponse(_events(service, first), ping=PING_SECONDS)


async def _events(service: HttpService, first: JobProgress) -> AsyncIterator[ServerSentEvent]:
    progress, told = first, ""
    while not service.stopping.is_set():
        text = json.dumps(jsonable_encoder(job_document(progress)))
        if text != told:
            told = text
            yield ServerSentEvent(text, event="progress")
        if progress.is_over:
            yield ServerSentEvent("{}", event="end")
            return
        await _wait(service)
        try:
            progress = await asyncio.to_thread(service.jobs.get, progress.job.id)
        except VisualSearchError as error:
            if not error.retryable:
                return
            # the catalog is away for now: the next look will tell


async def _wait(service: HttpService) -> None:
    """Until the next look, or until the service is to stop: that is told by an event of threads, not of the loop."""
    for _ in range(round(LOOK_SECONDS / STOP_SECONDS)):
        if service.stopping.is_set():
            return
        await asyncio.sleep(STOP_SECONDS)
