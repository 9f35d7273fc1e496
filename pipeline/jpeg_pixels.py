"""The pixels of a JPEG straight from libjpeg-turbo, where they are to the byte those that Pillow gives.

Pillow's decoder runs the same library, row by row into four bytes a pixel: that is slower, and whoever works on arrays
copies once more. What is refused, and what a refusal says, is Pillow's to tell: whatever is not in order goes to
it. The only file that knows simplejpeg.
"""

from __future__ import annotations

import simplejpeg
from PIL import features
from PIL.JpegImagePlugin import JpegImageFile

from pipeline.pictures import Bytes

# CMYK is converted in other ways by the two of them
_MODES = frozenset({"RGB", "L"})

# A Pillow of one's own may stand on libjpeg, or on an old libjpeg-turbo, that fill up colours otherwise
_LEAST_VERSION = 3

# The reduced size is told by what comes out; of a smaller picture, several make the same. Pixels, of the longer side
_LEAST_SIDE = 16


def read_pixels(opened: JpegImageFile, data: bytes) -> Bytes | None:
    """(height, width, 3) uint8, as `opened`, once loaded, would have them in RGB; None where Pillow is to read them.

    `opened` stands on this data and is not loaded; it may be set to a reduced size (`draft`). A file that libjpeg-turbo
    warns of, as it does of one that ends too early or lacks pixels in its middle, is Pillow's. Raises nothing.
    """
    width, height = opened.size
    if opened.mode not in _MODES or max(width, height) < _LEAST_SIDE or not _IS_PILLOWS_LIBRARY:
        return None
    try:
        pixels: Bytes = simplejpeg.decode_jpeg(data, "RGB", min_width=width, min_height=height, strict=True)
    except (ValueError, RuntimeError, MemoryError):
        return None
    return pixels if pixels.shape == (height, width, 3) else None


def _is_pillows_library() -> bool:
    version = features.version_feature("libjpeg_turbo") if features.check_feature("libjpeg_turbo") else None
    return version is not None and int(version.split(".")[0]) >= _LEAST_VERSION


_IS_PILLOWS_LIBRARY = _is_pillows_library()
