"""The real ViT-B/32 shape, seeded random weights and the real tokenizer, against transformers' own pipeline."""

from __future__ import annotations

import importlib
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoTokenizer, CLIPConfig, CLIPModel, CLIPProcessor
from transformers.utils import logging as transformers_logging

from pipeline.embedders.clip import ClipEmbedder

SEED = 32
REAL_FILES = Path(__file__).parents[2].parent / "shared" / "models" / "clip-vit-base-patch32"
TEXTS = [
    "a photo of a cat",
    "Two DOGS, playing in the snow!",
    "un café à la crème — 27 °C",
    "x",
    "a very long description of a red bicycle " * 20,
]
pytestmark = [
    pytest.mark.skipif(
        not REAL_FILES.is_dir(), reason="the real tokenizer and configuration are not beside the project"
    ),
]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip-vit-base-patch32")
    for file in REAL_FILES.iterdir():
        shutil.copyfile(file, folder / file.name)
    print(f"seed {SEED}")
    transformers_logging.disable_progress_bar()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        CLIPModel(CLIPConfig.from_pretrained(folder)).save_pretrained(folder, safe_serialization=True)
    transformers_logging.enable_progress_bar()
    # saving rewrote it in the newer form; the published one is what people have
    shutil.copyfile(REAL_FILES / "config.json", folder / "config.json")
    return folder


@pytest.fixture(scope="module")
def embedder(checkpoint: Path) -> ClipEmbedder:
    return ClipEmbedder.load(str(checkpoint), device="cpu", batch_size=2)


@pytest.fixture(scope="module")
def reference(checkpoint: Path) -> tuple[Any, CLIPModel]:
    """Transformers' own processor (its Pillow version) and model."""
    processor = CLIPProcessor(
        image_processor=_image_processor_class().from_pretrained(checkpoint),
        tokenizer=AutoTokenizer.from_pretrained(checkpoint),
    )
    return processor, CLIPModel.from_pretrained(checkpoint).eval()


def _image_processor_class() -> Any:
    try:
        return importlib.import_module("transformers.models.clip.image_processing_pil_clip").CLIPImageProcessorPil
    except ModuleNotFoundError:  # transformers 4
        return importlib.import_module("transformers.models.clip.image_processing_clip").CLIPImageProcessor


def photos() -> list[Image.Image]:
    random = np.random.default_rng(SEED)
    sizes = [(640, 480), (333, 500), (224, 224), (1000, 90), (57, 61)]
    small = [random.integers(0, 256, (6, 8, 3), dtype=np.uint8) for _ in sizes]
    return [Image.fromarray(s).resize(size, Image.Resampling.BICUBIC) for s, size in zip(small, sizes, strict=True)]


def unit(output: Any) -> np.ndarray[Any, Any]:
    features = output if isinstance(output, torch.Tensor) else output.pooler_output
    return np.asarray((features / features.norm(dim=-1, keepdim=True)).numpy())


def test_pixel_tensors_equal_the_processors(embedder: ClipEmbedder, reference: tuple[Any, CLIPModel]) -> None:
    processor, _ = reference
    theirs = processor.image_processor(photos(), return_tensors="np")["pixel_values"]
    ours = np.stack([embedder.prepare(photo) for photo in photos()])
    print(f"largest pixel difference {np.abs(ours - theirs).max()}")
    np.testing.assert_array_equal(ours, theirs)


def test_image_vectors_equal_transformers_own(embedder: ClipEmbedder, reference: tuple[Any, CLIPModel]) -> None:
    processor, model = reference
    with torch.inference_mode():
        inputs = processor.image_processor(photos(), return_tensors="pt")
        theirs = unit(model.get_image_features(**inputs))
    ours = embedder.embed_prepared([embedder.prepare(photo) for photo in photos()])
    print(f"largest image vector difference {np.abs(ours - theirs).max()}")
    assert ours.shape == (5, 512)
    assert np.abs(ours - theirs).max() <= 1e-5


@pytest.mark.parametrize("padding", ["max_length", "longest"])
def test_text_vectors_equal_transformers_own_however_it_pads(
    embedder: ClipEmbedder, reference: tuple[Any, CLIPModel], padding: str
) -> None:
    """Ours are padded to the longest text only; CLIP was trained on texts padded to 77 tokens."""
    processor, model = reference
    with torch.inference_mode():
        inputs = processor(text=TEXTS, padding=padding, max_length=77, truncation=True, return_tensors="pt")
        theirs = unit(model.get_text_features(**inputs))
    ours = embedder.embed_texts(TEXTS)
    print(f"largest text vector difference ({padding}) {np.abs(ours - theirs).max()}")
    assert ours.shape == (5, 512)
    assert np.abs(ours - theirs).max() <= 1e-5


def test_identity_has_the_published_dimension(embedder: ClipEmbedder, checkpoint: Path) -> None:
    identity = embedder.identity
    assert (identity.name, identity.revision, identity.dimension) == (str(checkpoint.resolve()), "local", 512)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_weights_that_are_only_mapped_take_no_memory_of_their_own(checkpoint: Path) -> None:
    own = {weights: _own_mib(checkpoint, weights) for weights in ("packed", "mapped")}
    vision_mib = 335
    assert own["packed"] > vision_mib > 2 * own["mapped"], own


def _own_mib(checkpoint: Path, weights: str) -> float:
    """Memory that a process shares with no file once it has embedded a picture."""
    command = [sys.executable, "-c", _EMBED_ONE, str(checkpoint), weights]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    [line] = [line for line in done.stdout.splitlines() if line.startswith("RssAnon:")]
    return int(line.split()[1]) / 1024


_EMBED_ONE = """
import sys
from pathlib import Path
from PIL import Image
from visual_search import EmbeddingService
service = EmbeddingService(sys.argv[1], device="cpu", backend="onnx", weights=sys.argv[2])
service.embed_image(Image.new("RGB", (300, 300)))
print(Path("/proc/self/status").read_text())
"""
