"""POST /v1/search and /v1/search/batch: what looks like this? Waits for the query workers, and computes nothing.

Large bodies are read and unpacked in a thread, so that the other searches of this process go on meanwhile. Answers are
written as JSON without being validated a second time.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Annotated, Any, TypeVar
from urllib.parse import quote

from fastapi import APIRouter, Depends, Request, Response
from pydantic_core import PydanticSerializationError, to_json
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from pipeline.errors import InvalidQuery
from query_service.http.access import requires
from query_service.http.client_leaving import unless_left
from query_service.http.error_replies import error_document
from query_service.http.search_body import BatchBody, SearchBody, search_of
from query_service.http.search_examples import BATCH_DOCUMENT, SEARCH_DOCUMENT
from query_service.http.service import HttpService, service_of
from query_service.protocol import MAX_PARTS, SearchAnswer, SearchRequest
from storage.errors import ImageTooLarge, VisualSearchError

router = APIRouter(dependencies=[requires("search")], tags=["searching"])

_QUICK_BYTES = 64 * 1024  # a body up to this is read in less time than a thread takes to begin
_MOST_FIELD_BYTES = 8 * 1024 * 1024  # of the JSON in a form: 16 vectors of 8192 numbers fit

Made = TypeVar("Made")
_Service = Annotated[HttpService, Depends(service_of)]


@router.post("/v1/search", **SEARCH_DOCUMENT)
async def search(request: Request, service: _Service) -> Response:
    """Search with pictures, stored images, words and vectors in any mix.

    Send JSON, or `multipart/form-data` with files `image` and the same JSON in the field `request`. A client that
    hangs up cancels its search.
    """
    wanted = await _wanted(request, service)
    answer = await unless_left(request, service.searches.send(wanted))
    return _json(document_of(answer, wanted.collection))


@router.post("/v1/search/batch", **BATCH_DOCUMENT)
async def search_batch(request: Request, service: _Service) -> Response:
    """Up to 64 searches that are sent together. For each, in order, its answer or its own error."""
    if _kind(request) != "application/json":
        raise HTTPException(415, "send the searches as application/json")
    data = await request.body()

    def read() -> list[SearchRequest | VisualSearchError]:
        return [_request_or_error(one, service) for one in BatchBody.read(data).searches]

    wanted = await _sized(len(data), read)
    sent = [one for one in wanted if isinstance(one, SearchRequest)]
    outcomes = iter(await unless_left(request, service.searches.send_many(sent)))
    answers = [
        _outcome(next(outcomes), one.collection) if isinstance(one, SearchRequest) else error_document(one)
        for one in wanted
    ]
    return _json({"answers": answers})


def document_of(answer: SearchAnswer, collection: str) -> dict[str, Any]:
    """The answer as JSON's maps and lists; each result names the address of its thumbnail."""
    document = answer.model_dump(exclude=None if answer.explanation is not None else {"explanation"})
    where = f"&collection={_quoted(collection)}"
    for result in document["results"]:
        result["thumbnail"] = f"/v1/thumbnail?id={_quoted(result['image_id'])}{where}"
    return document


async def _wanted(request: Request, service: HttpService) -> SearchRequest:
    kind = _kind(request)
    if kind == "application/json":
        data = await request.body()
        return await _sized(len(data), lambda: search_of(SearchBody.read(data), service.settings))
    if kind != "multipart/form-data":
        raise HTTPException(415, "send a search as application/json or multipart/form-data")
    data, pictures = await _form(request, service.settings.max_image_bytes)
    size = len(data) + sum(map(len, pictures))
    return await _sized(size, lambda: search_of(SearchBody.read(data), service.settings, pictures))


async def _form(request: Request, most_bytes: int) -> tuple[bytes, list[bytes]]:
    """The JSON and the pictures of a form. Raises InvalidQuery, ImageTooLarge; HTTPException for a broken one."""
    data = b"{}"
    pictures: list[bytes] = []
    async with request.form(max_files=MAX_PARTS, max_fields=MAX_PARTS, max_part_size=_MOST_FIELD_BYTES) as form:
        for name, value in form.multi_items():
            if name == "image" and isinstance(value, UploadFile):
                if (value.size or 0) > most_bytes:
                    size = f"{value.size or 0:,} bytes, at most {most_bytes:,} are read (max_image_bytes)"
                    raise ImageTooLarge(f"image {len(pictures)}: the picture has {size}")
                pictures.append(await value.read())
            elif name == "request":
                data = await value.read() if isinstance(value, UploadFile) else value.encode("utf-8", "surrogatepass")
            else:
                raise InvalidQuery(f"{name[:100]}: a form has the files `image` and the field `request` (JSON) only")
    return data, pictures


async def _sized(size: int, make: Callable[[], Made]) -> Made:
    """Make it here, or in a thread when there is much of it."""
    return make() if size <= _QUICK_BYTES else await asyncio.to_thread(make)


def _request_or_error(fields: Any, service: HttpService) -> SearchRequest | VisualSearchError:
    try:
        return search_of(SearchBody.checked(fields), service.settings)
    except VisualSearchError as error:
        return error


def _outcome(outcome: SearchAnswer | VisualSearchError, collection: str) -> dict[str, Any]:
    return error_document(outcome) if isinstance(outcome, VisualSearchError) else document_of(outcome, collection)


def _kind(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _quoted(text: str) -> str:
    return quote(text, safe="", errors="surrogatepass")


def _json(document: dict[str, Any]) -> Response:
    try:
        data = to_json(document)
    except PydanticSerializationError:  # an id from a file name that is no UTF-8: JSON's escapes can say it
        data = json.dumps(document).encode()
    return Response(data, media_type="application/json")
