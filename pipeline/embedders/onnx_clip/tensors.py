"""The weights of a checkpoint as NumPy arrays, read one by one from its safetensors files. Knows no model.

The format (https://huggingface.co/docs/safetensors): eight bytes of length, a JSON header with types, shapes and
places, then the numbers. Read here because the library's NumPy side knows no bfloat16.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from pipeline.embedders.checkpoint import Checkpoint
from pipeline.errors import UnsupportedModel

Array: TypeAlias = np.ndarray[Any, np.dtype[np.float32]]

_MAX_HEADER_BYTES = 100_000_000  # the format's own cap
_TYPES: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype("<u2")}
_SHOWN = 3


class CheckpointTensors:
    """Gives each tensor as float32; the files are mapped, so that only what is asked for is read."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._name = checkpoint.name
        self._places = {name: place for file in checkpoint.weight_files for name, place in _tensors_of(file)}

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def check(self, shapes: dict[str, tuple[int, ...]]) -> None:
        """Raise UnsupportedModel unless all these tensors are there, with these shapes."""
        missing = sorted(set(shapes) - set(self._places))
        if missing:
            shown = ", ".join(missing[:_SHOWN])
            raise UnsupportedModel(f"the weights of {self._name} lack parts of both towers: {shown}, …")
        for name, wanted in shapes.items():
            found = tuple(self._places[name][1]["shape"])
            if found != wanted:
                raise UnsupportedModel(
                    f"{self._name} cannot be loaded: {name} has the shape {found}, by its config.json it is {wanted}"
                )

    def read(self, name: str) -> Array:
        """Read one tensor as C-ordered float32, a copy of its own."""
        file, entry, start = self._places[name]
        begin, end = entry["data_offsets"]
        raw = np.fromfile(file, dtype=np.uint8, count=end - begin, offset=start + begin)
        numbers = raw.view(_TYPES[entry["dtype"]])
        if entry["dtype"] == "BF16":  # the upper half of a float32
            numbers = (numbers.astype(np.uint32) << 16).view(np.float32)
        array: Array = np.ascontiguousarray(numbers, dtype=np.float32).reshape(entry["shape"])
        return array


def _tensors_of(file: Path) -> Iterator[tuple[str, tuple[Path, dict[str, Any], int]]]:
    """Name every usable tensor of a file with its header entry and where the numbers begin, in bytes."""
    try:
        header, start = _read_header(file)
        for name, entry in header.items():
            if name != "__metadata__" and entry["dtype"] in _TYPES:
                _check_place(entry, file.stat().st_size - start)
                yield name, (file, entry, start)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UnsupportedModel(f"the weights {file} are damaged: {error}") from error


def _read_header(file: Path) -> tuple[dict[str, Any], int]:
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        if not 2 <= length <= min(_MAX_HEADER_BYTES, file.stat().st_size - 8):
            message = f"a header of {length} bytes does not fit"
            raise ValueError(message)
        return json.loads(opened.read(length)), 8 + length


def _check_place(entry: dict[str, Any], data_bytes: int) -> None:
    begin, end = entry["data_offsets"]
    wanted = _count(entry["shape"]) * _TYPES[entry["dtype"]].itemsize
    if not (0 <= begin <= end <= data_bytes and end - begin == wanted):
        message = f"a tensor of {wanted} bytes stands at {begin} to {end} of {data_bytes}"
        raise ValueError(message)


def _count(shape: Sequence[int]) -> int:
    return int(np.prod(shape, dtype=np.int64)) if shape else 1
