"""Indexing as one writes it in an afternoon: Pillow, transformers' CLIP, FAISS, one step after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import faiss
import torch
from PIL import Image
from transformers import CLIPModel, CLIPProcessor

_WARM_UP = 3  # calls


def ready_by_hand(folder: str, photos: Sequence[Path], batch: int) -> Callable[[], int]:
    """Load the model and warm up; what comes back puts all photos into an IndexFlatL2 and says how many it holds."""
    model = CLIPModel.from_pretrained(folder).eval()
    processor = CLIPProcessor.from_pretrained(folder)
    index = faiss.IndexFlatL2(model.config.projection_dim)

    def add(paths: Sequence[Path]) -> None:
        inputs = processor(images=[Image.open(path).convert("RGB") for path in paths], return_tensors="pt")
        with torch.no_grad():
            output = model.get_image_features(**inputs)
        features = output if isinstance(output, torch.Tensor) else output.pooler_output
        index.add((features / features.norm(dim=-1, keepdim=True)).numpy())

    def index_photos() -> int:
        for start in range(0, len(photos), batch):
            add(photos[start : start + batch])
        return int(index.ntotal)

    for _ in range(_WARM_UP):
        add(photos[:batch])
    index.reset()
    return index_photos
