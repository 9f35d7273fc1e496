"""Pictures made for tests of decoding, in every format and kind of pixel."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

from pipeline.decode import decode_image

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
RED, WHITE = (255, 0, 0), (255, 255, 255)


def encode(picture: Image.Image, image_format: str = "PNG", **options: Any) -> bytes:
    buffer = BytesIO()
    picture.save(buffer, format=image_format, **options)
    return buffer.getvalue()


def gradient(width: int = 40, height: int = 30) -> Image.Image:
    """A picture in which every pixel has its own colour."""
    rows, columns = np.mgrid[0:height, 0:width]
    channels = [columns * 255 // width, rows * 255 // height, (rows + columns) * 255 // (width + height)]
    return Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8))


def pixel(data: bytes, x: int = 0, y: int = 0) -> tuple[int, ...]:
    value = decode_image(data).picture.getpixel((x, y))
    assert isinstance(value, tuple)
    return value


def png(width: int, height: int, rows: bytes, *, kind: int, depth: int, transparent: bytes = b"") -> bytes:
    """A PNG made by hand, for what Pillow does not write."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0))
    middle = chunk(b"tRNS", transparent) if transparent else b""
    return b"\x89PNG\r\n\x1a\n" + header + middle + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
