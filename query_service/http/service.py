"""What the HTTP API works with: built once per process, handed to every request, closed at shutdown.

Knows no route and no HTTP, but for finding itself in a request.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from threading import Event
from typing import Annotated, Any

from fastapi import Depends, Request

from pipeline.decoding_children import children_of
from query_service.async_client import AsyncSearchClient
from query_service.http.pictures import Pictures
from storage.catalog import Catalog
from storage.images.allowed_sources import readable_sources
from storage.settings import Settings
from workers.job_client import JobClient


@dataclass(frozen=True)
class HttpService:
    """The parts of one process. `jobs` and `catalog` block: use them in plain `def` endpoints; `searches` awaits.

    Whoever streams ends soon after `stopping` is set. `progress` is told of every request that was answered.
    """

    settings: Settings
    jobs: JobClient
    searches: AsyncSearchClient
    ping_redis: Callable[[], Any]  # raises when it does not answer
    stopping: Event = field(default_factory=Event)
    progress: Callable[[int], None] = lambda _: None

    @property
    def catalog(self) -> Catalog:
        """The one catalog of this process, which `jobs` opened."""
        return self.jobs.catalog

    @cached_property
    def pictures(self) -> Pictures:
        """Reads and shrinks the pictures of images, on threads of its own."""
        settings = self.settings
        allowed, children = readable_sources(settings), children_of(settings)
        return Pictures(settings.max_image_bytes, settings.max_image_pixels, allowed, children)


def service_of(request: Request) -> HttpService:
    """The service that answers this request."""
    state: Any = request.app.state
    service: HttpService = state.service
    return service


Service = Annotated[HttpService, Depends(service_of)]  # `def endpoint(service: Service)`
