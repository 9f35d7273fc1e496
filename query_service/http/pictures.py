"""Reads pictures by their recorded addresses and shrinks them, on a few threads of its own. Knows no HTTP."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from threading import Lock

from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from pipeline.decode import DecodeLimits, decode_image, is_large, upright_rgb
from pipeline.decoding_children import DecodingChildren
from pipeline.errors import TooManyPixels
from pipeline.picture_formats import recognise_format
from storage.errors import (
    HostUnavailable,
    ImageNotFound,
    ImageTooLarge,
    ImageUnreachable,
    SourceNotAllowed,
    StorageError,
    StorageUnavailable,
)
from storage.images.allowed_sources import ANYWHERE, AllowedSources
from storage.images.locate import ImageReader

_THREADS = 4  # decoding releases the interpreter, reading from S3 waits
_CACHE_BYTES = 64 * 1024 * 1024  # some 4,000 thumbnails of 256 pixels
_QUALITY = 85
_SAID_AS_IT_IS = (ImageNotFound, ImageTooLarge, SourceNotAllowed, StorageUnavailable, HostUnavailable)


@dataclass(frozen=True)
class Thumbnail:
    """An encoded JPEG and the sha256 of the picture that it was made of."""

    data: bytes
    sha256: str


class Pictures:
    """The pictures behind image addresses; thumbnails are remembered by content, within a bound of bytes."""

    def __init__(
        self,
        max_bytes: int,
        max_pixels: int,
        allowed: AllowedSources = ANYWHERE,
        children: DecodingChildren | None = None,
    ) -> None:
        self.threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="pictures")
        self._limits = DecodeLimits(max_bytes, max_pixels)
        self._reader = ImageReader(max_bytes, allowed)
        self._children = children
        self._remembered = _Remembered(_CACHE_BYTES)
        self._alone = Lock()  # large pictures take hundreds of megabytes each

    def read(self, uri: str) -> bytes:
        """The original bytes. Raises StorageError.

        A place that is gone or refuses the service is no fault of who asks for one of its images: ImageUnreachable.
        """
        try:
            return self._reader.read(uri)
        except _SAID_AS_IT_IS:
            raise
        except StorageError as error:
            raise ImageUnreachable(f"an indexed image cannot be read: {error}") from error

    def thumbnail(self, uri: str, sha256: str, size: int) -> Thumbnail:
        """The picture upright, within `size` x `size` pixels. Raises StorageError, DecodeError.

        `sha256` is what the catalog says of its content; the file may be another one by now.
        """
        remembered = self._remembered.get((sha256, size))
        if remembered is not None:
            return Thumbnail(remembered, sha256)
        data = self.read(uri)
        actual = hashlib.sha256(data).hexdigest()
        made = self._made(data, size)
        self._remembered.put((actual, size), made)
        return Thumbnail(made, actual)

    def _made(self, data: bytes, size: int) -> bytes:
        if self._children is not None:
            return _shrunk(self._children(data, self._limits, at_least=(2 * size, 2 * size)).picture, size)
        if not is_large(data, self._limits):
            return _shrunk(_decoded(data, size, self._limits), size)
        with self._alone:
            return _shrunk(_decoded(data, size, self._limits), size)


class _Remembered:
    """The thumbnails asked for last, by content and size."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._bytes = 0
        self._found: OrderedDict[tuple[str, int], bytes] = OrderedDict()
        self._lock = Lock()

    def get(self, key: tuple[str, int]) -> bytes | None:
        with self._lock:
            if key in self._found:
                self._found.move_to_end(key)
            return self._found.get(key)

    def put(self, key: tuple[str, int], data: bytes) -> None:
        with self._lock:
            self._bytes += len(data) - len(self._found.pop(key, b""))
            self._found[key] = data
            while self._bytes > self._most_bytes:
                self._bytes -= len(self._found.popitem(last=False)[1])


def _shrunk(picture: Image.Image, size: int) -> bytes:
    picture.thumbnail((size, size), Image.Resampling.LANCZOS)
    buffer = BytesIO()
    picture.save(buffer, format="JPEG", quality=_QUALITY, optimize=True)
    return buffer.getvalue()


def _decoded(data: bytes, size: int, limits: DecodeLimits) -> Image.Image:
    """Upright and in RGB. A JPEG is decoded at an eighth, a quarter or half of its size where that is enough."""
    if not data or len(data) > limits.max_bytes or recognise_format(data) != "JPEG":
        return decode_image(data, limits).picture
    try:
        opened = JpegImageFile(BytesIO(data))
    except Exception:  # noqa: BLE001 - damaged files raise many kinds; the next line has them all, and says what is wrong
        return decode_image(data, limits).picture
    if opened.width * opened.height > limits.max_pixels:
        raise TooManyPixels(f"{opened.width} x {opened.height} are more pixels than the cap of {limits.max_pixels:,}")
    opened.draft("RGB", (2 * size, 2 * size))
    return upright_rgb(opened, limits).picture
