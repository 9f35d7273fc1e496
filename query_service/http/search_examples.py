"""How the description of the API (OpenAPI) shows searches: schemas and examples. Nothing here runs for a request."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from pipeline.results import SearchResult
from query_service.http.error_replies import ErrorReply
from query_service.http.search_body import BatchBody, SearchBody
from query_service.protocol import SearchAnswer


class FoundImage(SearchResult):
    """One image found."""

    thumbnail: str


class SearchDocument(SearchAnswer):
    """The results of one search, best first, and where the answer comes from."""

    results: list[FoundImage]  # type: ignore[assignment]  # each has one field more


class BatchDocument(BaseModel):
    """The answer or the error of each search, in their order."""

    answers: list[SearchDocument | ErrorReply]


def _schema(model: type[BaseModel]) -> dict[str, Any]:
    """The JSON schema with its parts in place: what a router adds to the description may not refer to others."""
    schema = model.model_json_schema()
    return dict(_in_place(schema, schema.pop("$defs", {})))


def _in_place(node: Any, parts: dict[str, Any]) -> Any:
    if isinstance(node, dict):
        if "$ref" in node:
            return _in_place(parts[node["$ref"].rpartition("/")[2]], parts)
        return {name: _in_place(value, parts) for name, value in node.items()}
    return [_in_place(value, parts) for value in node] if isinstance(node, list) else node


_SEARCHES: dict[str, dict[str, Any]] = {
    "more like a stored image": {"query": [{"image_id": "beach/001.jpg"}], "k": 20, "offset": 20},
    "words, and not like an image": {
        "query": [{"text": "a red car"}, {"image_id": "cars/007.jpg", "weight": -0.3}],
        "filter": ["year>=2020", "place=Paris,Rome"],
        "min_score": 0.2,
        "diversity": 0.3,
    },
    "a picture in the JSON": {"query": [{"image_base64": "/9j/4AAQSkZJRg=="}], "explain": True},
}
_ANSWER: dict[str, Any] = {
    "query_id": "5f0c6d6a0b0e4a6f8f7e2a51d1c3b9aa",
    "results": [
        {
            "rank": 1,
            "image_id": "beach/002.jpg",
            "score": 0.93,
            "distance": 0.14,
            "source_uri": "s3://photos/beach/002.jpg",
            "attributes": {"year": 2021, "place": "Rome"},
            "thumbnail": "/v1/thumbnail?id=beach%2F002.jpg&collection=default",
        }
    ],
    "normalized": True,
    "model": {
        "name": "openai/clip-vit-base-patch32",
        "revision": "3d74acf9a28c67741b2f4f2ea7635f0aaf6f0268",
        "weights_fingerprint": "a63082132ba4f97a80bea76823f544493bffa8082296d62d71581a4feff1576f",
        "preprocessing_fingerprint": "b1946ac92492d2347c6235b4d2611184",
        "dimension": 512,
    },
    "provenance": {
        "worker": "host-4711",
        "generation_id": 1,
        "seq": 1200,
        "images": 1200,
        "batch_size": 4,
        "stage_seconds": {"queued": 0.0004, "embed": 0.011, "search": 0.0013, "metadata": 0.0007, "total": 0.0131},
    },
}
_ERROR = {"error": {"reason": "unknown_id", "message": "no image 'none.jpg' is in 'default'", "retryable": False}}
_FAILURES = {
    400: "`invalid_query`, `invalid_filter`, `invalid_vector`, a broken picture: the message names the field.",
    404: "`unknown_collection`, `unknown_id`.",
    413: "The body, or one picture of it, is too large.",
    415: "Not JSON and no form, or a picture of an unknown format.",
    429: "`busy`: too many searches wait, or too many requests came. `Retry-After` says when to try again.",
    503: "The service cannot answer now: try again later.",
    504: "`deadline_exceeded`: no answer came within `timeout`.",
}
_FORM = {
    "type": "object",
    "properties": {
        "image": {"type": "array", "items": {"type": "string", "format": "binary"}},
        "request": {
            "type": "string",
            "description": "The JSON of a search; optional.",
            "contentMediaType": "application/json",
        },
    },
}


def _document(model: type[BaseModel], example: dict[str, Any], content: dict[str, Any]) -> dict[str, Any]:
    responses: dict[int, dict[str, Any]] = {
        status: {"model": ErrorReply, "description": text} for status, text in _FAILURES.items()
    }
    found = {"model": model, "description": "Found.", "content": {"application/json": {"example": example}}}
    body = {"requestBody": {"required": True, "content": content}}
    return {"response_model": None, "responses": {200: found, **responses}, "openapi_extra": body}


_EXAMPLES = {name: {"summary": name, "value": value} for name, value in _SEARCHES.items()}

SEARCH_DOCUMENT = _document(
    SearchDocument,
    _ANSWER,
    {
        "application/json": {"schema": _schema(SearchBody), "examples": _EXAMPLES},
        "multipart/form-data": {"schema": _FORM},
    },
)
BATCH_DOCUMENT = _document(
    BatchDocument,
    {"answers": [_ANSWER, _ERROR]},
    {"application/json": {"schema": _schema(BatchBody), "example": {"searches": list(_SEARCHES.values())[:2]}}},
)
