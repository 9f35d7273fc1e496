"""A collection with pictures, one of them broken, indexed in this process with the `baseline` model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pictures import jpeg

from pipeline.indexing.selection import SourceSelection
from storage.settings import Settings
from visual_search.collection import ImageCollection

NAMES = ("a.jpg", "b.jpg", "cats/tom.jpg", "cats/ünï & 100%.jpg", "cats/x?y#z.jpg")
BROKEN = ("broken/1.jpg", "broken/2.jpg")
ATTRIBUTES: Mapping[str, Mapping[str, Any]] = {
    "a.jpg": {"label": "dress", "year": 2020, "new": True},
    "b.jpg": {"label": "dress", "year": 2024.5, "new": False},
    "cats/tom.jpg": {"label": "cat", "tags": ["x", "y"]},
}


def seed(settings: Settings, folder: Path, collection: str | None = None) -> None:
    """Write the pictures into the folder and index them."""
    for number, name in enumerate(NAMES):
        _write(folder / name, jpeg(number, (320, 200)))
    for name in BROKEN:
        _write(folder / name, jpeg(9)[:100])
    sidecar = folder.parent / "attributes.jsonl"
    lines = [json.dumps({"image_id": name, **given}) for name, given in ATTRIBUTES.items()]
    sidecar.write_text("\n".join(lines))
    with ImageCollection(collection, settings=settings) as images:
        images.index(folder, SourceSelection(attributes_file=sidecar))


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
