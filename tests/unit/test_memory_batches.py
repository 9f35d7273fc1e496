"""Batches that fit into a device's memory: the estimate, and halving when it was wrong."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

import pytest
import torch

from pipeline.embedders.memory_batches import MOST_PICTURES, HalvingBatches, batch_size_for, bytes_per_picture

MIB = 1024 * 1024
VIT_B_32 = SimpleNamespace(
    image_size=224, patch_size=32, hidden_size=768, intermediate_size=3072, num_attention_heads=12
)
VIT_L_14_336 = SimpleNamespace(
    image_size=336, patch_size=14, hidden_size=1024, intermediate_size=4096, num_attention_heads=16
)


def test_a_pictures_memory_is_counted_by_hand() -> None:
    tokens = 7 * 7 + 1
    by_hand = 2 * (tokens * (6 * 768 + 2 * 3072) + 2 * 12 * tokens**2 + 3 * 224 * 224) + 4 * 3 * 224 * 224
    assert bytes_per_picture(VIT_B_32, 2) == by_hand
    assert bytes_per_picture(VIT_L_14_336, 2) > 10 * bytes_per_picture(VIT_B_32, 2)
    assert bytes_per_picture(VIT_B_32, 4) < 2 * bytes_per_picture(VIT_B_32, 2), "pictures arrive in float32 either way"


@pytest.mark.parametrize(
    ("free", "picture", "calls", "size"),
    [
        (100 * MIB, MIB, 1, 32),  # 50 would fit into the half
        (128 * MIB, MIB, 1, 64),
        (128 * MIB, MIB, 2, 32),
        (10_000 * MIB, MIB, 1, MOST_PICTURES),
        (MIB, MIB, 1, 1),
        (0, MIB, 2, 1),
    ],
)
def test_the_batch_is_a_power_of_two_in_half_of_the_free_memory(free: int, picture: int, calls: int, size: int) -> None:
    assert batch_size_for(free, picture, calls) == size


class Device:
    """Has room for so many numbers at once, and raises torch's own error for more."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.sizes: list[int] = []
        self.forgotten = 0

    def step(self, batch: Sequence[int]) -> list[int]:
        self.sizes.append(len(batch))
        if len(batch) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return [-number for number in batch]

    def forget(self) -> None:
        self.forgotten += 1


def _batches(device: Device, size: int) -> HalvingBatches:
    return HalvingBatches(size, torch.OutOfMemoryError, device.forget)


def test_a_batch_that_does_not_fit_is_halved_until_it_does_and_nothing_is_lost() -> None:
    device = Device(room=5)
    batches = _batches(device, 16)
    parts = batches.run(device.step, range(20))
    assert [number for part in parts for number in part] == [-number for number in range(20)]
    assert device.sizes == [16, 8, 4, 4, 4, 4, 4]
    assert (batches.size, device.forgotten) == (4, 2)
    batches.run(device.step, range(8))
    assert device.sizes[-2:] == [4, 4], "what was learnt is kept"


def test_the_last_short_batch_is_halved_by_its_own_length() -> None:
    device = Device(room=2)
    assert _batches(device, 64).run(device.step, range(3)) == [[0], [-1], [-2]]


def test_one_that_does_not_fit_alone_is_the_devices_error() -> None:
    device = Device(room=0)
    with pytest.raises(torch.OutOfMemoryError):
        _batches(device, 4).run(device.step, range(4))
    assert device.sizes == [4, 2, 1]
