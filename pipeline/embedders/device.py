"""Where a model runs and in which number type. The only choice made by looking at the machine."""

from __future__ import annotations

import torch

from pipeline.errors import ModelError

# Measured on 2 CPU cores: 8 to 16 is best. On CUDA it goes by the free memory (`cuda.py`). A caller may set another.
_BATCH_SIZES = {"cpu": 16, "mps": 32}


def choose_device(wanted: str) -> torch.device:
    """Return the wanted device; "auto" takes cuda, then mps, then cpu. Raises ModelError if it is absent."""
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if wanted == "auto":
        return torch.device(next(kind for kind, is_there in present.items() if is_there))
    try:
        device = torch.device(wanted)
    except RuntimeError as error:
        raise ModelError(f"unknown device {wanted!r}; choose auto, cpu, cuda or mps") from error
    if not present.get(device.type, False):
        raise ModelError(f"device {wanted!r} is not available to torch on this machine; choose auto or cpu")
    return device


def choose_dtype(wanted: str, device: torch.device) -> torch.dtype:
    """Return the wanted number type; "auto" is float16 on cuda, else float32. Raises ModelError."""
    types = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
    if wanted == "auto":
        return torch.float16 if device.type == "cuda" else torch.float32
    if wanted not in types:
        raise ModelError(f"unknown dtype {wanted!r}; choose auto, {', '.join(types)}")
    return types[wanted]


def natural_batch_size(device: torch.device) -> int:
    """Return how many pictures at once a device without a memory of its own likes."""
    return _BATCH_SIZES[device.type]
