"""Which formats are read, how they are told by their first bytes, and with which of Pillow's classes each is opened.

An allow-list instead of `PIL.Image.open`, whose cap on pixels is a process-wide variable and whose first answer to
passing it is only a warning: neither can be set per call, nor safely from many threads.
"""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO

from PIL.AvifImagePlugin import SUPPORTED as AVIF_SUPPORTED
from PIL.AvifImagePlugin import AvifImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from pipeline.errors import UnsupportedFormat

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


def open_as(name: str, data: bytes) -> ImageFile:
    """Read the header of a picture of this format. Raises what Pillow raises."""
    return _OPENERS[name](BytesIO(data))


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
