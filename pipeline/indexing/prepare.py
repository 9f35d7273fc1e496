"""Decodes one fetched file into the model's input. Runs on threads, overlapped with the model."""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter

from pipeline.embedders.base import Pixels
from pipeline.embedding_service import EmbeddingService
from pipeline.errors import DecodeError
from pipeline.indexing.fetch import Fetched
from storage.errors import VisualSearchError
from storage.records import ImageMetadata


@dataclass(frozen=True)
class Prepared:
    """One file ready for the model, or the error that kept it from there."""

    fetched: Fetched
    metadata: ImageMetadata | None
    pixels: Pixels | None
    error: VisualSearchError | None
    seconds: float


def prepare(service: EmbeddingService, fetched: Fetched) -> Prepared:
    """Decode and preprocess one file; a refusal is returned with it, so that it fails alone."""
    started = perf_counter()
    try:
        image = service.prepare(fetched.data)
    except DecodeError as refusal:
        return Prepared(fetched, None, None, refusal, perf_counter() - started)
    metadata = fetched.metadata(image.width, image.height, image.format)
    return Prepared(fetched, metadata, image.pixels, None, perf_counter() - started)
