"""Runs the model on one batch of prepared pictures. Runs on threads; touches no SQL and settles nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import TypeAlias

from pipeline.embedders.base import Vectors
from pipeline.embedding_service import EmbeddingService
from pipeline.errors import ModelError
from pipeline.indexing.prepare import Prepared

VectorOrError: TypeAlias = Vectors | ModelError


@dataclass(frozen=True)
class Embedded:
    """Each picture of a batch with its vector, or the model's refusal; `seconds` is the time of this thread."""

    results: Sequence[tuple[Prepared, VectorOrError]]
    seconds: float


def embed(service: EmbeddingService, batch: Sequence[Prepared]) -> Embedded:
    """Embed one batch; when the model refuses it, one by one, so that the guilty image fails alone."""
    started = perf_counter()
    results = _vectors(service, batch)
    return Embedded(list(zip(batch, results, strict=True)), perf_counter() - started)


def _vectors(service: EmbeddingService, batch: Sequence[Prepared]) -> list[VectorOrError]:
    try:
        return list(service.embed_batch([one.pixels for one in batch if one.pixels is not None]))
    except ModelError as error:
        if len(batch) == 1:
            return [error]
        return [vector for one in batch for vector in _vectors(service, [one])]
