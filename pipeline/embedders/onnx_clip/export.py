"""Exports a checkpoint once: both towers as ONNX graphs beside their weights. Needs no torch and no onnxruntime."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.embedders.checkpoint import Checkpoint
from pipeline.embedders.fingerprint import sha256_of_settings
from pipeline.embedders.onnx_clip.export_files import ExportedModel, ExportFiles, write_manifest
from pipeline.embedders.onnx_clip.precision import EXPORT_VERSION, Precision
from pipeline.embedders.onnx_clip.shape import ClipShape
from pipeline.embedders.onnx_clip.tensors import CheckpointTensors
from pipeline.preprocess import ClipPreprocessing

if TYPE_CHECKING:
    import onnx

    from pipeline.embedders.onnx_clip.graph import GraphBuilder
    from pipeline.embedders.onnx_clip.towers import TowerSource

VISION, TEXT = "vision.onnx", "text.onnx"


def exported_folder(checkpoint: Checkpoint, precision: Precision, files: ExportFiles) -> Path:
    """The folder of a checkpoint's export, made at first use; the next time it takes some milliseconds.

    Raises UnsupportedModel for what only torch can run, ModelError when it cannot be written.
    """
    shape = ClipShape.from_config(checkpoint.config)
    preprocessing = ClipPreprocessing.from_folder(checkpoint.folder)
    key = _key(files.weights_fingerprint(checkpoint), shape, preprocessing, precision)
    found = files.folder(key)
    if found is None:
        _export(checkpoint, (shape, preprocessing, precision), files, key)
        found = files.root / key
    return found


def _key(weights: str, shape: ClipShape, preprocessing: ClipPreprocessing, precision: Precision) -> str:
    """Everything that the graphs are made of. The pictures' size is no part of them, their normalisation is."""
    normalisation = preprocessing.mean, preprocessing.std, preprocessing.rescale_factor
    made_of = {
        "weights": weights,
        "shape": asdict(shape),
        "normalisation": normalisation,
        "precision": precision,
        "version": EXPORT_VERSION,
    }
    return sha256_of_settings(made_of)[:32]


def _export(
    checkpoint: Checkpoint, wanted: tuple[ClipShape, ClipPreprocessing, Precision], files: ExportFiles, key: str
) -> None:
    from pipeline.embedders.onnx_clip import towers  # imports onnx, which only an export needs

    shape, preprocessing, precision = wanted
    tensors = CheckpointTensors(checkpoint)
    tensors.check(towers.tensor_shapes(shape))
    source = towers.TowerSource(tensors, shape, preprocessing)
    with files.building(key) as folder:
        _write(folder / VISION, precision, source, towers.build_vision_tower)
        _write(folder / TEXT, precision, source, towers.build_text_tower)
        write_manifest(
            folder,
            ExportedModel(
                name=checkpoint.name,
                revision=checkpoint.revision,
                precision=precision,
                dimension=shape.dimension,
                export_version=EXPORT_VERSION,
                weights_fingerprint=files.weights_fingerprint(checkpoint),
                bytes=sum(path.stat().st_size for path in folder.iterdir()),
            ),
        )


def _write(
    path: Path,
    precision: Precision,
    source: TowerSource,
    build: Callable[[TowerSource, GraphBuilder], onnx.ModelProto],
) -> None:
    from pipeline.embedders.onnx_clip.graph import GraphBuilder

    with path.with_suffix(".weights").open("wb") as weights:
        model = build(source, GraphBuilder(precision, weights))
    path.write_bytes(model.SerializeToString())
