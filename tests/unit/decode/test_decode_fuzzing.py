"""Whatever the bytes, only decode errors come out."""

from __future__ import annotations

import random
import warnings

import numpy as np
import pytest
from made_pictures import FORMATS, RED, encode, gradient
from PIL import Image

from pipeline.decode import DecodeLimits, decode_image
from pipeline.errors import (
    DecodeError,
)

FUZZ_SEED = 20_240_607


FUZZ_ROUNDS = 700  # per format; times 7 formats


def mutate(data: bytes, dice: random.Random) -> bytes:
    """Damage a file in one of the ways that files are damaged."""
    damaged = bytearray(data)
    for _ in range(dice.choice((1, 1, 2, 4, 16))):
        place = dice.randrange(len(damaged))
        match dice.randrange(5):
            case 0:
                damaged[place] ^= 1 << dice.randrange(8)
            case 1:
                damaged[place] = dice.choice((0, 1, 0x7F, 0x80, 0xFF))
            case 2:
                damaged[place : place + 4] = dice.choice((b"\xff" * 4, b"\x00" * 4, b"\x7f\xff\xff\xff"))
            case 3:
                del damaged[place : place + dice.randrange(1, 64)]
            case _:
                damaged[place:place] = dice.randbytes(dice.randrange(1, 16))
        if not damaged:
            return b""
    return bytes(damaged[: dice.randrange(len(damaged))]) if dice.random() < 0.1 else bytes(damaged)


def fuzz_seeds(image_format: str) -> list[bytes]:
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a description"
    plain = gradient(20, 14)
    seeds = [encode(plain, image_format)]
    if image_format not in ("GIF", "BMP"):
        seeds.append(encode(plain, image_format, exif=exif))
    if image_format in ("GIF", "PNG", "TIFF", "WEBP"):
        seeds.append(encode(plain, image_format, save_all=True, append_images=[Image.new("RGB", (20, 14), RED)]))
    if image_format in ("PNG", "TIFF"):
        seeds.append(encode(plain.convert("P"), image_format))
        seeds.append(encode(Image.fromarray(np.arange(280, dtype=np.uint16).reshape(14, 20)), image_format))
    if image_format == "TIFF":
        seeds += [encode(plain, image_format, compression=kind) for kind in ("tiff_lzw", "jpeg", "packbits")]
        seeds.append(encode(Image.fromarray(np.ones((4, 4), dtype=np.float32)), image_format))
    if image_format == "JPEG":
        seeds.append(encode(plain, image_format, progressive=True))
        seeds.append(encode(plain.convert("CMYK"), image_format))
    return seeds


def is_refused(data: bytes, limits: DecodeLimits) -> bool:
    try:
        decoded = decode_image(data, limits)
    except DecodeError:
        return True
    assert decoded.picture.mode == "RGB"
    return False


@pytest.mark.parametrize("image_format", FORMATS)
@pytest.mark.parametrize("warnings_are", ["errors", "ignored"])
def test_whatever_the_bytes_only_decode_errors_come_out(image_format: str, warnings_are: str) -> None:
    print(f"seed {FUZZ_SEED}, {FUZZ_ROUNDS} rounds")
    dice = random.Random(f"{FUZZ_SEED} {image_format} {warnings_are}")
    seeds = fuzz_seeds(image_format)
    limits = DecodeLimits(max_pixels=1_000_000)
    refused = 0
    with warnings.catch_warnings():
        warnings.simplefilter("error" if warnings_are == "errors" else "ignore")
        for _ in range(FUZZ_ROUNDS):
            refused += is_refused(mutate(dice.choice(seeds), dice), limits)
    assert 0 < refused < FUZZ_ROUNDS
