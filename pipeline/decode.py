"""Untrusted bytes to an upright RGB picture, or a typed refusal. Knows no files, no models and no tensors.

Our own caps on bytes and pixels are checked before any pixel is decoded. An ICC profile is ignored, as CLIP's own
preprocessing does.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from functools import cached_property

from PIL import Image
from PIL.ExifTags import Base
from PIL.JpegImagePlugin import JpegImageFile

from pipeline.colour import to_rgb
from pipeline.errors import CorruptImage, EmptyImage, TooManyBytes, TooManyPixels, UnsupportedFormat
from pipeline.jpeg_pixels import read_pixels
from pipeline.picture_formats import open_as, recognise_format
from pipeline.pictures import Picture, as_pillow, size_of
from storage.images.backend import DEFAULT_MAX_IMAGE_BYTES
from storage.settings import DEFAULT_MAX_IMAGE_PIXELS

# Raised in the fingerprint of every model: a change of the pixels that decoding yields must raise it.
DECODE_VERSION = 1

# What Pillow's readers raise on damaged files (seen by fuzzing, and in its source). `Warning` is here for
# programs that turn warnings into errors.
_PILLOW_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    AttributeError,
    AssertionError,
    EOFError,
    LookupError,
    ArithmeticError,
    RuntimeError,
    struct.error,
    zlib.error,
    Warning,
)

_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # EXIF 2.32, tag 0x0112: what turns each stored orientation upright

_ON_ITS_SIDE = frozenset({5, 6, 7, 8})

LARGE_PIXELS = 32_000_000  # 96 MB as RGB; phones and most cameras stay below


@dataclass(frozen=True)
class DecodeLimits:
    """Caps that are checked before anything is decoded: encoded bytes, and pixels (width x height)."""

    max_bytes: int = DEFAULT_MAX_IMAGE_BYTES
    max_pixels: int = DEFAULT_MAX_IMAGE_PIXELS


@dataclass(frozen=True)
class _Given:
    """Encoded bytes of a format, or a caller's own picture."""

    name: str
    data: bytes = b""
    picture: Image.Image | None = None

    def opened(self) -> Image.Image:
        return open_as(self.name, self.data) if self.picture is None else self.picture


@dataclass(frozen=True)
class DecodedImage:
    """An RGB picture, upright; `format` is e.g. "JPEG".

    `pixels` has the form in which they were decoded. Width and height in pixels are those of the file, upright: the
    picture's own, unless it was decoded at reduced size.
    """

    pixels: Picture
    width: int
    height: int
    format: str

    @cached_property
    def picture(self) -> Image.Image:
        """The picture for Pillow."""
        return as_pillow(self.pixels)


def decode_image(
    data: bytes, limits: DecodeLimits | None = None, *, at_least: tuple[int, int] | None = None
) -> DecodedImage:
    """Decode a JPEG, PNG, WEBP, GIF, BMP, TIFF, MPO or AVIF (its first picture), upright, over white, in RGB.

    With `at_least` (width and height in pixels) a JPEG is decoded at a half, quarter or eighth of its size where that
    is no smaller, which is several times faster and takes as much less memory; what is refused stays the same.

    Raises EmptyImage, TooManyBytes, UnsupportedFormat, TooManyPixels or CorruptImage, and nothing else,
    whatever the bytes. Safe to call from many threads.
    """
    limits = limits or DecodeLimits()
    if not data:
        raise EmptyImage("the file is empty")
    if len(data) > limits.max_bytes:
        raise TooManyBytes(f"{len(data):,} bytes are more than the cap of {limits.max_bytes:,}")
    name = recognise_format(data)
    return _guarded(_Given(name, data), limits, at_least)


def is_large(data: bytes, limits: DecodeLimits) -> bool:
    """Whether decoding these bytes takes so much memory that it should be done alone; reads the header only.

    Raises nothing: what is refused is refused by `decode_image`.
    """
    try:
        width, height = open_as(recognise_format(data), data).size
    except (UnsupportedFormat, Image.DecompressionBombError, Image.DecompressionBombWarning, *_PILLOW_ERRORS):
        return False
    return LARGE_PIXELS < width * height <= limits.max_pixels


def upright_rgb(picture: Image.Image, limits: DecodeLimits | None = None) -> DecodedImage:
    """Bring a caller's own picture (opened with Pillow, any mode, perhaps not yet loaded) to the same form.

    The caller's picture keeps its pixels. Raises the same errors as `decode_image`.
    """
    return _guarded(_Given(picture.format or "", picture=picture), limits or DecodeLimits())


def _guarded(given: _Given, limits: DecodeLimits, at_least: tuple[int, int] | None = None) -> DecodedImage:
    """Open, check, load and convert, with everything that Pillow raises mapped to our errors."""
    name = given.name
    try:
        opened = given.opened()
        _check_size(opened, limits)
        size = opened.size
        reduced = at_least is not None and _reduce(opened, at_least)
        pixels = _upright(opened, given.data, limits)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise TooManyPixels(f"{name}: {error}") from error
    except MemoryError as error:
        raise TooManyPixels(f"{name}: the decoded picture does not fit into memory") from error
    except _PILLOW_ERRORS as error:
        raise CorruptImage(f"{name}: the file is damaged: {str(error) or type(error).__name__}") from error
    if not reduced:
        size = size_of(pixels)
    elif _orientation(opened) in _ON_ITS_SIDE:
        size = size[1], size[0]
    return DecodedImage(pixels, *size, name)


def _reduce(opened: Image.Image, at_least: tuple[int, int]) -> bool:
    """Have a JPEG decoded at the smallest size that is not below this, in either position of the picture."""
    if not isinstance(opened, JpegImageFile):
        return False
    before, longest = opened.size, max(at_least)
    opened.draft(None, (longest, longest))
    return opened.size != before


def _check_size(picture: Image.Image, limits: DecodeLimits) -> None:
    width, height = picture.size
    if width < 1 or height < 1:
        raise EmptyImage(f"the picture has no pixels ({width} x {height})")
    if width * height > limits.max_pixels:
        raise TooManyPixels(
            f"{width} x {height} is {width * height:,} pixels, more than the cap of {limits.max_pixels:,}"
        )


def _upright(opened: Image.Image, data: bytes, limits: DecodeLimits) -> Picture:
    """Load the picture, apply the EXIF orientation, and convert it to RGB."""
    read = None
    if data and isinstance(opened, JpegImageFile) and opened.width * opened.height <= LARGE_PIXELS:
        read = read_pixels(opened, data)  # a large one may be wanted in Pillow's form, and is not to be there twice
    if read is None:
        opened.load()
    method = _TRANSPOSE.get(_orientation(opened))
    if read is not None and method is None:
        return read
    picture = opened if read is None else as_pillow(read)
    upright = picture if method is None else picture.transpose(method)
    _check_size(upright, limits)  # loading may find another size than the header told
    return to_rgb(upright)


def _orientation(picture: Image.Image) -> int:
    """The EXIF orientation. Damaged EXIF is no reason to lose a good picture: it counts as upright."""
    try:
        orientation = picture.getexif().get(Base.Orientation, 1)
    except _PILLOW_ERRORS:
        return 1
    return orientation if isinstance(orientation, int) else 1
