"""CLIP-family models through transformers and torch: pictures and texts to vectors in one space.

The only file that runs a torch model (`cuda.py` feeds it on a GPU). Importing it imports torch, so the registry does
so only when needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from safetensors import SafetensorError
from transformers.utils import logging as transformers_logging

from pipeline.embedders.base import Pixels, ThreadUse, Vectors
from pipeline.embedders.checkpoint import Checkpoint, find_checkpoint
from pipeline.embedders.cuda import CALLS, CudaLanes, batch_size_now
from pipeline.embedders.device import choose_device, choose_dtype, natural_batch_size
from pipeline.embedders.fingerprint import sha256_of_files
from pipeline.embedders.inputs import MODEL_CLASSES, check_family, inputs_fingerprint
from pipeline.embedders.memory_batches import HalvingBatches
from pipeline.embedders.texts import TextTokens
from pipeline.embedders.unit_length import unit_rows
from pipeline.errors import ModelError, UnsupportedModel
from pipeline.pictures import Picture
from pipeline.preprocess import ClipPreprocessing
from storage.records import ModelIdentity
from storage.settings import DEFAULT_MODEL, allowed_threads


@dataclass(frozen=True)
class TorchPlace:
    """Where the model runs, and in which number type."""

    device: torch.device
    dtype: torch.dtype


class ClipEmbedder:
    """A CLIP or SigLIP checkpoint with its preprocessing and tokenizer; see `Embedder` for the promises.

    The dtype is no part of the identity: a GPU's float16 vectors may be searched with a CPU's float32 query.
    """

    def __init__(
        self, checkpoint: Checkpoint, preprocessing: ClipPreprocessing, place: TorchPlace, batch_size: int | None
    ) -> None:
        """Load it; without a batch size it is the device's: on a GPU by the memory that is free then."""
        self._preprocessing = preprocessing
        device, dtype = place.device, place.dtype
        with ThreadPoolExecutor(max_workers=1) as pool:  # hashing hides behind building the model
            weights_fingerprint = pool.submit(sha256_of_files, checkpoint.weight_files)
            self._model = _load_model(checkpoint).to(device=device, dtype=dtype).eval()
        self._tokens = TextTokens(checkpoint, self._model.config.text_config.max_position_embeddings)
        self._device, self._dtype = device, dtype
        self._lanes = CudaLanes(device, dtype) if device.type == "cuda" else None
        size = batch_size or _natural_batch_size(place, self._model.config.vision_config)
        self._batches = HalvingBatches(size, torch.OutOfMemoryError, self._forget)
        self._identity = ModelIdentity(
            name=checkpoint.name,
            revision=checkpoint.revision,
            weights_fingerprint=weights_fingerprint.result(),
            preprocessing_fingerprint=inputs_fingerprint(checkpoint, self._preprocessing),
            dimension=_dimension(self._model.config),
        )

    @classmethod
    def load(
        cls,
        name: str = DEFAULT_MODEL,
        *,
        revision: str | None = None,
        device: str = "auto",
        dtype: str = "auto",
        batch_size: int | None = None,
    ) -> ClipEmbedder:
        """Load a hub name or a folder; device: auto, cpu, cuda, mps; dtype: auto, float32, float16, bfloat16.

        Raises ModelUnavailable when it cannot be had, UnsupportedModel when it is not of this family or has no
        safetensors weights, ModelError for a device or dtype that is not there.
        """
        checkpoint = find_checkpoint(name, revision)
        check_family(checkpoint)
        preprocessing = ClipPreprocessing.from_folder(checkpoint.folder)
        return cls.of_checkpoint(checkpoint, preprocessing, device=device, dtype=dtype, batch_size=batch_size)

    @classmethod
    def of_checkpoint(
        cls,
        checkpoint: Checkpoint,
        preprocessing: ClipPreprocessing,
        *,
        device: str,
        dtype: str,
        batch_size: int | None,
    ) -> ClipEmbedder:
        """Load what was found, with the way of preprocessing that is wanted; otherwise as `load`."""
        where = choose_device(device)
        place = TorchPlace(where, choose_dtype(dtype, where))
        return cls(checkpoint, preprocessing, place, batch_size)

    @property
    def identity(self) -> ModelIdentity:
        """Which model this is; the name is the hub's, or the folder's absolute path."""
        return self._identity

    @property
    def batch_size(self) -> int:
        """How many pictures go through the model at once; fewer than before, once that was too many for the device."""
        return self._batches.size

    @property
    def thread_use(self) -> ThreadUse:
        """On a GPU all cores decode. On a CPU torch has all of them, and a decoding thread besides that seldom runs."""
        if self._device.type == "cpu":
            return ThreadUse(decoding=1, shared=allowed_threads() == 1)
        return ThreadUse(decoding=allowed_threads(), calls=1 if self._lanes is None else CALLS)

    def prepare(self, picture: Image.Image) -> Pixels:
        """Turn an RGB picture into (3, height, width) float32, e.g. (3, 224, 224). Safe on many threads."""
        return self._preprocessing.apply(picture)

    @property
    def decode_at_least(self) -> tuple[int, int] | None:
        """See `TakesReducedPictures`."""
        return self._preprocessing.decode_at_least

    def prepare_reduced(self, picture: Picture, size: tuple[int, int]) -> Pixels:
        """See `TakesReducedPictures`."""
        return self._preprocessing.apply(picture, size)

    def embed_prepared(self, batch: Sequence[Pixels]) -> Vectors:
        """Embed prepared pictures, `batch_size` at a time: (n, dimension) float32, unit length, in order.

        A batch that does not fit into the device's memory is halved. Raises ModelError when not even one picture fits,
        and when the model gives no finite vector.
        """
        return self._in_batches(batch, self._embed_pixels)

    def embed_texts(self, texts: Sequence[str]) -> Vectors:
        """Embed texts: (n, dimension) float32, unit length. Longer ones are cut to the model's context.

        Raises InvalidQuery for an empty text.
        """
        return self._in_batches(texts, self._embed_tokens)

    def _in_batches(self, inputs: Sequence[Any], embed: Callable[[Sequence[Any]], Pixels]) -> Vectors:
        try:
            with torch.inference_mode():
                parts = self._batches.run(embed, inputs)
        except torch.OutOfMemoryError as error:
            raise ModelError(f"{self._device} is out of memory; use a smaller batch size ({error})") from error
        return unit_rows(np.concatenate([np.empty((0, self._identity.dimension), np.float32), *parts]))

    def _embed_pixels(self, batch: Sequence[Pixels]) -> Pixels:
        if self._lanes is not None:
            return self._lanes.run(batch, self._features_of_pixels)
        pixels = torch.from_numpy(np.stack(batch)).to(device=self._device, dtype=self._dtype)
        return _on_host(self._features_of_pixels(pixels))

    def _features_of_pixels(self, pixels: torch.Tensor) -> torch.Tensor:
        return _features(self._model.get_image_features(pixel_values=pixels))

    def _embed_tokens(self, texts: Sequence[str]) -> Pixels:
        tokens = {name: ids.to(self._device) for name, ids in self._tokens.encode(texts).items()}
        return _on_host(_features(self._model.get_text_features(**tokens)))

    def _forget(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.empty_cache()


def _features(output: Any) -> torch.Tensor:
    """Take (n, dimension) out of what the model returned: transformers 4 gives a tensor, 5 an output object."""
    features: torch.Tensor = output if isinstance(output, torch.Tensor) else output.pooler_output
    return features


def _on_host(features: torch.Tensor) -> Pixels:
    array: Pixels = features.float().cpu().numpy()
    return array


def _natural_batch_size(place: TorchPlace, vision_config: Any) -> int:
    if place.device.type == "cuda":
        return batch_size_now(place.device, vision_config, place.dtype)
    return natural_batch_size(place.device)


def _load_model(checkpoint: Checkpoint) -> Any:
    model_class = getattr(transformers, MODEL_CLASSES[checkpoint.config["model_type"]])
    try:
        with _quiet_loading():
            model, report = model_class.from_pretrained(
                str(checkpoint.folder), use_safetensors=True, local_files_only=True, output_loading_info=True
            )
    except SafetensorError as error:
        raise UnsupportedModel(f"the weights of {checkpoint.name} are damaged: {error}") from error
    except (
        OSError,
        ValueError,
        TypeError,
        RuntimeError,
    ) as error:  # wrong shapes, wrong or partial configuration
        raise UnsupportedModel(f"{checkpoint.name} cannot be loaded: {error}") from error
    if report["missing_keys"]:  # transformers fills these with random numbers and only warns
        missing = ", ".join(sorted(report["missing_keys"])[:3])
        raise UnsupportedModel(f"the weights of {checkpoint.name} lack parts of both towers: {missing}, …")
    return model


@contextmanager
def _quiet_loading() -> Iterator[None]:
    """Keep transformers from drawing a progress bar and a report on loading; restores its settings afterwards."""
    verbosity, bar = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bar:
            transformers_logging.enable_progress_bar()


def _dimension(config: Any) -> int:
    if config.model_type == "clip":
        return int(config.projection_dim)
    text, vision = config.text_config.projection_size, config.vision_config.hidden_size
    if text != vision:
        raise UnsupportedModel(f"pictures ({vision}-d) and texts ({text}-d) do not meet in one space")
    return int(vision)
