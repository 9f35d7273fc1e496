"""Cropping, and antialiased bicubic resizing as Pillow does it, by matrix products in half the time.

Pillow adds up pixel by pixel; here some rows of the result are one product of their weights with the rows that they
are made of, so that the processor's vector units do it. Weights are whole multiples of 2^-15 and pixels are bytes:
every sum fits into a float32 without rounding, so that each BLAS on each processor gives the same bytes, whatever
order it adds in. Pillow resizes across first, this down first; both round to bytes in between, and so one number in
five or six differs from Pillow's by a grey level, at sharp edges by up to three.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, TypeAlias

import numpy as np

from pipeline.pictures import Bytes, Picture, cut_out, size_of
from storage.block_search import blas_threads

Floats: TypeAlias = np.ndarray[Any, np.dtype[np.float32]]

_REACH = 2.0  # of the bicubic filter to either side, in pixels of the smaller of both pictures
_SHARPNESS = -0.5  # the `a` of R. Keys, "Cubic convolution interpolation", 1981; Pillow's
_UNIT = 2**15  # the weights of one pixel of the result; a sum stays below 2 * 255 * 2^15 < 2^24
_OUT_DOWN, _OUT_ACROSS = 8, 5  # pixels of the result made by one product: more multiply more zeros
_CHANNELS = 3
_STEPS_DOWN = 4  # whose bytes become numbers at once: some 500 KB, which the cache holds
_MOST_KEPT = 1_000_000  # numbers in one piece of a thread's memory: enough for any JPEG that comes at reduced size
_REMEMBERED = 64  # sizes of pictures whose weights are kept, some 100 KB each


@dataclass(frozen=True)
class _Step:
    """Numbers `first` to `stop` of a row that is made of numbers `begin` to `end`, by (end - begin, stop - first)."""

    first: int
    stop: int
    begin: int
    end: int
    weights: Floats


def resize_bicubic(picture: Picture, box: tuple[float, float, float, float], size: tuple[int, int]) -> Bytes:
    """Make of a box (left, top, right, bottom in pixels) of an RGB picture one of (width, height) pixels.

    The result is (height, width, 3). As with Pillow's `resize(box=)`, pixels beside the box count at its edges.
    """
    left, top, right, bottom = box
    width, height = size_of(picture)
    down = _steps(height, (top, bottom), size[1], 1)
    across = _steps(width, (left, right), size[0], _CHANNELS)
    first, last = across[0].begin // _CHANNELS, across[-1].end // _CHANNELS
    rows = _memory().numbers("rows", size[1], (last - first) * _CHANNELS)
    with blas_threads().one_each():  # the products are small, and pictures are resized on many threads at once
        for start in range(0, len(down), _STEPS_DOWN):
            some = down[start : start + _STEPS_DOWN]
            _down(cut_out(picture, (first, some[0].begin, last, some[-1].end)), some, rows)
        made = _across(_to_levels(rows), across)
    return made.reshape(size[1], size[0], _CHANNELS)


def center_crop(pixels: Bytes, crop: tuple[int, int] | None) -> Bytes:
    """Cut the middle out of (height, width, 3); a picture smaller than the crop is padded with black."""
    if crop is None:
        return pixels
    height, width, _ = pixels.shape
    pad_y, pad_x = max(crop[0] - height, 0), max(crop[1] - width, 0)
    if pad_y or pad_x:  # the extra pixel of an odd difference goes to the top and left, as in transformers
        before_y, before_x = (pad_y + 1) // 2, (pad_x + 1) // 2
        pixels = np.pad(pixels, ((before_y, pad_y - before_y), (before_x, pad_x - before_x), (0, 0)))
        height, width, _ = pixels.shape
    top, left = (height - crop[0]) // 2, (width - crop[1]) // 2
    return pixels[top : top + crop[0], left : left + crop[1]]


def _down(strip: Bytes, steps: Sequence[_Step], rows: Floats) -> None:
    """Make some rows of the result out of theirs, still as wide as these, in their place among all rows."""
    top, source = steps[0].begin, _memory().numbers("source", len(strip), rows.shape[1])
    source.reshape(strip.shape)[:] = strip
    for step in steps:
        np.matmul(step.weights.T, source[step.begin - top : step.end - top], out=rows[step.first : step.stop])


def _across(rows: Floats, steps: Sequence[_Step]) -> Bytes:
    """Make rows of their final width: (rows, width * 3)."""
    made, offset = _memory().numbers("made", len(rows), steps[-1].stop), steps[0].begin
    for step in steps:
        among = rows[:, step.begin - offset : step.end - offset]
        np.matmul(among, step.weights, out=made[:, step.first : step.stop])
    return _to_levels(made).astype(np.uint8)


def _to_levels(values: Floats) -> Floats:
    """Round to whole numbers from 0 to 255, in place."""
    np.rint(values, out=values)
    return np.clip(values, 0, 255, out=values)


class _Memory(threading.local):
    """What a thread works in, used again for each picture: to get new memory takes as long as all products.

    Three pieces of at most 4 MB each; whoever needs a larger one gets it for this once.
    """

    def __init__(self) -> None:
        self._kept: dict[str, Floats] = {}

    def numbers(self, piece: str, height: int, width: int) -> Floats:
        """(height, width) of whatever numbers, until the thread asks for this piece again."""
        count = height * width
        if count > _MOST_KEPT:
            return np.empty((height, width), dtype=np.float32)
        if piece not in self._kept or self._kept[piece].size < count:
            self._kept[piece] = np.empty(count, dtype=np.float32)
        return self._kept[piece][:count].reshape(height, width)


@cache
def _memory() -> _Memory:
    return _Memory()


@lru_cache(_REMEMBERED)
def _steps(length: int, span: tuple[float, float], made: int, channels: int) -> tuple[_Step, ...]:
    """The products that turn a span of so many pixels in a row into `made` ones; channels lie side by side."""
    firsts, taps = _taps(length, span, made)
    at_once = _OUT_DOWN if channels == 1 else _OUT_ACROSS
    owners, within = np.divmod(np.arange(made), at_once)
    begins = firsts[::at_once]
    lags = firsts - begins[owners]
    window = int(lags.max()) + taps.shape[1]
    weights = np.zeros((len(begins), window, channels, at_once, channels), dtype=np.float32)
    sources = lags[:, None] + np.arange(taps.shape[1])
    for channel in range(channels):
        weights[owners[:, None], sources, channel, within[:, None], channel] = taps
    return tuple(
        _Step(
            first=number * at_once * channels,
            stop=min((number + 1) * at_once, made) * channels,
            begin=begin * channels,
            end=min(begin + window, length) * channels,
            weights=_cut(weights[number], min(window, length - begin), min(at_once, made - number * at_once)),
        )
        for number, begin in enumerate(begins.tolist())
    )


def _cut(weights: Floats, into: int, out: int) -> Floats:
    """What is used of the weights (from, channels, to, channels) as a matrix; behind it are zeros."""
    return np.ascontiguousarray(weights[:into, :, :out]).reshape(into * weights.shape[1], -1)


def _taps(length: int, span: tuple[float, float], made: int) -> tuple[np.ndarray[Any, np.dtype[np.int64]], Floats]:
    """For each pixel made: the first that it is made of, and the weights from there on; each row's sum is 1.

    As Pillow's `precompute_coeffs` (src/libImaging/Resample.c) places them.
    """
    scale = (span[1] - span[0]) / made
    stretch = max(scale, 1.0)
    centres = span[0] + (np.arange(made) + 0.5) * scale
    firsts = np.maximum((centres - _REACH * stretch + 0.5).astype(np.int64), 0)
    stops = np.minimum((centres + _REACH * stretch + 0.5).astype(np.int64), length)
    places = firsts[:, None] + np.arange(int((stops - firsts).max()))
    weights = np.where(places < stops[:, None], _cubic(np.abs(places - centres[:, None] + 0.5) / stretch), 0.0)
    weights = np.rint(weights / weights.sum(axis=1, keepdims=True) * _UNIT)
    rows = np.arange(made)
    weights[rows, weights.argmax(axis=1)] += _UNIT - weights.sum(axis=1)
    return firsts, (weights / _UNIT).astype(np.float32)


def _cubic(x: np.ndarray[Any, np.dtype[np.float64]]) -> np.ndarray[Any, np.dtype[np.float64]]:
    a = _SHARPNESS
    near, far = ((a + 2) * x - (a + 3)) * x * x + 1, (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, near, np.where(x < _REACH, far, 0.0))
