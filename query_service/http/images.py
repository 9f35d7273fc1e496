"""Images over HTTP: list, look up, delete. Their pictures stand in `thumbnails`, new ones in `uploads`.

An id may hold anything, slashes too. As part of the path it must be percent-encoded, and an id that ends like another
address (`x/thumbnail`) cannot be told from that: `/v1/image?id=` takes every id.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Query

from query_service.http.access import requires
from query_service.http.collections import CollectionName, collection_named
from query_service.http.service import HttpService, Service
from query_service.http.storable_text import storable
from query_service.transport.asking import filter_of
from storage.errors import InvalidImageId, UnknownImageId
from storage.records import ImageMetadata, image_id_problem

MOST_IMAGES = 1000  # of one page

router = APIRouter(prefix="/v1", tags=["images"])

ImageId = Annotated[str, Query(alias="id", description="The image's id.")]


@router.get("/images", dependencies=[requires("search")])
def images(  # noqa: PLR0913, PLR0917 - one parameter per field of the address
    service: Service,
    collection: CollectionName = None,
    prefix: Annotated[str, Query(description="Only ids that start so.")] = "",
    filter: Annotated[  # noqa: A002 - the word that everybody looks for
        list[str] | None, Query(description="Short text, `year>=2020`, or JSON; of several all must hold.")
    ] = None,
    after: Annotated[str, Query(description="`next_after` of the page before.")] = "",
    limit: Annotated[int, Query(ge=1, le=MOST_IMAGES)] = 100,
) -> Mapping[str, Any]:
    """List images by id, page by page; `next_after` is null on the last page."""
    record = collection_named(service, collection)
    found = list(
        service.catalog.images.list(
            record.id, prefix=storable(prefix), after=storable(after), limit=limit + 1, filter=filter_of(filter)
        )
    )
    page = found[:limit]
    return {"images": page, "next_after": page[-1].image_id if len(found) > limit else None}


@router.get("/image", dependencies=[requires("search")])
def image_by_query(id: ImageId, service: Service, collection: CollectionName = None) -> ImageMetadata:  # noqa: A002
    """Show everything that is known of one image."""
    return image_of(service, id, collection)


@router.get("/images/{image_id:path}", dependencies=[requires("search")])
def image(image_id: str, service: Service, collection: CollectionName = None) -> ImageMetadata:
    """Show everything that is known of one image."""
    return image_of(service, image_id, collection)


@router.delete("/image", dependencies=[requires("admin")])
def delete_by_query(id: ImageId, service: Service, collection: CollectionName = None) -> Mapping[str, Any]:  # noqa: A002
    """Take an image out of the collection; its file stays, and later jobs leave it out."""
    return _delete(service, id, collection)


@router.delete("/images/{image_id:path}", dependencies=[requires("admin")])
def delete(image_id: str, service: Service, collection: CollectionName = None) -> Mapping[str, Any]:
    """Take an image out of the collection; its file stays, and later jobs leave it out."""
    return _delete(service, image_id, collection)


def image_of(service: HttpService, image_id: str, collection: str | None) -> ImageMetadata:
    """One live image. Raises UnknownCollection, InvalidImageId, UnknownImageId."""
    record = collection_named(service, collection)
    return service.catalog.images.get(record.id, _usable(image_id))


def _delete(service: HttpService, image_id: str, collection: str | None) -> Mapping[str, Any]:
    """The query workers read the change from SQL within a quarter of a second: no message is needed."""
    record = collection_named(service, collection)
    catalog = service.catalog
    failed = bool(catalog.failures.among(record.id, [storable(image_id)]))
    deleted = bool(catalog.images.delete(record.id, [image_id]))
    if not deleted and not failed:
        raise UnknownImageId(f"the collection holds no image {image_id!r}")
    return {"image_id": image_id, "deleted": deleted, "failure_forgotten": failed}


def _usable(image_id: str) -> str:
    problem = image_id_problem(storable(image_id))
    if problem is not None:
        raise InvalidImageId(problem)
    return image_id
