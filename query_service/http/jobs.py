"""Jobs over HTTP: submit a source, look, cancel, try again. How they are followed stands in `job_events`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, ConfigDict, Field, model_validator
from typing_extensions import Self

from pipeline.indexing.selection import SourceSelection
from query_service.http.access import requires
from query_service.http.collections import CollectionName
from query_service.http.service import Service
from query_service.http.storable_text import storable
from storage.errors import SourceNotAllowed
from storage.images.web_address import MAX_ADDRESS_CHARACTERS
from workers.submitting.job_document import job_document

MOST_JOBS = 500  # of one list
MOST_URLS = 10_000  # of one request; each is looked at before the reply
MOST_NUMBER = 2**31 - 1  # that the catalog's numbers reach
_MOST_CHARACTERS = 1024

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

JobNumber = Annotated[int, Path(ge=1, le=MOST_NUMBER, description="The job's number.")]
_Url = Annotated[str, Field(pattern="^[Hh][Tt][Tt][Pp][Ss]?://[^\\r\\n]+$", max_length=MAX_ADDRESS_CHARACTERS)]
_Pattern = Annotated[str, Field(min_length=1, max_length=_MOST_CHARACTERS)]


class JobBody(BaseModel):
    """What is to be indexed, as `visual-search submit` takes it."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"source": "s3://my-bucket/photos", "collection": "shop", "mirror": True}]},
    )

    source: str | None = Field(
        None, min_length=1, max_length=4096, description="A folder of the service's machine, or s3://…"
    )
    urls: tuple[_Url, ...] = Field(
        (), max_length=MOST_URLS, description="In place of a source: http(s) addresses of hosts in `url_hosts`."
    )
    collection: str | None = Field(None, max_length=200)
    include: tuple[_Pattern, ...] = Field((), max_length=100, description="Shell patterns over the path in the source.")
    exclude: tuple[_Pattern, ...] = Field((), max_length=100)
    id_prefix: str = Field("", max_length=_MOST_CHARACTERS)
    mirror: bool = Field(default=False, description="Remove images that came from this source and are gone from it.")
    restore_deleted: bool = False
    priority: int = Field(0, ge=0, le=9, description="9 goes first.")

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.source is None) == (not self.urls):
            message = "give either source or urls"
            raise ValueError(message)
        if self.urls and (self.include or self.exclude or self.mirror):
            message = "include, exclude and mirror are for a source"
            raise ValueError(message)
        return self


@router.post("", dependencies=[requires("submit")], status_code=202)
def submit(body: JobBody, service: Service) -> Mapping[str, Any]:
    """Queue a folder, an S3 prefix or pictures on the web for the workers; the reply comes when all of it is listed.

    The same request again makes no second work: it takes up its unfinished job.
    """
    for text in (body.source or "", body.id_prefix, *body.urls, *body.include, *body.exclude):
        storable(text)
    if body.source is None:
        return job_document(
            service.jobs.submit_urls(
                body.urls,
                body.id_prefix,
                collection=body.collection,
                priority=body.priority,
                restore_deleted=body.restore_deleted,
            )
        )
    _require_named_folders(body.source, service)
    progress = service.jobs.submit(
        body.source,
        SourceSelection(body.id_prefix, body.include, body.exclude),
        collection=body.collection,
        priority=body.priority,
        mirror=body.mirror,
        restore_deleted=body.restore_deleted,
    )
    return job_document(progress)


@router.get("", dependencies=[requires("search")])
def jobs(
    service: Service, collection: CollectionName = None, limit: Annotated[int, Query(ge=1, le=MOST_JOBS)] = 20
) -> Sequence[Mapping[str, Any]]:
    """List jobs and runs, newest first; of all collections unless one is named."""
    return [job_document(job) for job in service.jobs.list(collection=collection, limit=limit)]


@router.get("/{job}", dependencies=[requires("search")])
def job(job: JobNumber, service: Service) -> Mapping[str, Any]:
    """Show one job: state, counts, rate in images per second, ETA in seconds."""
    return job_document(service.jobs.get(job))


@router.post("/{job}/cancel", dependencies=[requires("admin")])
def cancel(job: JobNumber, service: Service) -> Mapping[str, Any]:
    """Cancel a job: what no worker has yet is dropped, what one works on still counts."""
    return job_document(service.jobs.cancel(job))


@router.post("/{job}/retry-failed", dependencies=[requires("admin")], status_code=202)
def retry_failed(job: JobNumber, service: Service) -> Sequence[Mapping[str, Any]]:
    """Queue the failed images of this job again, as one job; none when nothing failed."""
    return [job_document(one) for one in service.jobs.retry_failed(job)]


def _require_named_folders(source: str, service: Service) -> None:
    """Who has a key is not who owns this machine: its folders are taken only where `job_sources` names them.

    Raises SourceNotAllowed.
    """
    settings = service.settings
    if settings.api_keys and not settings.job_sources and not source.startswith("s3://"):
        raise SourceNotAllowed(
            "with API keys, jobs over HTTP take folders of this machine only where the setting `job_sources` names them"
        )
