"""What callers ask, as keywords, to the request that is sent: shared by both clients and the command line. Pure.

Everything that can be found wrong without a server is found here, before anything is sent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias, TypedDict

from pydantic import BaseModel, TypeAdapter, ValidationError

from pipeline.errors import InvalidQuery
from pipeline.rerank.options import RerankOptions
from query_service.protocol import Priority, QueryPart, SearchRequest
from storage.errors import ImageNotFound, ImageTooLarge, InvalidFilter
from storage.filters import And, Filter, parse_filter
from storage.settings import Settings

AnyFilter: TypeAlias = Filter | Mapping[str, Any] | str
_FILTER: TypeAdapter[Filter] = TypeAdapter(Filter)


_STEPS = ("offset", "min_score", "diversity", "near_duplicate_threshold", "group_by", "group_size", "normalize")


class Question(TypedDict, total=False):
    """The keywords of `search`. What is given of `image`, `image_id`, `text`, `vector` and `parts` is mixed.

    `image` is an encoded picture (bytes) or the path of one. `filter` may be text as the command line takes it,
    or a map (a filter's JSON); of several all must hold. `k` (results on the page) to
    `normalize` stand above `options`, which holds them all. None counts as not given. `timeout` is in seconds.
    """

    image: bytes | Path | str | None
    image_id: str | None
    text: str | None
    vector: Sequence[float] | None
    parts: Sequence[QueryPart | Mapping[str, Any]]
    k: int | None
    offset: int | None
    filter: AnyFilter | Sequence[AnyFilter] | None
    min_score: float | None
    diversity: float | None
    near_duplicate_threshold: float | None
    group_by: str | None
    group_size: int | None
    normalize: bool | None
    options: RerankOptions | None
    exclude: Sequence[str]
    exclude_query: bool
    explain: bool
    timeout: float | None
    priority: Priority
    collection: str | None


def request_of(question: Question, settings: Settings, collection: str | None = None) -> SearchRequest:
    """The request for one question; collection and time come from the caller, else from the settings.

    Raises InvalidQuery, InvalidFilter, ImageNotFound and ImageTooLarge; TypeError for unknown keywords.
    """
    unknown = sorted(set(question) - set(Question.__annotations__))
    if unknown:
        raise TypeError(f"search takes no {', '.join(unknown)}; it takes {', '.join(Question.__annotations__)}")
    timeout = question.get("timeout")
    return SearchRequest(
        collection=question.get("collection") or collection or settings.collection,
        parts=_parts_of(question, settings.max_image_bytes),
        options=_options_of(question),
        exclude=_several(question.get("exclude", ()), "exclude"),
        exclude_query=question.get("exclude_query", True),
        explain=question.get("explain", False),
        timeout_seconds=settings.search_seconds if timeout is None else timeout,
        priority=question.get("priority", "normal"),
    )


def picture_part(image: bytes | bytearray | memoryview | Path | str, most_bytes: int, weight: float = 1.0) -> QueryPart:
    """A part that asks with this picture, read when it is a path. Raises ImageNotFound, ImageTooLarge, InvalidQuery."""
    if isinstance(image, str | Path):
        data = _file(Path(image).expanduser(), most_bytes)
    elif isinstance(image, bytes | bytearray | memoryview):
        data = bytes(image)
    else:
        raise InvalidQuery(f"an image is a path or the bytes of a picture file, not {type(image).__name__}")
    if not data:
        raise InvalidQuery("the picture is empty: it has no bytes")
    if len(data) > most_bytes:
        raise ImageTooLarge(f"the picture has {len(data):,} bytes, at most {most_bytes:,} are sent (max_image_bytes)")
    return QueryPart(image=data, weight=weight)


def filter_of(wanted: AnyFilter | Sequence[AnyFilter] | None) -> Filter | None:
    """One filter, of an object, a map (its JSON) or text; of several all must hold. Raises InvalidFilter."""
    if wanted is None:
        return None
    if isinstance(wanted, BaseModel | Mapping | str):
        return _one_filter(wanted)
    filters = [_one_filter(one) for one in wanted]
    if not filters:
        return None
    return filters[0] if len(filters) == 1 else And(filters=tuple(filters))


def _one_filter(wanted: object) -> Filter:
    if isinstance(wanted, str):
        return parse_filter(wanted)
    try:
        return _FILTER.validate_python(wanted)
    except (ValidationError, RecursionError) as error:
        problem = error.errors()[0]["msg"] if isinstance(error, ValidationError) else "it is nested too deeply"
        raise InvalidFilter(f"this is no filter: {problem}") from error


def _parts_of(question: Question, most_bytes: int) -> tuple[QueryPart, ...]:
    parts = [_part(part, most_bytes) for part in question.get("parts", ())]
    image, image_id = question.get("image"), question.get("image_id")
    text, vector = question.get("text"), question.get("vector")
    if image is not None:
        parts.append(picture_part(image, most_bytes))
    if image_id is not None:
        parts.append(QueryPart(image_id=image_id))
    if text is not None:
        parts.append(QueryPart(text=text))
    if vector is not None:
        parts.append(QueryPart(vector=_numbers(vector)))
    if not parts:
        raise InvalidQuery("ask with at least one of: image, image_id, text, vector, parts")
    return tuple(parts)


def _part(given: QueryPart | Mapping[str, Any], most_bytes: int) -> QueryPart:
    if not isinstance(given, QueryPart | Mapping):
        raise InvalidQuery(f"parts are QueryParts or maps with their fields, not {type(given).__name__}")
    if isinstance(given, Mapping) and isinstance(given.get("image"), str):
        raise InvalidQuery("the image of a part is the bytes of a picture file")  # no path: maps come from elsewhere
    part = QueryPart.model_validate(given)
    if part.image is not None and len(part.image) > most_bytes:
        picture_part(part.image, most_bytes)  # says what is wrong with it
    return part


def _numbers(vector: Sequence[float]) -> tuple[float, ...]:
    try:
        return tuple(map(float, vector))
    except (TypeError, ValueError) as error:
        raise InvalidQuery(f"a vector is one row of numbers: {error}") from error


def _options_of(question: Question) -> RerankOptions:
    given: dict[str, Any] = {name: question.get(name) for name in _STEPS}
    given |= {"top_k": question.get("k"), "filter": filter_of(question.get("filter"))}
    changes = {name: value for name, value in given.items() if value is not None}
    options = question.get("options")
    return RerankOptions(**changes) if options is None else options.replace(**changes)


def _several(ids: Sequence[str], name: str) -> tuple[str, ...]:
    if isinstance(ids, str):
        raise InvalidQuery(f"{name} is a list of image ids; a single text would be read letter by letter")
    return tuple(ids)


def _file(path: Path, most_bytes: int) -> bytes:
    """Read the picture, and not a byte more than is allowed: it may be anything, even /dev/zero."""
    try:
        with path.open("rb") as file:
            return file.read(most_bytes + 1)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise ImageNotFound(f"no picture at {path}") from error
    except OSError as error:
        raise ImageNotFound(f"the picture at {path} cannot be read: {error.strerror or error}") from error
