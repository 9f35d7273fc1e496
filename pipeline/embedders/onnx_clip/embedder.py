"""CLIP through onnxruntime: pictures and texts to vectors, on the CPU. The only file that runs an ONNX model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image

from pipeline.embedders.base import Pixels, ThreadUse, Vectors
from pipeline.embedders.checkpoint import Checkpoint
from pipeline.embedders.inputs import inputs_fingerprint
from pipeline.embedders.onnx_clip.export import TEXT, VISION, exported_folder
from pipeline.embedders.onnx_clip.export_files import ExportFiles
from pipeline.embedders.onnx_clip.precision import Precision, marked_revision, marked_weights
from pipeline.embedders.onnx_clip.shape import ClipShape
from pipeline.embedders.onnx_clip.tokens import ClipTokens
from pipeline.embedders.options import Weights
from pipeline.embedders.unit_length import unit_rows
from pipeline.errors import ModelError, UnsupportedModel
from pipeline.pictures import Picture
from pipeline.preprocess import ClipPreprocessing
from storage.records import ModelIdentity
from storage.settings import allowed_threads

_BATCH_SIZE = 8  # measured: 8 to 16 is best on CPUs, more only waits longer
_ERRORS_ONLY = 3


@dataclass(frozen=True)
class OnnxOptions:
    """How the model runs; `threads` None takes what the machine and OMP_NUM_THREADS allow.

    In int8 weights are always packed: other products differ in the last bit, and rounding to bytes would show it.
    """

    precision: Precision = "fp32"
    batch_size: int | None = None
    threads: int | None = None
    weights: Weights = "packed"

    @property
    def packed(self) -> bool:
        """Whether a session makes its own copy of the weights when it is opened."""
        return self.weights == "packed" or self.precision == "int8"


class OnnxClipEmbedder:
    """A CLIP checkpoint exported to ONNX; see `Embedder` for the promises.

    In fp32 its identity is that of `ClipEmbedder`: they differ by rounding, as two CPUs do (some 1e-7 in
    a vector's numbers).
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        preprocessing: ClipPreprocessing,
        options: OnnxOptions | None = None,
        files: ExportFiles | None = None,
    ) -> None:
        self._options, files = options or OnnxOptions(), files or ExportFiles()
        self._checkpoint, self._preprocessing = checkpoint, preprocessing
        self._shape = ClipShape.from_config(checkpoint.config)
        if preprocessing.output_size != (self._shape.side, self._shape.side):
            raise UnsupportedModel(
                f"{checkpoint.name} takes pictures of {self._shape.side} x {self._shape.side} pixels, "
                f"its preprocessing makes {preprocessing.output_size}"
            )
        self._threads = self._options.threads or allowed_threads()
        self._visions: dict[int, onnxruntime.InferenceSession] = {}
        self._opening = Lock()
        self._tokens = ClipTokens(checkpoint, self._shape.context)
        precision = self._options.precision
        self.folder = exported_folder(checkpoint, precision, files)
        self._identity = ModelIdentity(
            name=checkpoint.name,
            revision=marked_revision(checkpoint.revision, precision),
            weights_fingerprint=marked_weights(files.weights_fingerprint(checkpoint), precision),
            preprocessing_fingerprint=inputs_fingerprint(checkpoint, preprocessing),
            dimension=self._shape.dimension,
        )

    @property
    def identity(self) -> ModelIdentity:
        """Which model this is; the revision of an int8 model ends with `+int8`."""
        return self._identity

    @property
    def batch_size(self) -> int:
        """How many pictures go through the model at once."""
        return self._options.batch_size or _BATCH_SIZE

    def prepare(self, picture: Image.Image) -> Pixels:
        """Turn an RGB picture into (height, width, 3) uint8, e.g. (224, 224, 3): the graph does the rest."""
        return self._preprocessing.cut(picture)

    @property
    def decode_at_least(self) -> tuple[int, int] | None:
        """See `TakesReducedPictures`."""
        return self._preprocessing.decode_at_least

    def prepare_reduced(self, picture: Picture, size: tuple[int, int]) -> Pixels:
        """See `TakesReducedPictures`."""
        return self._preprocessing.cut(picture, size)

    def embed_prepared(self, batch: Sequence[Pixels]) -> Vectors:
        """Embed prepared pictures, `batch_size` at a time: (n, dimension) float32, unit length, in order."""
        return self._in_batches(batch, partial(self._embed_pixels, threads=self._threads))

    @property
    def thread_use(self) -> ThreadUse:
        """Decoding and the model take turns on the same threads: measured, it beats one call spread over all cores."""
        return ThreadUse(decoding=self._threads, calls=self._threads, shared=True)

    def embed_on_calling_thread(self, batch: Sequence[Pixels]) -> Vectors:
        """See `ComputesOnCallingThread`; onnxruntime runs one session for many callers at once."""
        return self._in_batches(batch, partial(self._embed_pixels, threads=1))

    def embed_texts(self, texts: Sequence[str]) -> Vectors:
        """Embed texts: (n, dimension) float32, unit length. Longer ones are cut to the model's context.

        Texts of like length go together, so that hardly any padding is computed. Raises InvalidQuery for an empty text.
        """
        ids = self._tokens.encode(texts)
        by_length = sorted(range(len(ids)), key=lambda number: len(ids[number]))
        vectors = self._in_batches([ids[number] for number in by_length], self._embed_ids)
        in_order = np.empty_like(vectors)
        in_order[by_length] = vectors
        return in_order

    def _in_batches(self, inputs: Sequence[Any], embed: Callable[[Sequence[Any]], Vectors]) -> Vectors:
        starts = range(0, len(inputs), self.batch_size)
        parts = [embed(inputs[start : start + self.batch_size]) for start in starts]
        return unit_rows(np.concatenate([np.empty((0, self._identity.dimension), np.float32), *parts]))

    def _embed_pixels(self, batch: Sequence[Pixels], threads: int) -> Vectors:
        return _run(self._vision(threads), {"pixels": np.stack(batch)})

    def _embed_ids(self, batch: Sequence[list[int]]) -> Vectors:
        """Pad behind the texts: CLIP looks backwards only, so that what follows a text's end changes nothing."""
        ids = np.zeros((len(batch), max(map(len, batch))), dtype=np.int64)
        for row, tokens in zip(ids, batch, strict=True):
            row[: len(tokens)] = tokens
            row[len(tokens) :] = tokens[-1]
        return _run(self._text, {"ids": ids, "ends": self._shape.text_ends(ids)})

    def _vision(self, threads: int) -> onnxruntime.InferenceSession:
        """The session that computes on so many threads; opened at first use, once, whoever asks at the same time."""
        with self._opening:
            if threads not in self._visions:
                self._visions[threads] = _open(self.folder / VISION, threads, packed=self._options.packed)
            return self._visions[threads]

    @cached_property
    def _text(self) -> onnxruntime.InferenceSession:
        """Opened at the first text: who indexes pictures needs none."""
        return _open(self.folder / TEXT, self._threads, packed=self._options.packed)


def _run(session: onnxruntime.InferenceSession, inputs: dict[str, Any]) -> Vectors:
    try:
        (vectors,) = session.run(None, inputs)
    except Exception as error:  # its own kinds are not public; what is asked is the same every time
        raise ModelError(f"onnxruntime cannot run this batch: {error}; try a smaller batch size") from error
    return np.asarray(vectors)


def _open(path: Path, threads: int, *, packed: bool) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _ERRORS_ONLY
    if not packed:
        options.add_session_config_entry("session.disable_prepacking", "1")
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # as above: a damaged file, or an onnxruntime that is too old
        raise ModelError(
            f"onnxruntime {onnxruntime.__version__} cannot open {path} ({error}); remove that folder, or choose "
            "backend = torch"
        ) from error
