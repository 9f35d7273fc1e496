"""Puts the HTTP API together: routers, middlewares, errors. Opens nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.middleware import Middleware

from query_service.http import (
    collections,
    failures,
    generations,
    images,
    job_events,
    jobs,
    searches,
    thumbnails,
    uploads,
)
from query_service.http.access import Admission
from query_service.http.api_docs import docs_router
from query_service.http.body_limit import BodyLimit
from query_service.http.error_replies import ErrorReply, UnexpectedErrors, add_error_replies
from query_service.http.headers import SecurityHeaders
from query_service.http.health import health_router
from query_service.http.http_metrics import Measure
from query_service.http.origin import OriginCheck
from query_service.http.page import page_router
from query_service.http.rate_limit import RateLimit
from query_service.http.service import HttpService

_ROUTERS = (
    searches.router,
    jobs.router,
    job_events.router,
    collections.router,
    generations.router,
    failures.router,
    uploads.router,
    thumbnails.router,
    images.router,  # behind the thumbnails: an id may hold slashes, and takes all that is left of a path
)


def create_app(service: HttpService) -> FastAPI:
    """The application that answers with this service, and closes its connections for searches at the end."""
    app = FastAPI(
        title="Visual Search",
        docs_url=None,  # the framework's own pages load scripts from a CDN
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
        lifespan=_lifespan,
        middleware=_middlewares(service),
        responses={"default": {"model": ErrorReply, "description": "Any error: see `reason`."}},
    )
    app.state.service = service
    add_error_replies(app)
    for router in _ROUTERS:
        app.include_router(router)
    app.include_router(health_router(service))
    app.include_router(page_router())
    app.include_router(docs_router(app))
    return app


def _middlewares(service: HttpService) -> list[Middleware]:
    """From the outside in: what refuses stands before what reads."""
    settings = service.settings
    return [
        Middleware(SecurityHeaders),
        Middleware(Measure, progress=service.progress),
        Middleware(BodyLimit, most_bytes=settings.max_upload_bytes),
        Middleware(OriginCheck, loopback_only=not settings.api_keys),
        Middleware(Admission, keys=settings.api_keys, limit=RateLimit(settings.requests_per_minute)),
        Middleware(UnexpectedErrors),
    ]


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    yield
    await app.state.service.searches.close()
