"""Ground truth files: reads and checks them, knows no index and no model."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.errors import EvaluationError

_NAMED = 5  # ids spelled out in a message; the count says how many more there are

ImageId = Annotated[str, Field(strict=True, min_length=1)]


class EvaluationQuery(BaseModel):
    """A stored image asked for, and the ids of all images that should be found; it is not one of them."""

    model_config = ConfigDict(frozen=True)

    query_id: ImageId
    ground_truth: Annotated[list[ImageId], Field(min_length=1)]


class _GroundTruthFile(BaseModel):
    """The structure alone, `{"queries": [{"query_id": ..., "ground_truth": [...]}]}`; other keys are free."""

    queries: Annotated[list[EvaluationQuery], Field(min_length=1)]


class EvaluationDataset(BaseModel):
    """Checked ground truth, with the file it came from and the sha256 of that file's bytes."""

    model_config = ConfigDict(frozen=True)

    path: str
    sha256: str
    queries: list[EvaluationQuery]

    @property
    def image_ids(self) -> list[str]:
        """All ids named, queries and ground truth, each once, in the order of the file."""
        return list(dict.fromkeys(i for query in self.queries for i in (query.query_id, *query.ground_truth)))


def load_ground_truth(path: str | Path) -> EvaluationDataset:
    """Read and check a ground truth file. Raises EvaluationError with the file and what is wrong with it."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise EvaluationError(f"cannot read the ground truth {path}: {error.strerror or error}") from error
    return parse_ground_truth(data, str(path))


def parse_ground_truth(data: bytes, path: str = "") -> EvaluationDataset:
    """Check ground truth as bytes of JSON: structure, empty lists, repeated ids, a query in its own truth."""
    where = path or "the ground truth"
    queries = _read_queries(data, where)
    _refuse(f"{where}: query ids occur more than once", _repeated(query.query_id for query in queries))
    for query in queries:
        named = f"{where}: in the ground truth of query {query.query_id!r}"
        _refuse(f"{named} ids occur more than once", _repeated(query.ground_truth))
        if query.query_id in query.ground_truth:
            raise EvaluationError(f"{named} stands the query itself; it is left out of its own results")
    return EvaluationDataset(path=path, sha256=hashlib.sha256(data).hexdigest(), queries=queries)


def name_ids(ids: Sequence[str]) -> str:
    """Spell out the first five ids and count the rest, for a message."""
    named = ", ".join(repr(image_id) for image_id in ids[:_NAMED])
    return named if len(ids) <= _NAMED else f"{named} and {len(ids) - _NAMED} more"


def _read_queries(data: bytes, where: str) -> list[EvaluationQuery]:
    try:
        content = json.loads(data)
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise EvaluationError(f"{where} is no JSON: {error}") from error
    try:
        return _GroundTruthFile.model_validate(content).queries
    except ValidationError as error:
        raise EvaluationError(_structure_message(where, error)) from error


def _structure_message(where: str, error: ValidationError) -> str:
    details: list[Any] = list(error.errors())
    first = details[0]
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]).lstrip(".")
    more = f" (and {len(details) - 1} more)" if len(details) > 1 else ""
    wanted = '{"queries": [{"query_id": "q1", "ground_truth": ["img1", "img2"]}]}'
    return f"{where}: {place or 'the whole'}: {first['msg']}{more}; wanted is {wanted}"


def _repeated(ids: Iterable[str]) -> list[str]:
    return [image_id for image_id, times in Counter(ids).items() if times > 1]


def _refuse(message: str, ids: Sequence[str]) -> None:
    if ids:
        raise EvaluationError(f"{message}: {name_ids(ids)}")
