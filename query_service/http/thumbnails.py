"""Thumbnails and originals over HTTP. Only images that the catalog knows can be asked for: no client names a file."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from typing import Annotated, TypeVar
from urllib.parse import quote

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from pipeline.errors import UnsupportedFormat
from pipeline.picture_formats import recognise_format
from query_service.http.access import requires
from query_service.http.collections import CollectionName
from query_service.http.images import ImageId, image_of
from query_service.http.service import HttpService, Service
from storage.errors import ImageNotFound
from storage.records import ImageMetadata

SMALLEST, LARGEST = 16, 1024  # pixels
_KEEP = "private, max-age=600"  # then the browser asks whether it is still the same

router = APIRouter(
    prefix="/v1",
    tags=["images"],
    dependencies=[requires("search")],
    responses={200: {"content": {"image/*": {}}, "description": "The picture."}, 304: {"description": "Not changed."}},
)

Size = Annotated[int, Query(ge=SMALLEST, le=LARGEST, description="Pixels of the longer side, at most.")]
Result = TypeVar("Result")


@router.get("/thumbnail", response_class=Response)
async def thumbnail_by_query(
    id: ImageId,  # noqa: A002 - the name in the address
    request: Request,
    service: Service,
    collection: CollectionName = None,
    size: Size = 256,
) -> Response:
    """Show a small JPEG of one image, upright."""
    return await _on_thread(service, lambda: _thumbnail(request, service, (id, collection), size))


@router.get("/original", response_class=Response)
async def original_by_query(
    id: ImageId,  # noqa: A002 - the name in the address
    request: Request,
    service: Service,
    collection: CollectionName = None,
) -> Response:
    """Give the file of one image as it is."""
    return await _on_thread(service, lambda: _original(request, service, (id, collection)))


@router.get("/images/{image_id:path}/thumbnail", response_class=Response)
async def thumbnail(
    image_id: str, request: Request, service: Service, collection: CollectionName = None, size: Size = 256
) -> Response:
    """Show a small JPEG of one image, upright."""
    return await _on_thread(service, lambda: _thumbnail(request, service, (image_id, collection), size))


@router.get("/images/{image_id:path}/original", response_class=Response)
async def original(image_id: str, request: Request, service: Service, collection: CollectionName = None) -> Response:
    """Give the file of one image as it is."""
    return await _on_thread(service, lambda: _original(request, service, (image_id, collection)))


async def _on_thread(service: HttpService, work: Callable[[], Result]) -> Result:
    """On one of the few threads for pictures, so that a page full of them leaves the others to other requests."""
    return await asyncio.get_running_loop().run_in_executor(service.pictures.threads, work)


def _thumbnail(request: Request, service: HttpService, named: tuple[str, str | None], size: int) -> Response:
    image = _pictured(service, named)
    tag = f'"{image.sha256}-{size}"'
    if _has(request, tag):
        return Response(status_code=304, headers={"ETag": tag, "Cache-Control": _KEEP})
    made = service.pictures.thumbnail(image.source_uri, image.sha256, size)
    headers = {"ETag": f'"{made.sha256}-{size}"', "Cache-Control": _KEEP}
    return Response(made.data, media_type="image/jpeg", headers=headers)


def _original(request: Request, service: HttpService, named: tuple[str, str | None]) -> Response:
    image = _pictured(service, named)
    tag = f'"{image.sha256}"'
    if _has(request, tag):
        return Response(status_code=304, headers={"ETag": tag, "Cache-Control": _KEEP})
    data = service.pictures.read(image.source_uri)
    kind = _media_type(data)
    name = quote(image.image_id.rpartition("/")[2] or "image", safe="")
    how = "inline" if kind.startswith("image/") else "attachment"
    headers = {
        "Content-Disposition": f"{how}; filename*=UTF-8''{name}",
        "Cache-Control": _KEEP,
        "ETag": f'"{hashlib.sha256(data).hexdigest()}"',
    }
    return Response(data, media_type=kind, headers=headers)


def _pictured(service: HttpService, named: tuple[str, str | None]) -> ImageMetadata:
    """The image. Raises ImageNotFound for one that came from a program, not from a file."""
    image = image_of(service, *named)
    if not image.source_uri:
        raise ImageNotFound(f"no file is known of the image {image.image_id!r}")
    return image


def _has(request: Request, tag: str) -> bool:
    given = [one.strip().removeprefix("W/") for one in request.headers.get("if-none-match", "").split(",")]
    return tag in given or "*" in given


def _media_type(data: bytes) -> str:
    """Of what the bytes are, never of what a name says: a page that poses as a picture is only ever downloaded."""
    try:
        name = recognise_format(data)
    except UnsupportedFormat:
        return "application/octet-stream"
    return "image/jpeg" if name == "MPO" else f"image/{name.lower()}"
