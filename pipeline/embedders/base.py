"""The seam between the pipeline and its models. Shipped: CLIP through torch, CLIP through onnxruntime, `baseline`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from PIL import Image

from pipeline.pictures import Picture
from storage.records import ModelIdentity

Pixels = np.ndarray[Any, np.dtype[Any]]  # float32 or uint8, as the model takes it
Vectors = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True)
class ThreadUse:
    """How indexing is to share out its threads between decoding and a model: all together no more than the cores."""

    decoding: int  # threads that decode and prepare
    calls: int = 1  # of the model at once, each from a thread
    shared: bool = False  # those very threads call the model too, which then has none of its own


class Embedder(Protocol):
    """Pre (per picture, on any thread), core (per batch, on the device) and post in one object.

    `prepare` may run on many threads while another thread is inside `embed_prepared`, so that decoding
    overlaps with the model.
    """

    @property
    def identity(self) -> ModelIdentity:
        """Which model this is; recorded with every vector it makes."""
        ...

    @property
    def batch_size(self) -> int:
        """How many pictures the model likes at once on its device."""
        ...

    def prepare(self, picture: Image.Image) -> Pixels:
        """Turn a checked RGB picture into the model's input, e.g. (3, 224, 224) float32 or (224, 224, 3) uint8."""
        ...

    def embed_prepared(self, batch: Sequence[Pixels]) -> Vectors:
        """Embed prepared pictures: (n, dimension) float32, unit length, in order."""
        ...

    def embed_texts(self, texts: Sequence[str]) -> Vectors:
        """Embed texts: (n, dimension) float32, unit length. Raises TextNotSupported without a text tower."""
        ...


@runtime_checkable
class TakesReducedPictures(Protocol):
    """What an embedder has besides when it is content with pictures decoded at reduced size, which is much faster."""

    @property
    def decode_at_least(self) -> tuple[int, int] | None:
        """Width and height in pixels that are enough; None: always decode in full."""
        ...

    def prepare_reduced(self, picture: Picture, size: tuple[int, int]) -> Pixels:
        """As `prepare`, of a picture that had this width and height, in pixels, before it was reduced.

        It is Pillow's, or an array (height, width, 3) of uint8.
        """
        ...


@runtime_checkable
class TellsThreadUse(Protocol):
    """What an embedder has besides that knows how its computing and decoding go together best."""

    @property
    def thread_use(self) -> ThreadUse:
        """See `ThreadUse`; without it the model has a thread, and decoding has as many as there are cores."""
        ...


@runtime_checkable
class ComputesOnCallingThread(Protocol):
    """What an embedder has besides that can compute on the thread that calls it, and on no other.

    Several such calls at once keep all cores busy without a thread ever waiting for another in the middle of the model.
    """

    def embed_on_calling_thread(self, batch: Sequence[Pixels]) -> Vectors:
        """As `embed_prepared`, with the same vectors but for rounding; safe to call from many threads."""
        ...
