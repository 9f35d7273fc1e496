"""The two types that the steps share; owns no behaviour."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from pipeline.results import SearchResult

# Results in relevance order. A step reads one stream lazily and is one itself; ranks are set by the page.
Stream = Iterator[SearchResult]

# Ids to their vectors: (n, dimension) float32, unit length, in order. That is VectorIndex.reconstruct_many.
VectorLookup = Callable[[Sequence[str]], np.ndarray[Any, np.dtype[np.float32]]]
