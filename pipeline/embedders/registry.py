"""Names to embedders. Imports torch only when a model needs it, so that `baseline` starts at once."""

from __future__ import annotations

from pipeline.embedders.base import Embedder
from pipeline.embedders.baseline import BASELINE_NAME, BaselineEmbedder


def load_embedder(name: str, *, device: str = "auto", dtype: str = "auto", batch_size: int | None = None) -> Embedder:
    """Load `baseline` (by exactly this name) or a CLIP-family model by hub name or folder.

    Nothing is ever put in place of a model that cannot be had: see `ClipEmbedder.load` for the errors.
    """
    if name == BASELINE_NAME:
        return BaselineEmbedder()
    from pipeline.embedders.clip import ClipEmbedder

    return ClipEmbedder.load(name, device=device, dtype=dtype, batch_size=batch_size)
