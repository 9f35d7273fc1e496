"""Pictures to an NVIDIA (or AMD) GPU and vectors back, beside other batches. The only file with CUDA's own means.

Each calling thread has a stream and pinned memory of its own. With two threads, one batch is stacked and copied while
the other one is computed, and neither waits for the other's copies: double buffering, with a thread for each buffer.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from pipeline.embedders.base import Pixels
from pipeline.embedders.memory_batches import batch_size_for, bytes_per_picture

CALLS = 2  # batches under way: one is computed, the other is on its way


class CudaLanes:
    """One lane for each thread that calls; see `Lane`."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        torch.cuda.synchronize(device)  # the weights have arrived, whichever stream looks at them
        self._device, self._dtype = device, dtype
        self._own = threading.local()

    def run(self, batch: Sequence[Pixels], features: Callable[[torch.Tensor], torch.Tensor]) -> Pixels:
        """Features of prepared pictures: (n, dimension) float32 on the host. Raises torch.OutOfMemoryError."""
        lane: Lane | None = getattr(self._own, "lane", None)
        if lane is None:
            lane = self._own.lane = Lane(self._device, self._dtype)
        return lane.run(batch, features)


class Lane:
    """A stream with pinned memory for what goes to the device; for one thread."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self._device, self._dtype = device, dtype
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pinned = torch.empty(0)

    def run(self, batch: Sequence[Pixels], features: Callable[[torch.Tensor], torch.Tensor]) -> Pixels:
        """Stack, copy, compute, copy back; returns when the result is there, other threads go on meanwhile."""
        pixels = self._stacked(batch)
        try:
            with torch.cuda.stream(self._stream):
                found = features(pixels.to(self._device, non_blocking=True).to(self._dtype)).float()
                host = torch.empty(found.shape, dtype=torch.float32, pin_memory=True)
                host.copy_(found, non_blocking=True)
        finally:
            self._stream.synchronize()  # also after an error: the pinned memory is used again
        return np.array(host.numpy())

    def _stacked(self, batch: Sequence[Pixels]) -> torch.Tensor:
        """The pictures one behind the other in pinned memory, from which the device reads by itself."""
        shape: tuple[Any, ...] = (len(batch), *batch[0].shape)
        numbers = int(np.prod(shape))
        if self._pinned.numel() < numbers:
            self._pinned = torch.empty(numbers, dtype=torch.float32, pin_memory=True)
        stacked = self._pinned[:numbers].view(shape)
        np.stack(batch, out=stacked.numpy())
        return stacked


def batch_size_now(device: torch.device, vision_config: Any, dtype: torch.dtype) -> int:
    """How many pictures a batch may have in the memory that is free on the device now, with the model loaded."""
    free, _total = torch.cuda.mem_get_info(device)
    return batch_size_for(free, bytes_per_picture(vision_config, dtype.itemsize), CALLS)
