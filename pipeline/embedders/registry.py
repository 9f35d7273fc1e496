"""Names to embedders. Imports torch only when a model needs it, so that all others start at once."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING

from pipeline.embedders.base import Embedder
from pipeline.embedders.baseline import BASELINE_NAME, BaselineEmbedder
from pipeline.embedders.checkpoint import Checkpoint, find_checkpoint
from pipeline.embedders.gpu_signs import may_have_gpu
from pipeline.embedders.inputs import check_family, inputs_fingerprint
from pipeline.embedders.onnx_clip.shape import ClipShape
from pipeline.embedders.options import Backend, Decoding, EmbedderOptions, Weights
from pipeline.errors import ModelError, UnsupportedModel
from pipeline.preprocess import ClipPreprocessing
from storage.records import ModelIdentity

if TYPE_CHECKING:
    from pipeline.embedders.onnx_clip.embedder import OnnxClipEmbedder


def load_embedder(  # noqa: PLR0913 - flat keyword arguments with defaults, as the library's front door has them
    name: str,
    *,
    device: str = "auto",
    dtype: str = "auto",
    batch_size: int | None = None,
    backend: Backend = "auto",
    decoding: Decoding = "reduced",
    like: ModelIdentity | None = None,
    weights: Weights = "packed",
) -> Embedder:
    """Load `baseline` (by exactly this name) or a CLIP-family model by hub name or folder.

    With `like`, precision and decoding are those that made its vectors, whatever else is asked for. Weights that are
    only mapped suit whoever embeds one picture and ends; only onnx in float32 knows the difference. Nothing is ever
    put in place of a model that cannot be had: see `ClipEmbedder.load` for the errors. Raises ModelError besides for a
    backend that cannot run here, and for a new int8 model whose fidelity was not measured or is too low.
    """
    if name == BASELINE_NAME:
        return BaselineEmbedder()
    options = EmbedderOptions(device, dtype, batch_size, backend, decoding, like, weights)
    checkpoint = find_checkpoint(name)
    check_family(checkpoint)
    preprocessing = _preprocessing(checkpoint, options)
    if _takes_onnx(checkpoint, options):
        return _load_onnx(checkpoint, preprocessing, options)
    from pipeline.embedders.clip import ClipEmbedder

    return ClipEmbedder.of_checkpoint(checkpoint, preprocessing, device=device, dtype=dtype, batch_size=batch_size)


def load_both(name: str) -> tuple[OnnxClipEmbedder, OnnxClipEmbedder]:
    """Load a model in float32 and in int8, both through onnxruntime, to be compared; the errors of `load_embedder`."""
    checkpoint = find_checkpoint(name)
    check_family(checkpoint)
    options = EmbedderOptions(backend="onnx")
    _check_onnx(checkpoint, options, _missing_packages())
    preprocessing = _preprocessing(checkpoint, options)
    from pipeline.embedders.onnx_clip.embedder import OnnxClipEmbedder, OnnxOptions

    return (
        OnnxClipEmbedder(checkpoint, preprocessing, OnnxOptions("fp32")),
        OnnxClipEmbedder(checkpoint, preprocessing, OnnxOptions("int8")),
    )


def _missing_packages() -> list[str]:
    return [package for package in ("onnxruntime", "onnx") if find_spec(package) is None]


def _preprocessing(checkpoint: Checkpoint, options: EmbedderOptions) -> ClipPreprocessing:
    """The way that made the vectors of `like`; without, or when it was neither of ours, the way that is asked for."""
    full = ClipPreprocessing.from_folder(checkpoint.folder)
    reduced = replace(full, reduced=True)
    if options.like is not None:
        recorded = options.like.preprocessing_fingerprint
        return reduced if inputs_fingerprint(checkpoint, reduced) == recorded else full
    return reduced if options.decoding == "reduced" else full


def _takes_onnx(checkpoint: Checkpoint, options: EmbedderOptions) -> bool:
    """Whether onnxruntime is to run it: when that is asked for, and by itself for CLIP in float32 on a CPU."""
    named = options.backend if options.precision == "fp32" or options.backend == "torch" else "onnx-int8"
    if named == "torch":
        if options.precision == "int8":
            raise ModelError("these vectors were made by onnx-int8, which torch cannot compute; leave the backend out")
        return False
    missing = _missing_packages()
    if options.precision == "int8" or options.backend == "onnx":
        _check_onnx(checkpoint, options, missing)
        return True
    if missing or options.dtype not in ("auto", "float32") or not _is_known(checkpoint):
        return False
    return options.device == "cpu" or (options.device == "auto" and not _finds_gpu())


def _check_onnx(checkpoint: Checkpoint, options: EmbedderOptions, missing: list[str]) -> None:
    """Raise where onnxruntime was asked for and cannot be had, or was asked for what only torch does."""
    if missing:
        raise ModelError(f"the backend onnx needs {' and '.join(missing)}: pip install {' '.join(missing)}")
    if options.device not in ("auto", "cpu") or options.dtype not in ("auto", "float32"):
        raise ModelError(
            f"the backend onnx runs on the CPU in float32 or int8, not on {options.device!r} in {options.dtype!r}; "
            "choose auto, or backend = torch"
        )
    if checkpoint.config.get("model_type") != "clip":
        raise UnsupportedModel(f"{checkpoint.name} is no CLIP model: only torch runs it; choose backend = auto")


def _is_known(checkpoint: Checkpoint) -> bool:
    if checkpoint.config.get("model_type") != "clip":
        return False
    try:
        ClipShape.from_config(checkpoint.config)
    except UnsupportedModel:
        return False
    return True


def _finds_gpu() -> bool:
    if not may_have_gpu():
        return False
    from pipeline.embedders.device import choose_device

    return choose_device("auto").type != "cpu"


def _load_onnx(checkpoint: Checkpoint, preprocessing: ClipPreprocessing, options: EmbedderOptions) -> Embedder:
    from pipeline.embedders.onnx_clip.embedder import OnnxClipEmbedder, OnnxOptions
    from pipeline.embedders.onnx_clip.fidelity import check_fidelity

    embedder = OnnxClipEmbedder(
        checkpoint, preprocessing, OnnxOptions(options.precision, options.batch_size, weights=options.weights)
    )
    if options.precision == "int8" and options.like is None:
        check_fidelity(embedder.folder, checkpoint.name)
    return embedder
