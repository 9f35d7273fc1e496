"""An RGB picture to a CLIP-family model's input tensor, numerically as transformers' Pillow processor.

Reads a checkpoint's `preprocessor_config.json`; knows neither torch nor transformers, nor how to decode.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline.decode import DECODE_VERSION
from pipeline.embedders.base import Pixels
from pipeline.embedders.fingerprint import sha256_of_settings
from pipeline.errors import UnsupportedModel
from pipeline.pictures import Bytes, Picture, as_pillow, size_of
from pipeline.resize import center_crop, resize_bicubic

# Raised when the same settings give other numbers than before, so that old and new vectors never mix.
PREPROCESSING_VERSION = 1
# The same for pictures that may come at reduced size; kept apart, so that collections made without it stay as they are.
REDUCED_VERSION = 2

# A JPEG is decoded to no less than so many times the size that the model sees: from there on, what the decoder's own
# averaging leaves out is what the bicubic filter would have taken away.
_REDUCED_AT_LEAST = 2

# From so many times the size that comes out, products are faster than Pillow: half the time at twice the size.
_SHRUNK_BY_PRODUCTS = 1.25

# The family is told by the class name of the processor; its suffix has changed with transformers' versions.
_SUFFIXES = ("ImageProcessor", "ImageProcessorFast", "ImageProcessorPil", "FeatureExtractor")

# Beyond this length (in multiples of the shorter side) only the part that survives the crop is resized: a
# picture of 1 x 100,000 pixels would otherwise be blown up to 224 x 22,400,000 first. Photos stay far below.
_LONGEST_FULL_RESIZE = 16


@dataclass(frozen=True)
class ClipPreprocessing:
    """Resize, crop, rescale, normalise. Either `shortest_edge` or `exact_size` (height, width) is set."""

    shortest_edge: int | None = 224
    exact_size: tuple[int, int] | None = None
    crop: tuple[int, int] | None = (224, 224)  # height, width; black where the picture is smaller
    resample: int = int(Image.Resampling.BICUBIC)
    rescale_factor: float = 1 / 255
    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)  # of CLIP's training pictures
    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)
    reduced: bool = False  # pictures may come at reduced size; the crop is cut out before resizing

    @classmethod
    def from_folder(cls, folder: Path) -> ClipPreprocessing:
        """Read the settings from a checkpoint's folder. Raises UnsupportedModel without usable ones."""
        for name, inner in (("preprocessor_config.json", None), ("processor_config.json", "image_processor")):
            try:
                settings = json.loads((folder / name).read_text(encoding="utf-8"))
            except FileNotFoundError:
                continue
            except ValueError as error:
                raise UnsupportedModel(f"{folder / name} is no JSON: {error}") from error
            settings = settings if inner is None else settings.get(inner)
            if settings:
                return cls.from_settings(settings)
        raise UnsupportedModel(f"{folder} has no preprocessor_config.json: how to prepare pictures?")

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> ClipPreprocessing:
        """Take what transformers' CLIP and SigLIP processors write. Raises UnsupportedModel otherwise."""
        is_siglip = _is_siglip(settings)
        try:
            return cls._parse(settings, square=is_siglip, crops=not is_siglip)
        except (KeyError, TypeError, ValueError) as error:
            raise UnsupportedModel(f"unusable preprocessor settings: {error!r} in {settings}") from error

    @classmethod
    def _parse(cls, settings: Mapping[str, Any], *, square: bool, crops: bool) -> ClipPreprocessing:
        wanted = {step: settings.get(f"do_{step}") for step in ("resize", "rescale", "normalize")}
        if False in wanted.values() or settings.get("do_pad"):
            message = f"skipped or unknown steps: {wanted}, pad={settings.get('do_pad')}"
            raise ValueError(message)
        size = settings.get("size", 224)
        is_exact = square or "height" in _keys(size)
        do_crop = crops if settings.get("do_center_crop") is None else settings["do_center_crop"]
        if not (is_exact or do_crop):
            message = "pictures of different shapes would give tensors of different shapes"
            raise ValueError(message)
        return cls(
            shortest_edge=None if is_exact else _edge(size),
            exact_size=_height_width(size) if is_exact else None,
            crop=_height_width(settings.get("crop_size", 224)) if do_crop else None,
            resample=int(Image.Resampling(settings.get("resample", cls.resample))),
            rescale_factor=float(settings.get("rescale_factor", cls.rescale_factor)),
            mean=_three(settings.get("image_mean", (0.5,) * 3 if square else cls.mean)),
            std=_three(settings.get("image_std", (0.5,) * 3 if square else cls.std)),
        )

    @property
    def fingerprint(self) -> str:
        """sha256 hex over the settings and the versions of the code that turns bytes into the tensor."""
        settings: dict[str, Any] = {"decode": DECODE_VERSION, "preprocessing": PREPROCESSING_VERSION, **asdict(self)}
        if not settings.pop("reduced"):  # what was there before keeps its fingerprint
            return sha256_of_settings(settings)
        return sha256_of_settings({**settings, "reduced": REDUCED_VERSION})

    @property
    def output_size(self) -> tuple[int, int]:
        """Height and width of what comes out, in pixels."""
        size = self.crop or self.exact_size
        return size or (0, 0)  # one of the two is set, see `_parse`

    @property
    def decode_at_least(self) -> tuple[int, int] | None:
        """The width and height in pixels that a decoder may reduce a picture to; None: it must not."""
        if not self.reduced:
            return None
        height, width = self.exact_size or (self.shortest_edge or 1,) * 2
        return width * _REDUCED_AT_LEAST, height * _REDUCED_AT_LEAST

    def apply(self, picture: Picture, size: tuple[int, int] | None = None) -> Pixels:
        """Turn an RGB picture into (3, height, width) float32. Safe to call from many threads.

        Follows transformers' `PilBackend` (image_processing_backends.py; `CLIPImageProcessor` in 4.x) to
        the last bit, except for pictures more than 16 times longer than wide: resizing only their middle, Pillow
        may take its two passes in the other order, which rounds differently (half a grey level on average).
        With `reduced` all pictures differ by about that much. `size` is as for `cut`.
        """
        pixels = self.cut(picture, size)
        height, width, _ = pixels.shape
        tensor = np.empty((3, height, width), dtype=np.float32)
        for channel, table in enumerate(self._tables):
            np.take(table, pixels[:, :, channel], out=tensor[channel], mode="clip")
        return tensor

    def cut(self, picture: Picture, size: tuple[int, int] | None = None) -> Bytes:
        """Resize and crop an RGB picture: (height, width, 3) uint8, before rescaling and normalising.

        `size` is the width and height in pixels that the picture had before it was decoded at reduced size.
        """
        has = size_of(picture)
        box = self._middle(size or has) if self.reduced else None
        if box is None:
            return center_crop(np.asarray(self._resize(as_pillow(picture))), self.crop)
        across, down = (have / had for have, had in zip(has, size or has, strict=True))
        left, top, right, bottom = box
        scaled = left * across, top * down, right * across, bottom * down
        return self._resize_box(picture, scaled)

    def _resize_box(self, picture: Picture, box: tuple[float, float, float, float]) -> Bytes:
        """Resize what stands in a box to the size that comes out."""
        height, width = self.output_size
        shrinks = min((box[2] - box[0]) / width, (box[3] - box[1]) / height) >= _SHRUNK_BY_PRODUCTS
        if self.resample == Image.Resampling.BICUBIC and shrinks:
            return resize_bicubic(picture, box, (width, height))
        return np.asarray(as_pillow(picture).resize((width, height), Image.Resampling(self.resample), box=box))

    def _middle(self, size: tuple[int, int]) -> tuple[float, float, float, float] | None:
        """What of a picture of (width, height) survives the crop; None where the crop is larger than the picture.

        Left, top, right and bottom in pixels. Resizing only this is a quarter less work for a photo of 4:3.
        """
        width, height = size
        if self.exact_size is not None:
            return (0, 0, width, height) if self.crop is None else None
        edge, short = self.shortest_edge or 1, min(size)
        resized = [edge if side == short else int(edge * side / short) for side in size]
        cut = (self.crop or (edge, edge))[::-1]
        if cut[0] > resized[0] or cut[1] > resized[1]:
            return None
        left, top = ((have - keep) // 2 for have, keep in zip(resized, cut, strict=True))
        across, down = width / resized[0], height / resized[1]
        return left * across, top * down, (left + cut[0]) * across, (top + cut[1]) * down

    @cached_property
    def _tables(self) -> Pixels:
        """(3, 256) float32: every grey level rescaled and normalised, rounded where transformers rounds."""
        levels = (np.arange(256, dtype=np.float64) * self.rescale_factor).astype(np.float32)
        mean, std = np.array(self.mean, dtype=np.float32), np.array(self.std, dtype=np.float32)
        return (levels - mean[:, None]) / std[:, None]

    def _resize(self, picture: Image.Image) -> Image.Image:
        resample = Image.Resampling(self.resample)
        if self.exact_size is not None:
            return picture.resize((self.exact_size[1], self.exact_size[0]), resample)
        edge = self.shortest_edge or 1
        short, long = sorted(picture.size)
        new_long = int(edge * long / short)
        keep = max(self.crop or (new_long,))
        if long <= short * _LONGEST_FULL_RESIZE or keep >= new_long:
            size = (edge, new_long) if picture.width <= picture.height else (new_long, edge)
            return picture.resize(size, resample)
        return _resize_middle(picture, edge, (new_long, keep), resample)


def _resize_middle(
    picture: Image.Image, edge: int, lengths: tuple[int, int], resample: Image.Resampling
) -> Image.Image:
    """Resize as if the long side became `lengths[0]` pixels, making only the middle `lengths[1]` of them."""
    new_long, keep = lengths
    first = (new_long - keep) // 2
    scale = max(picture.size) / new_long
    start, end = first * scale, (first + keep) * scale
    if picture.width <= picture.height:
        return picture.resize((edge, keep), resample, box=(0, start, picture.width, end))
    return picture.resize((keep, edge), resample, box=(start, 0, end, picture.height))


def _is_siglip(settings: Mapping[str, Any]) -> bool:
    """Tell SigLIP's way (a bare size means a square, no crop) from CLIP's. Raises UnsupportedModel."""
    default = "CLIPImageProcessor"
    name = settings.get("image_processor_type") or settings.get("feature_extractor_type") or default
    for family in ("CLIP", "Siglip"):
        if name in {family + suffix for suffix in _SUFFIXES}:
            return family == "Siglip"
    raise UnsupportedModel(f"pictures for this model are prepared by {name}; only CLIP's and SigLIP's are known")


def _keys(size: Any) -> frozenset[str]:
    """Return the keys of a size that are set; newer transformers writes the unused ones as null."""
    return frozenset(key for key in size if size[key]) if isinstance(size, Mapping) else frozenset()


def _edge(size: Any) -> int:
    if isinstance(size, Mapping):
        if _keys(size) != {"shortest_edge"}:
            message = f"unknown size {dict(size)}"
            raise ValueError(message)
        return int(size["shortest_edge"])
    return int(size)


def _height_width(size: Any) -> tuple[int, int]:
    if isinstance(size, Mapping):
        return int(size["height"]), int(size["width"])
    return (int(size), int(size)) if isinstance(size, (int, float)) else (int(size[0]), int(size[1]))


def _three(values: Any) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in values)
    return red, green, blue
