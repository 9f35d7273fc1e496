"""`baseline`: our own 512-d descriptor of colours and edges. No model, no download, no text; starts at once.

It finds edited copies and pictures of like colours; what a picture shows it does not know. The numbers:
384 colours of the whole picture (CIE Lab histogram, Swain and Ballard 1991), 64 colours of its middle, and 64
edge directions by place (histogram of oriented gradients, Dalal and Triggs 2005). All are square roots of
shares (Hellinger's kernel, Arandjelovic and Zisserman 2012), and a picture and its mirror image get the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from PIL import Image

from pipeline.decode import DECODE_VERSION
from pipeline.embedders.base import Pixels, ThreadUse, Vectors
from pipeline.embedders.fingerprint import sha256_of_settings
from pipeline.embedders.unit_length import unit_rows
from pipeline.errors import TextNotSupported
from storage.records import ModelIdentity
from storage.settings import allowed_threads

Array: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]

BASELINE_NAME = "baseline"
BASELINE_VERSION = 1  # raised with any change of the numbers: it is this model's weights fingerprint

_SIDE = 64  # pixels; more detail changes neither class precision nor near-duplicate recall
_COLOUR_BINS = (6, 8, 8)  # lightness, green-red, blue-yellow
_MIDDLE_BINS = (4, 4, 4)
_COLOUR_REACH = 50.0  # |a| and |b| from here on share the outermost bin: photos rarely go further
_MIDDLE_REACH = 40.0
_MIDDLE_SPREAD = 0.5  # standard deviation of the middle's Gaussian weight, in half sides
_CELLS, _DIRECTIONS = 4, 8
_EDGE_FLOOR = 1e-4  # keeps a plain picture's edge shares defined (and even)
# Shares of the squared length. Tuned on a set of 650 photos of clothes and groceries.
_WEIGHTS = {"colours": 1.0, "middle": 0.5, "edges": 0.3}

# sRGB (IEC 61966-2-1) to CIE XYZ relative to its white point D65
_TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
) / np.array([[0.95047], [1.0], [1.08883]])


class BaselineEmbedder:
    """Colours and edges of a 64 x 64 version of the picture; see `Embedder` for the promises."""

    def __init__(self) -> None:
        self._identity = ModelIdentity(
            name=BASELINE_NAME,
            revision="builtin",
            weights_fingerprint=hashlib.sha256(f"baseline {BASELINE_VERSION}".encode()).hexdigest(),
            preprocessing_fingerprint=sha256_of_settings({"decode": DECODE_VERSION, "side": _SIDE}),
            dimension=512,
        )
        reach = np.linspace(-1, 1, _SIDE)
        self._middle = np.exp(-(reach[:, None] ** 2 + reach**2) / (2 * _MIDDLE_SPREAD**2)).ravel()

    @property
    def identity(self) -> ModelIdentity:
        """The descriptor's version, in the form every model has."""
        return self._identity

    @property
    def batch_size(self) -> int:
        """How many pictures at once; more gain nothing, as each is described by itself."""
        return 32

    @property
    def thread_use(self) -> ThreadUse:
        """Describing is many small steps that hold the interpreter's lock: one call at once, while others decode."""
        return ThreadUse(decoding=allowed_threads(), calls=1, shared=True)

    def prepare(self, picture: Image.Image) -> Pixels:
        """Turn an RGB picture into (3, 64, 64) float32 CIE Lab. Safe to call from many threads."""
        small = picture.resize((_SIDE, _SIDE), Image.Resampling.BOX)
        return np.asarray(_to_lab(np.asarray(small)).transpose(2, 0, 1), dtype=np.float32, order="C")

    def embed_prepared(self, batch: Sequence[Pixels]) -> Vectors:
        """Describe prepared pictures: (n, 512) float32, unit length, in order, each row on its own."""
        rows = np.empty((len(batch), self._identity.dimension))
        for row, pixels in zip(rows, batch, strict=True):
            row[:] = self._describe(pixels.astype(np.float64))
        return unit_rows(rows)

    def embed_texts(self, texts: Sequence[str]) -> Vectors:  # noqa: ARG002 - the protocol's name
        """Refuse with TextNotSupported: colours and edges have no words."""
        raise TextNotSupported(
            "the model `baseline` knows colours and shapes but no words; search by image, or use a CLIP model"
        )

    def _describe(self, lab: Array) -> Array:
        parts = {
            "colours": _lab_histogram(lab, _COLOUR_BINS, _COLOUR_REACH, np.ones(_SIDE * _SIDE)),
            "middle": _lab_histogram(lab, _MIDDLE_BINS, _MIDDLE_REACH, self._middle),
            "edges": _edge_histogram(lab[0]),
        }
        return np.concatenate([np.sqrt(_WEIGHTS[name] * part / part.sum()) for name, part in parts.items()])


def _to_lab(rgb: np.ndarray[Any, np.dtype[np.uint8]]) -> Array:
    """Convert (h, w, 3) sRGB bytes to CIE Lab: lightness 0 to 100, a and b about -100 to 100."""
    levels = np.arange(256) / 255
    linear = np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)
    xyz = linear[rgb] @ _TO_XYZ.T
    root = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    x, y, z = root[..., 0], root[..., 1], root[..., 2]
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def _lab_histogram(lab: Array, bins: tuple[int, int, int], reach: float, weights: Array) -> Array:
    """Count (3, h, w) colours into bins, each split over 8 neighbours so that small shifts change little."""
    lightness, green_red, blue_yellow = lab.reshape(3, -1)
    shares = [lightness / 100, (green_red / reach + 1) / 2, (blue_yellow / reach + 1) / 2]
    axes = [_split(np.clip(share, 0, 1) * (count - 1), count) for share, count in zip(shares, bins, strict=True)]
    histogram = np.zeros(bins[0] * bins[1] * bins[2])
    for light_bin, light_part in axes[0]:
        for red_bin, red_part in axes[1]:
            for yellow_bin, yellow_part in axes[2]:
                places = (light_bin * bins[1] + red_bin) * bins[2] + yellow_bin
                parts = weights * light_part * red_part * yellow_part
                histogram += np.bincount(places, parts, len(histogram))
    return histogram


def _split(position: Array, count: int) -> tuple[tuple[Any, Array], tuple[Any, Array]]:
    """Give the two bins on each side of a position between 0 and count - 1, with their parts (linear)."""
    low = np.minimum(position.astype(np.intp), count - 2)
    part = position - low
    return (low, 1 - part), (low + 1, part)


def _edge_histogram(lightness: Array) -> Array:
    """Sum gradient lengths by cell and direction, each cell with its mirrored partner: (4 x 2 x 8,)."""
    across, down = np.zeros_like(lightness), np.zeros_like(lightness)
    across[:, 1:-1] = lightness[:, 2:] - lightness[:, :-2]
    down[1:-1] = lightness[2:] - lightness[:-2]
    length = np.hypot(across, down).ravel()
    turn = np.mod(np.arctan2(down, across) / np.pi, 1.0).ravel() * _DIRECTIONS
    low = np.minimum(turn.astype(np.intp), _DIRECTIONS - 1)
    part = turn - low
    line = np.arange(_SIDE) * _CELLS // _SIDE
    cell = (line[:, None] * _CELLS + line).ravel() * _DIRECTIONS
    size = _CELLS * _CELLS * _DIRECTIONS
    sums = np.bincount(cell + low, length * (1 - part), size)
    sums += np.bincount(cell + (low + 1) % _DIRECTIONS, length * part, size)
    cells = sums.reshape(_CELLS, _CELLS, _DIRECTIONS)
    mirrored = cells[:, ::-1, -np.arange(_DIRECTIONS) % _DIRECTIONS]
    both = (cells + mirrored)[:, : _CELLS // 2].ravel()
    return np.asarray(both + _EDGE_FLOOR * (both.mean() + 1))
