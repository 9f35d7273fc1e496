"""How many pictures fit into a device's memory at once, and what is done when it was too many. Knows no device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

T = TypeVar("T")

MOST_PICTURES = 256  # from here on a GPU gains little by more, and the first vectors of a run come later
_SHARE_OF_FREE = 0.5  # the rest is for other processes, the allocator's gaps, and what an estimate does not see
_PIXEL_BYTES = 4  # pictures arrive as float32 and are converted on the device


def bytes_per_picture(vision_config: Any, element_bytes: int) -> int:
    """The memory in bytes that a vision tower of transformers has in use for each picture while it computes, at most.

    Inference keeps one layer's results: its input, the normalised one, three projections, the mixture, and the inner
    layer before and after its activation. Attention scores are counted too, although a fused kernel never stores them.
    """
    side, width = int(vision_config.image_size), int(vision_config.hidden_size)
    tokens = (side // int(vision_config.patch_size)) ** 2 + 1
    layer = tokens * (6 * width + 2 * int(vision_config.intermediate_size))
    scores = 2 * int(vision_config.num_attention_heads) * tokens**2
    pixels = 3 * side**2
    return (layer + scores + pixels) * element_bytes + pixels * _PIXEL_BYTES


def batch_size_for(free_bytes: int, picture_bytes: int, calls: int = 1) -> int:
    """The largest power of two of pictures, 1 to 256, so that `calls` batches at once take half of the free memory."""
    fitting = int(free_bytes * _SHARE_OF_FREE) // (picture_bytes * calls)
    return 1 << (max(1, min(fitting, MOST_PICTURES)).bit_length() - 1)


class HalvingBatches:
    """Cuts inputs into batches; a batch that does not fit into memory is halved, and so are all that come after it.

    Threads may share one: the smallest size that any of them found is everybody's.
    """

    def __init__(self, size: int, too_large: type[Exception], forget: Callable[[], None]) -> None:
        """`too_large` is what the device raises, `forget` gives its unused memory back before the next attempt."""
        self.size = size
        self._too_large = too_large
        self._forget = forget

    def run(self, step: Callable[[Sequence[Any]], T], inputs: Sequence[Any]) -> list[T]:
        """The step's results in order. Raises `too_large` when not even one input fits."""
        parts, start = [], 0
        while start < len(inputs):
            size = self.size
            batch = inputs[start : start + size]
            try:
                parts.append(step(batch))
            except self._too_large:
                if len(batch) == 1:
                    raise
                self.size = min(self.size, len(batch) // 2)
            else:
                start += len(batch)
                continue
            self._forget()  # outside of the handler: its traceback would keep the batch in memory
        return parts
