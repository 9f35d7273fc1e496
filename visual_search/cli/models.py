"""`visual-search models`: exports models for onnxruntime, lists the exports, and measures int8 on your own pictures."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.embedders.base import Embedder
from pipeline.embedders.onnx_clip.export_files import ExportFiles
from pipeline.embedders.onnx_clip.fidelity import (
    PROBING_TEXTS,
    FidelityReport,
    compare,
    read_report,
    write_report,
)
from pipeline.embedders.registry import load_both
from pipeline.embedding_service import EmbeddingService
from pipeline.errors import DecodeError, InvalidQuery
from storage.settings import DEFAULT_MODEL
from visual_search.cli.options import AsJson
from visual_search.cli.output import console, print_json, print_table

_SEED = 20  # the same pictures each time that the folder is the same
_PICTURES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif"}

app = typer.Typer(help="Prepare models for onnxruntime, and see what is prepared.", no_args_is_help=True)

ModelName = Annotated[str, typer.Argument(help="Hub name or folder of a CLIP checkpoint.")]
Images = Annotated[
    Path | None,
    typer.Option("--images", exists=True, file_okay=False, help="Folder of your own pictures to measure int8 on."),
]
Sample = Annotated[int, typer.Option(min=50, max=5000, help="How many of the pictures are taken, by chance.")]


class OnnxBackend(str, Enum):
    """What a model is exported for."""

    ONNX = "onnx"
    ONNX_INT8 = "onnx-int8"


@app.command("prepare", epilog="`visual-search models prepare --backend onnx-int8 --images ~/Pictures`")
def prepare(  # noqa: PLR0913 - each parameter is an option of the command
    model: ModelName = DEFAULT_MODEL,
    *,
    backend: Annotated[OnnxBackend, typer.Option(help="float32, or 8-bit integers.")] = OnnxBackend.ONNX,
    images: Images = None,
    sample: Sample = 500,
    accept: Annotated[bool, typer.Option("--accept", help="Allow int8 although it is below the floors.")] = False,
    as_json: AsJson = False,
) -> None:
    """Export a model once, so that the first search need not wait; for int8, measure how true it is."""
    if backend is OnnxBackend.ONNX:
        exact = EmbeddingService(model, device="cpu", backend="onnx")
        _show({"model": str(exact.identity), "backend": backend.value}, as_json=as_json)
        return
    if images is None:
        raise InvalidQuery("int8 is measured on your own pictures: name a folder of them with --images")
    report, folder = _measure(model, images, sample, accept=accept)
    write_report(folder, report)
    _show({"model": model, "backend": backend.value, **asdict(report), "passed": report.passed}, as_json=as_json)
    if not report.passed and not accept:
        raise typer.Exit(1)


@app.command("check", epilog="`visual-search models check openai/clip-vit-base-patch32 --images ~/Pictures`")
def check(
    model: ModelName,
    images: Annotated[Path, typer.Option(exists=True, file_okay=False, help="Folder of your own pictures.")],
    *,
    sample: Sample = 500,
    as_json: AsJson = False,
) -> None:
    """Measure int8 on these pictures, and change nothing."""
    report, _ = _measure(model, images, sample, accept=False)
    _show({"model": model, **asdict(report), "passed": report.passed}, as_json=as_json)
    if not report.passed:
        raise typer.Exit(1)


@app.command("list", epilog="`visual-search models list`")
def list_exports(*, as_json: AsJson = False) -> None:
    """Show what is exported on this machine; a folder that you remove is made again when it is needed."""
    entries = [
        {**asdict(exported), "folder": str(folder), "fidelity": _as_dict(read_report(folder))}
        for folder, exported in ExportFiles().list()
    ]
    if as_json:
        print_json(entries)
        return
    rows = [
        [entry["name"], entry["precision"], f"{entry['bytes'] / 1e6:,.0f} MB", entry["folder"]] for entry in entries
    ]
    print_table(["model", "precision", "size", "folder"], rows)


def _measure(model: str, images: Path, sample: int, *, accept: bool) -> tuple[FidelityReport, Path]:
    """Embed a sample of the pictures in both precisions."""
    exact, rounded = load_both(model)
    pictures = _readable(EmbeddingService(embedder=exact), _sampled(images, sample))
    found = compare(_vectors(exact, pictures), _vectors(rounded, pictures), accepted=accept)
    return found, rounded.folder


def _vectors(service: Embedder, pictures: Sequence[Any]) -> tuple[Any, Any]:
    return service.embed_prepared(pictures), service.embed_texts(PROBING_TEXTS)


def _readable(service: EmbeddingService, paths: Sequence[Path]) -> list[Any]:
    """Both precisions take the same input; what is no good picture says nothing about them."""
    prepared = []
    for path in paths:
        try:
            prepared.append(service.prepare(path).pixels)
        except DecodeError:
            continue
    return prepared


def _sampled(folder: Path, count: int) -> list[Path]:
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _PICTURES and path.is_file())
    return paths if len(paths) <= count else random.Random(_SEED).sample(paths, count)  # noqa: S311 - no secret


def _as_dict(report: FidelityReport | None) -> dict[str, Any] | None:
    return None if report is None else {**asdict(report), "passed": report.passed}


def _show(found: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    for name, value in found.items():
        shown = f"{value:.5f}" if isinstance(value, float) else str(value)
        console().print(f"{name.replace('_', ' ')}: {shown}", markup=False)
