"""Settings of every mode: where the catalog lies, which model, how pictures are read and decoded."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from platformdirs import user_data_path
from pydantic import BaseModel, Field, field_validator

from storage.cores import usable_cores
from storage.images.backend import DEFAULT_MAX_IMAGE_BYTES

DEFAULT_MODEL = "openai/clip-vit-base-patch32"
DEFAULT_MAX_IMAGE_PIXELS = 200_000_000  # medium-format cameras make 150 Mpx; 200 Mpx is 600 MB once decoded
_MAX_FETCH_THREADS = 16  # beyond it, more threads only wait for the same disk


def _default_fetch_threads() -> int:
    return min(_MAX_FETCH_THREADS, usable_cores() + 4)


class IndexingSettings(BaseModel):
    """What indexing in one process needs to know, with or without servers."""

    data_dir: Path = Field(
        default_factory=lambda: user_data_path("visual-search", appauthor=False),
        description="Folder that holds the catalog (SQLite: images, vectors, failures). One folder, one truth.",
    )
    collection: str = Field(
        default="default", description="Collection used when a command names none: a-z, 0-9, - and _."
    )
    model: str = Field(
        default=DEFAULT_MODEL,
        description="Model for a new collection: a Hugging Face hub name, a folder with a checkpoint, or "
        "`baseline`. A collection that holds vectors keeps the model that made them.",
    )
    device: Literal["auto", "cpu", "cuda", "mps"] = Field(
        default="auto",
        description="Where the model runs; `auto` takes cuda, then mps, then cpu.",
    )
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = Field(
        default="auto",
        description="Number type inside the model; `auto` is float16 on cuda, else float32.",
    )
    backend: Literal["auto", "torch", "onnx", "onnx-int8"] = Field(
        default="auto",
        description="What runs the model: `torch`, `onnx` (onnxruntime, CPU; the same vectors) or `onnx-int8` (CPU; "
        "faster, another model's vectors; see `visual-search models prepare`). `auto` takes `onnx` for CLIP in float32 "
        "on a CPU, else `torch`. A collection that holds vectors keeps the precision that made them.",
    )
    decoding: Literal["reduced", "full"] = Field(
        default="reduced",
        description="How a new collection decodes large JPEGs: at `reduced` size, no less than twice what the model "
        "sees, or in `full`, to the last bit as transformers does. A collection that holds vectors keeps its way.",
    )
    batch_size: int | None = Field(
        default=None, ge=1, le=4096, description="Images per model call; by default the model's own choice."
    )
    fetch_threads: int = Field(
        default_factory=_default_fetch_threads,
        ge=1,
        le=256,
        description="Threads that read images while others are decoded and embedded (on no more threads than cores, or "
        "OMP_NUM_THREADS); by default cores + 4, at most 16.",
    )
    commit_images: int = Field(
        default=256,
        ge=1,
        le=100_000,
        description="Images per SQL transaction: what a kill can cost is redone.",
    )
    max_image_bytes: int = Field(
        default=DEFAULT_MAX_IMAGE_BYTES, ge=1, description="Larger image files are refused (`too_large`)."
    )
    max_image_pixels: int = Field(
        default=DEFAULT_MAX_IMAGE_PIXELS,
        ge=1,
        description="Images that claim more pixels are refused before decoding (`too_many_pixels`).",
    )

    decode_in_child: bool = Field(
        default=False,
        description="Decode pictures in child processes with limits: one that crashes or stalls a decoder fails alone "
        "and reaches neither passwords nor the network. Linux and macOS.",
    )
    decode_child_bytes: int = Field(
        default=2 * 1024**3,
        ge=16 * 1024**2,
        description="Memory that a picture may take in a decoding child (`decode_memory`); Linux only.",
    )
    decode_child_seconds: float = Field(
        default=60.0,
        gt=0,
        le=3600.0,
        description="How long a picture may take in a decoding child (`decode_timeout`).",
    )

    @field_validator("data_dir")
    @classmethod
    def _expanded(cls, value: Path) -> Path:
        return value.expanduser()
