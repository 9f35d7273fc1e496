"""Untrusted bytes to an upright RGB picture, or a typed refusal. Knows no files, no models and no tensors.

Pictures are recognised by their first bytes against an allow-list, and each is opened with its own Pillow
class. That leaves out `PIL.Image.open`, whose cap on pixels is a process-wide variable and whose first answer
to passing it is only a warning: neither can be set per call, nor safely from many threads. Our own caps are
checked instead, before any pixel is decoded. An ICC profile is ignored, as CLIP's own preprocessing does.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO

from PIL import Image
from PIL.AvifImagePlugin import SUPPORTED as AVIF_SUPPORTED
from PIL.AvifImagePlugin import AvifImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.ExifTags import Base
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from pipeline.colour import to_rgb
from pipeline.errors import CorruptImage, EmptyImage, TooManyBytes, TooManyPixels, UnsupportedFormat
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

_SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"BM", "BMP"),
    (b"II*\x00", "TIFF"),
    (b"MM\x00*", "TIFF"),
    (b"II+\x00", "TIFF"),  # BigTIFF
    (b"MM\x00+", "TIFF"),
)
_HEIF_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"})
_AVIF_BRANDS = frozenset({b"avif", b"avis"})

_OPENERS: dict[str, Callable[[BytesIO], ImageFile]] = {
    # JpegImageFile reads an MPO (two-lens and panorama cameras) as its first picture, which is a plain JPEG.
    "JPEG": JpegImageFile,
    "PNG": PngImageFile,
    "GIF": GifImageFile,
    "BMP": BmpImageFile,
    "TIFF": TiffImageFile,
    "WEBP": WebPImageFile,
    "AVIF": AvifImageFile,
}
FORMATS = frozenset(_OPENERS)


LARGE_PIXELS = 32_000_000  # 96 MB as RGB; phones and most cameras stay below


@dataclass(frozen=True)
class DecodeLimits:
    """Caps that are checked before anything is decoded: encoded bytes, and pixels (width x height)."""

    max_bytes: int = DEFAULT_MAX_IMAGE_BYTES
    max_pixels: int = DEFAULT_MAX_IMAGE_PIXELS


@dataclass(frozen=True)
class DecodedImage:
    """An RGB picture, upright; `format` is e.g. "JPEG".

    Width and height in pixels are those of the file, upright: the picture's own, unless it was decoded at reduced size.
    """

    picture: Image.Image
    width: int
    height: int
    format: str


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
    return _guarded(lambda: _OPENERS[name](BytesIO(data)), name, limits, at_least)


def is_large(data: bytes, limits: DecodeLimits) -> bool:
    """Whether decoding these bytes takes so much memory that it should be done alone; reads the header only.

    Raises nothing: what is refused is refused by `decode_image`.
    """
    try:
        width, height = _OPENERS[recognise_format(data)](BytesIO(data)).size
    except (UnsupportedFormat, Image.DecompressionBombError, Image.DecompressionBombWarning, *_PILLOW_ERRORS):
        return False
    return LARGE_PIXELS < width * height <= limits.max_pixels


def upright_rgb(picture: Image.Image, limits: DecodeLimits | None = None) -> DecodedImage:
    """Bring a caller's own picture (opened with Pillow, any mode, perhaps not yet loaded) to the same form.

    The caller's picture keeps its pixels. Raises the same errors as `decode_image`.
    """
    return _guarded(lambda: picture, picture.format or "", limits or DecodeLimits())


def recognise_format(data: bytes) -> str:
    """Name the allowed format of these bytes by their first few. Raises UnsupportedFormat."""
    for signature, name in _SIGNATURES:
        if data.startswith(signature):
            return name
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    brands = _iso_brands(data)
    if brands & _AVIF_BRANDS and AVIF_SUPPORTED:
        return "AVIF"
    if brands & (_HEIF_BRANDS | _AVIF_BRANDS):
        kind = "AVIF" if brands & _AVIF_BRANDS else "HEIC/HEIF"
        raise UnsupportedFormat(f"{kind} pictures cannot be read here; convert them to JPEG or PNG first")
    raise UnsupportedFormat(
        f"the first bytes {data[:8].hex(' ')} are none of {', '.join(_OPENERS)}; convert the picture first"
    )


def _iso_brands(data: bytes) -> frozenset[bytes]:
    """Return the major and compatible brands of an ISO media file (ISO/IEC 14496-12, box `ftyp`)."""
    if data[4:8] != b"ftyp":
        return frozenset()
    end = min(int.from_bytes(data[:4], "big"), 256, len(data))  # real lists hold some ten brands
    compatible = (data[start : start + 4] for start in range(16, end - 3, 4))
    return frozenset({data[8:12], *compatible})


def _guarded(
    open_picture: Callable[[], Image.Image], name: str, limits: DecodeLimits, at_least: tuple[int, int] | None = None
) -> DecodedImage:
    """Open, check, load and convert, with everything that Pillow raises mapped to our errors."""
    try:
        opened = open_picture()
        _check_size(opened, limits)
        size = opened.size
        reduced = at_least is not None and _reduce(opened, at_least)
        opened.load()
        upright = _turn_upright(opened)
        _check_size(upright, limits)  # loading may find another size than the header told
        picture = to_rgb(upright)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise TooManyPixels(f"{name}: {error}") from error
    except MemoryError as error:
        raise TooManyPixels(f"{name}: the decoded picture does not fit into memory") from error
    except _PILLOW_ERRORS as error:
        raise CorruptImage(f"{name}: the file is damaged: {str(error) or type(error).__name__}") from error
    if not reduced:
        size = picture.size
    elif _orientation(opened) in _ON_ITS_SIDE:
        size = size[1], size[0]
    return DecodedImage(picture, *size, name)


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


def _turn_upright(picture: Image.Image) -> Image.Image:
    """Apply the EXIF orientation."""
    method = _TRANSPOSE.get(_orientation(picture))
    return picture if method is None else picture.transpose(method)


def _orientation(picture: Image.Image) -> int:
    """The EXIF orientation. Damaged EXIF is no reason to lose a good picture: it counts as upright."""
    try:
        orientation = picture.getexif().get(Base.Orientation, 1)
    except _PILLOW_ERRORS:
        return 1
    return orientation if isinstance(orientation, int) else 1
