"""The body of a search over HTTP: its fields, and how it becomes the request that is sent. Knows no route.

Here stand the names and types of fields; what makes sense is judged where every other way of asking is judged too,
by `asking` and the models of `protocol`.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import Any, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.exceptions import HTTPException
from typing_extensions import Self

from pipeline.errors import InvalidQuery
from query_service.protocol import (
    MAX_DIMENSION,
    MAX_EXCLUDED,
    MAX_K,
    MAX_OFFSET,
    MAX_PARTS,
    MAX_TEXT_CHARACTERS,
    MAX_TIMEOUT_SECONDS,
    MAX_WEIGHT,
    Priority,
    QueryPart,
    SearchRequest,
)
from query_service.transport.asking import Question, picture_part, request_of
from storage.errors import ImageTooLarge, VisualSearchError
from storage.settings import Settings

MAX_SEARCHES = 64  # of one batch: as many as clients send together
_MOST_PROBLEMS = 5  # that one message lists


class _Body(BaseModel):
    """Strict: a number is no text. No unknown fields, no NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    @classmethod
    def read(cls, data: bytes) -> Self:
        """Read JSON. Raises HTTPException (400) when it is none, InvalidQuery naming each field that is wrong."""
        try:
            return cls.model_validate_json(data)
        except ValidationError as error:
            broken = next(
                (one["msg"] for one in error.errors(include_input=False) if one["type"] == "json_invalid"), ""
            )
            if broken:
                raise HTTPException(400, f"the body cannot be read: {broken}") from error
            raise InvalidQuery(_problems(error)) from error

    @classmethod
    def checked(cls, fields: Any) -> Self:
        """The same from JSON that was read before. Raises InvalidQuery."""
        try:
            return cls.model_validate(fields)
        except (ValidationError, RecursionError) as error:
            message = _problems(error) if isinstance(error, ValidationError) else "it is nested too deeply"
            raise InvalidQuery(message) from error


class PartBody(_Body):
    """One thing to look for: exactly one of picture, stored image, words or vector. A negative weight: not this."""

    image_base64: str | None = Field(None, description="A picture file as base64 (RFC 4648, padded, no line breaks).")
    image_id: str | None = Field(None, description="The id of a stored image.")
    text: str | None = Field(None, description=f"Words, at most {MAX_TEXT_CHARACTERS} characters.")
    vector: list[float] | None = Field(
        None, max_length=MAX_DIMENSION, description="As many numbers as the collection's model has; any length but 0."
    )
    weight: float = Field(1.0, ge=-MAX_WEIGHT, le=MAX_WEIGHT)


class SearchBody(_Body):
    """One search. Only `query` is needed; with uploaded pictures not even that."""

    collection: str | None = None
    query: list[PartBody] = Field(default=[], max_length=MAX_PARTS)
    k: int | None = Field(None, ge=1, le=MAX_K, description="Results on the page; default 10.")
    offset: int | None = Field(None, ge=0, le=MAX_OFFSET, description="Results to skip before the page.")
    filter: dict[str, Any] | str | list[str | dict[str, Any]] | None = Field(
        None, description='A filter as JSON, or as short text: "year>=2020". Of a list all must hold.'
    )
    min_score: float | None = None
    diversity: float | None = Field(None, ge=0, le=1, description="0 = pure relevance to 1 = pure variety.")
    near_duplicates: float | None = Field(
        None, gt=0, le=1, description="Of results whose cosine is above this only the best is shown."
    )
    group_by: str | None = Field(
        None, min_length=1, description="Attribute of which each value appears `group_size` times."
    )
    group_size: int | None = Field(None, ge=1)
    normalize: bool | None = Field(None, description="Scores as similarities (default), else negative distances.")
    exclude: list[str] = Field(default=[], max_length=MAX_EXCLUDED, description="Image ids that are no results.")
    exclude_query: bool = Field(default=True, description="Stored images that are asked with are no results.")
    explain: bool = False
    timeout: float | None = Field(None, gt=0, le=MAX_TIMEOUT_SECONDS, description="Seconds to wait for the answer.")
    priority: Priority = "normal"
    image_weights: list[float] | None = Field(None, description="Of uploaded pictures, in their order; default 1.")


class BatchBody(_Body):
    """Searches that are sent together. Each is checked by itself: one that is wrong harms no other."""

    searches: list[Any] = Field(min_length=1, max_length=MAX_SEARCHES)


def search_of(body: SearchBody, settings: Settings, pictures: Sequence[bytes] = ()) -> SearchRequest:
    """The request of one body and its uploaded pictures. Decodes base64: large ones take milliseconds.

    Raises InvalidQuery, InvalidFilter and ImageTooLarge, naming the field.
    """
    most = settings.max_image_bytes
    parts = [_named(f"query.{n}", lambda part=part: _part(part, most)) for n, part in enumerate(body.query)]
    parts += _uploaded(pictures, body.image_weights, most)
    if not parts:
        raise InvalidQuery("query: ask with at least one image_base64, image_id, text or vector, or upload a picture")
    if len(parts) > MAX_PARTS:
        raise InvalidQuery(f"query: one search has at most {MAX_PARTS} parts, uploaded pictures included")
    if not any(part.weight > 0 for part in parts):
        raise InvalidQuery("query: at least one part needs a positive weight: 'not this' alone describes nothing")
    return request_of(_question(body, parts), settings)


def _question(body: SearchBody, parts: Sequence[QueryPart]) -> Question:
    same = (
        "collection", "k", "offset", "filter", "min_score", "diversity", "group_by", "group_size",
        "normalize", "exclude", "exclude_query", "explain", "timeout", "priority",
    )  # fmt: skip
    question: Any = {name: getattr(body, name) for name in same}
    question |= {"parts": parts, "near_duplicate_threshold": body.near_duplicates}
    return cast("Question", question)


def _part(part: PartBody, most_bytes: int) -> QueryPart:
    if part.image_base64 is None:
        return QueryPart(image_id=part.image_id, text=part.text, vector=_row(part.vector), weight=part.weight)
    if part.image_id is not None or part.text is not None or part.vector is not None:
        raise InvalidQuery("each part is exactly one of: image_base64, image_id, text, vector")
    return picture_part(_decoded(part.image_base64, most_bytes), most_bytes, part.weight)


def _row(vector: Sequence[float] | None) -> tuple[float, ...] | None:
    return None if vector is None else tuple(vector)


def _decoded(text: str, most_bytes: int) -> bytes:
    if len(text) // 4 * 3 - 2 > most_bytes:  # not worth decoding
        raise ImageTooLarge(f"the picture has more than {most_bytes:,} bytes (max_image_bytes)")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidQuery(f"image_base64: this is no base64: {error}") from error


def _uploaded(pictures: Sequence[bytes], weights: Sequence[float] | None, most_bytes: int) -> list[QueryPart]:
    if weights is not None and len(weights) != len(pictures):
        raise InvalidQuery(f"image_weights: {len(weights)} weights for {len(pictures)} uploaded pictures")
    each = zip(pictures, weights or [1.0] * len(pictures), strict=True)
    return [
        _named(f"image {n}", lambda data=data, weight=weight: picture_part(data, most_bytes, weight))
        for n, (data, weight) in enumerate(each)
    ]


def _named(field: str, make: Any) -> QueryPart:
    """What `make` makes; its errors say in which field."""
    try:
        part: QueryPart = make()
    except VisualSearchError as error:
        raise type(error)(f"{field}: {error}") from error
    return part


def _problems(error: ValidationError) -> str:
    """Every field that is wrong and why; the input is not repeated, it may be a picture of 50 MB."""
    found = error.errors(include_input=False, include_url=False)
    named = [f"{'.'.join(map(str, one['loc'])) or 'the body'}: {one['msg']}" for one in found[:_MOST_PROBLEMS]]
    return "; ".join(named)
