"""Pictures and texts to vectors: reading, decoding, preparing and the model behind one object.

Split, so that decoding can overlap with the model: `prepare` on many threads, `embed_prepared` on one, `embed_batch`
on as many as the model likes.
Knows neither index nor catalog, and imports torch only through the model that is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import TypeAlias

import numpy as np
from PIL import Image

from pipeline.decode import DecodedImage, DecodeLimits, decode_image, is_large, upright_rgb
from pipeline.decoding_children import DecodingChildren
from pipeline.embedders.base import (
    ComputesOnCallingThread,
    Embedder,
    Pixels,
    TakesReducedPictures,
    TellsThreadUse,
    ThreadUse,
    Vectors,
)
from pipeline.embedders.options import Backend, Decoding, Weights
from pipeline.embedders.registry import load_embedder
from pipeline.errors import TooManyBytes
from storage.errors import ImageNotFound, StorageDenied, StorageUnavailable
from storage.records import ModelIdentity
from storage.settings import DEFAULT_MODEL, allowed_threads

ImageInput: TypeAlias = bytes | Path | str | Image.Image  # encoded bytes, a file's path, or an opened picture


@dataclass(frozen=True)
class PreparedImage:
    """The model's input, with the upright picture's width and height in pixels and format ("" if unknown)."""

    pixels: Pixels
    width: int
    height: int
    format: str


class EmbeddingService:
    """A loaded model that takes pictures in any form. Made once per process; safe to call from threads."""

    def __init__(  # noqa: PLR0913 - the library's front door: flat keyword arguments with defaults
        self,
        model_name: str = DEFAULT_MODEL,
        *,
        device: str = "auto",
        dtype: str = "auto",
        batch_size: int | None = None,
        backend: Backend = "auto",
        decoding: Decoding = "reduced",
        like: ModelIdentity | None = None,
        weights: Weights = "packed",
        limits: DecodeLimits | None = None,
        embedder: Embedder | None = None,
        children: DecodingChildren | None = None,
    ) -> None:
        """With `like`, vectors are made in the way that the vectors of that identity were; see `load_embedder`.

        `weights="mapped"` starts sooner and embeds more slowly: for a picture or two.

        With `children`, encoded pictures are decoded there; they stay the caller's.
        """
        self._embedder = embedder or load_embedder(
            model_name,
            device=device,
            dtype=dtype,
            batch_size=batch_size,
            backend=backend,
            decoding=decoding,
            like=like,
            weights=weights,
        )
        self._batch_size = batch_size or self._embedder.batch_size
        self._limits = limits or DecodeLimits()
        self._children = children
        self._decode_at_least = _decode_at_least(self._embedder)
        self._one_large_at_a_time = Lock()  # decoded, a picture at the cap takes 600 MB: not one for each thread

    @property
    def identity(self) -> ModelIdentity:
        """Which model this is; recorded with every vector."""
        return self._embedder.identity

    @property
    def dimension(self) -> int:
        """How many numbers a vector has."""
        return self._embedder.identity.dimension

    @property
    def batch_size(self) -> int:
        """How many prepared pictures to hand to `embed_prepared` at once."""
        return self._batch_size

    @property
    def thread_use(self) -> ThreadUse:
        """How decoding and the model go together best on the cores of this process."""
        if isinstance(self._embedder, TellsThreadUse):
            return self._embedder.thread_use
        return ThreadUse(decoding=allowed_threads())

    def prepare(self, image: ImageInput) -> PreparedImage:
        """Read, decode and preprocess one picture. Safe to call from many threads.

        Raises a DecodeError for a refused picture, a StorageError for a path that cannot be read.
        """
        if isinstance(image, Image.Image):
            return self._prepared(upright_rgb(image, self._limits))
        data = image if isinstance(image, bytes) else _read(Path(image), self._limits.max_bytes)
        if self._children is not None:
            return self._prepared(self._children(data, self._limits, at_least=self._decode_at_least))
        with self._one_large_at_a_time if is_large(data, self._limits) else nullcontext():
            return self._prepared(decode_image(data, self._limits, at_least=self._decode_at_least))

    def embed_prepared(self, batch: Sequence[Pixels]) -> Vectors:
        """Embed what `prepare` made: (n, dimension) float32, unit length, in order."""
        return self._embedder.embed_prepared(batch)

    def embed_batch(self, batch: Sequence[Pixels]) -> Vectors:
        """As `embed_prepared`, for each of the `thread_use.calls` threads that call at once while indexing."""
        if isinstance(self._embedder, ComputesOnCallingThread):
            return self._embedder.embed_on_calling_thread(batch)
        return self.embed_prepared(batch)

    def embed_images(self, images: Sequence[ImageInput]) -> Vectors:
        """Embed pictures: (n, dimension) float32, unit length, in order; the first refused one raises.

        Holds one batch of prepared pictures in memory at a time.
        """
        parts = [np.empty((0, self.dimension), dtype=np.float32)]
        for start in range(0, len(images), self._batch_size):
            prepared = [self.prepare(image).pixels for image in images[start : start + self._batch_size]]
            parts.append(self.embed_prepared(prepared))
        return np.concatenate(parts)

    def embed_image(self, image: ImageInput) -> Vectors:
        """Embed one picture: (dimension,) float32, unit length."""
        vector: Vectors = self.embed_images([image])[0]
        return vector

    def embed_texts(self, texts: Sequence[str]) -> Vectors:
        """Embed texts: (n, dimension) float32, unit length. Raises InvalidQuery, or TextNotSupported."""
        return self._embedder.embed_texts(texts)

    def embed_text(self, text: str) -> Vectors:
        """Embed one text: (dimension,) float32, unit length."""
        vector: Vectors = self.embed_texts([text])[0]
        return vector

    def _prepared(self, decoded: DecodedImage) -> PreparedImage:
        size = decoded.width, decoded.height
        if isinstance(self._embedder, TakesReducedPictures):
            pixels = self._embedder.prepare_reduced(decoded.pixels, size)
        else:
            pixels = self._embedder.prepare(decoded.picture)
        return PreparedImage(pixels, decoded.width, decoded.height, decoded.format)


def _decode_at_least(embedder: Embedder) -> tuple[int, int] | None:
    return embedder.decode_at_least if isinstance(embedder, TakesReducedPictures) else None


def _read(path: Path, max_bytes: int) -> bytes:
    """Read a caller's own file, stopping at the cap. Collections of files are `storage.images`' affair."""
    try:
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
    except FileNotFoundError as error:
        raise ImageNotFound(f"there is no file {path}") from error
    except (PermissionError, IsADirectoryError) as error:
        raise StorageDenied(f"{path} cannot be read: {error}") from error
    except OSError as error:
        raise StorageUnavailable(f"{path} cannot be read: {error}") from error
    if len(data) > max_bytes:
        raise TooManyBytes(f"{path} is larger than the cap of {max_bytes:,} bytes")
    return data
