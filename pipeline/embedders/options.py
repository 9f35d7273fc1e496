"""How a model is to be loaded: device, number type, backend, decoding, and which vectors it is to go with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from pipeline.embedders.onnx_clip.precision import Precision, precision_of
from storage.records import ModelIdentity

Backend: TypeAlias = Literal["auto", "torch", "onnx", "onnx-int8"]
Decoding: TypeAlias = Literal["reduced", "full"]
# Whether a graph's weights are copied once into the form that products read fastest, or read where they are mapped:
# that is ready sooner and takes little memory of the process's own, but each call is slower.
Weights: TypeAlias = Literal["packed", "mapped"]


@dataclass(frozen=True)
class EmbedderOptions:
    """`like` is the identity whose vectors the new ones are to be compared with; it decides precision and decoding."""

    device: str = "auto"
    dtype: str = "auto"
    batch_size: int | None = None
    backend: Backend = "auto"
    decoding: Decoding = "reduced"
    like: ModelIdentity | None = None
    weights: Weights = "packed"

    @property
    def precision(self) -> Precision:
        """The precision of the vectors that are wanted."""
        if self.like is not None:
            return precision_of(self.like.revision)
        return "int8" if self.backend == "onnx-int8" else "fp32"
