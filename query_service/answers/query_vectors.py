"""The parts of queries to vectors: one model call for all pictures of a batch, one for all texts.

Equal pictures, texts and stored ids are worked on once. Loads a model only when a picture or text is asked with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from typing import TypeAlias, TypeVar

from pipeline.embedders.base import Pixels
from pipeline.embedding_service import EmbeddingService
from query_service.answers.asked import Asked, together_or_alone
from query_service.answers.mixing import mix, unit_vector
from query_service.protocol import QueryPart
from storage.errors import UnknownImageId
from storage.vector_checks import Vectors

Outcome: TypeAlias = "Vectors | Exception"
Item = TypeVar("Item", bytes, str)

_PICTURES_AT_ONCE = 64  # decoded, 38 MB at 224 x 224; a batch may ask with 1,000: 64 searches of 16 parts


class QueryVectors:
    """Gives each request of a batch its vector, or the error that keeps it from one.

    The requests are all of one model, whose service `model` loads at first use; `threads` decode pictures.
    """

    def __init__(self, model: Callable[[], EmbeddingService], threads: Executor) -> None:
        self._model = model
        self._threads = threads

    def embed(self, batch: Sequence[Asked]) -> None:
        """Set `vector`, (dimension,) float32 of unit length, or fail the request. Never raises."""
        parts = [part for asked in batch for part in asked.request.parts]
        pictures = _once(parts, lambda part: part.image, self._embed_pictures)
        texts = _once(parts, lambda part: part.text, self._embed_texts)
        for asked in batch:
            try:
                found = [self._vector(asked, part, pictures, texts) for part in asked.request.parts]
                asked.vector = mix(found, [part.weight for part in asked.request.parts])
            except Exception as error:  # noqa: BLE001 - fails this request alone
                asked.fail(error)

    def _vector(
        self, asked: Asked, part: QueryPart, pictures: Mapping[bytes, Outcome], texts: Mapping[str, Outcome]
    ) -> Vectors:
        if part.image is not None:
            return _made(pictures[part.image])
        if part.text is not None:
            return _made(texts[part.text])
        index = asked.served.replica.index
        if part.vector is not None:
            return unit_vector(part.vector, index.dimension)
        image_id = part.image_id or ""
        if image_id not in index:
            raise UnknownImageId(f"the collection '{asked.served.collection.name}' holds no image {image_id!r}")
        return index.reconstruct(image_id)

    def _embed_pictures(self, pictures: Sequence[bytes]) -> list[Outcome]:
        service = self._model()
        starts = range(0, len(pictures), _PICTURES_AT_ONCE)
        return [
            outcome
            for start in starts
            for outcome in self._embed_some(service, pictures[start : start + _PICTURES_AT_ONCE])
        ]

    def _embed_some(self, service: EmbeddingService, pictures: Sequence[bytes]) -> list[Outcome]:
        """Decode each alone, on threads; what is good goes to the model together."""
        prepared = self._prepare(service, pictures)
        good = [pixels for pixels in prepared if not isinstance(pixels, Exception)]
        vectors = iter(together_or_alone(good, lambda batch: _in_batches(service, batch)))
        return [pixels if isinstance(pixels, Exception) else next(vectors) for pixels in prepared]

    def _prepare(self, service: EmbeddingService, pictures: Sequence[bytes]) -> list[Pixels | Exception]:
        def prepare(picture: bytes) -> Pixels | Exception:
            try:
                return service.prepare(picture).pixels
            except Exception as error:  # noqa: BLE001 - a broken picture fails only the requests that ask with it
                return error

        if len(pictures) == 1:
            return [prepare(pictures[0])]
        return list(self._threads.map(prepare, pictures))

    def _embed_texts(self, texts: Sequence[str]) -> list[Outcome]:
        service = self._model()
        return together_or_alone(texts, lambda batch: list(service.embed_texts(batch)))


def _in_batches(service: EmbeddingService, prepared: Sequence[Pixels]) -> list[Vectors]:
    """One model call, or several when there are more pictures than the device likes (and memory holds) at once."""
    size = service.batch_size
    calls = [service.embed_prepared(prepared[start : start + size]) for start in range(0, len(prepared), size)]
    return [vector for vectors in calls for vector in vectors]


def _once(
    parts: Iterable[QueryPart],
    key: Callable[[QueryPart], Item | None],
    embed: Callable[[Sequence[Item]], Sequence[Outcome]],
) -> dict[Item, Outcome]:
    """The vector or error of each different picture (or text) that the parts ask with."""
    different = list(dict.fromkeys(value for part in parts if (value := key(part)) is not None))
    if not different:
        return {}
    try:
        return dict(zip(different, embed(different), strict=True))
    except Exception as error:  # noqa: BLE001 - no model: fails the requests that need one, the others go on
        return dict.fromkeys(different, error)


def _made(outcome: Outcome) -> Vectors:
    if isinstance(outcome, Exception):
        raise outcome
    return outcome
