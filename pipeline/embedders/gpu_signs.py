"""Whether this machine may have a GPU that torch can use, told without importing torch, which takes seconds."""

from __future__ import annotations

import platform
import sys
from ctypes.util import find_library
from importlib import metadata
from pathlib import Path

# NVIDIA's driver, Windows' GPUs inside WSL, and AMD's driver
_DEVICES = (Path("/dev/nvidiactl"), Path("/dev/dxg"), Path("/dev/kfd"))


def may_have_gpu() -> bool:
    """False only where torch would surely choose the CPU; where it is true, torch has to be asked."""
    if sys.platform == "darwin":
        return platform.machine() == "arm64"
    if _torch_version().endswith("+cpu"):
        return False
    if sys.platform == "win32":
        return find_library("nvcuda") is not None
    return any(device.exists() for device in _DEVICES)


def _torch_version() -> str:
    try:
        return metadata.version("torch")
    except metadata.PackageNotFoundError:
        return "+cpu"  # no torch, no GPU
