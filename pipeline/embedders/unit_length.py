"""The last step of every embedder: finite rows of unit length, or an error instead of a made-up vector."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.embedders.base import Vectors
from pipeline.errors import ModelError


def unit_rows(rows: np.ndarray[Any, np.dtype[Any]]) -> Vectors:
    """Scale (n, d) rows to unit length float32. Raises ModelError where a row is not finite or is zero."""
    exact = rows.astype(np.float64)  # so that the length is right to the last bit of float32
    lengths = np.linalg.norm(exact, axis=1, keepdims=True)
    wrong = np.flatnonzero(~np.isfinite(lengths[:, 0]) | (lengths[:, 0] == 0))
    if wrong.size:
        raise ModelError(
            f"the model gave no usable vector for {wrong.size} of {len(rows)} inputs (the first: {wrong[0]}); "
            "with dtype float16 or bfloat16, try float32"
        )
    return np.asarray(exact / lengths, dtype=np.float32)
