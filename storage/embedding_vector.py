"""One image's vector as a data model. Beside the other records, since it alone needs NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, field_serializer, field_validator

from storage.records import ModelIdentity


class EmbeddingVector(BaseModel):
    """One image's vector: (dimension,) float32 of unit length, with the model that made it."""

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)

    image_id: str
    vector: np.ndarray[Any, np.dtype[np.float32]]
    model: ModelIdentity | None = None

    @field_validator("vector", mode="before")
    @classmethod
    def _as_float32(cls, value: Any) -> np.ndarray[Any, np.dtype[np.float32]]:
        array = np.asarray(value, dtype=np.float32)
        if array.ndim != 1 or not np.isfinite(array).all():
            message = f"a vector is one row of finite numbers, got shape {array.shape}"
            raise ValueError(message)
        return array

    @field_serializer("vector")
    def _as_list(self, value: np.ndarray[Any, np.dtype[np.float32]]) -> list[float]:
        return [float(number) for number in value]

    @property
    def dimension(self) -> int:
        """How many numbers the vector has."""
        return int(self.vector.shape[0])
