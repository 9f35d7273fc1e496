"""What the stages of `make bench` work on: real photos made large enough, and a CLIP checkpoint of random weights.

Made at the first use in the folder of the run, with fixed seeds. The checkpoint has the shape of ViT-B/32 as OpenAI
published it and weights that nobody trained: its speed and memory are those of the real one, its judgement is not.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps
from stage import Given

ROOT = Path(__file__).resolve().parents[1]
SIZES = {"640x480": (640, 480), "1080p": (1920, 1080), "12 MP": (4000, 3000)}
SIDE = 224
_SEED = 32
_QUALITY = 88
# Where a part of a photo lies (0 to 1, across and down), and what share of each side it is
_VIEWS = (
    (0.5, 0.5, 1.0), (0.0, 0.0, 0.6), (1.0, 1.0, 0.6), (1.0, 0.0, 0.6), (0.0, 1.0, 0.6), (0.5, 0.5, 0.5),
)  # fmt: skip
_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp"})


def photos(given: Given, most: int) -> list[Path]:
    """Real photos: the user's, or those of the demo without its edited copies."""
    folder = given.data
    if folder is None:
        folder = given.scratch / "demo" / "photos"
        if not folder.exists():
            from visual_search.demo.photos import write_sample_photos

            making = folder.with_name("making")
            write_sample_photos(making)
            shutil.rmtree(making / "copies")
            making.rename(folder)
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES)
    if not found:
        sys.exit(f"no photos in {folder}")
    step = max(1, len(found) // most)
    return found[::step][:most]


def jpegs(given: Given, name: str, most: int) -> list[Path]:
    """JPEGs of one of the SIZES, all different: parts of the photos, made as large as that."""
    folder = given.scratch / "jpegs" / f"{name.replace(' ', '-')}-{most}"
    if not folder.exists():
        making = folder.with_name("making-jpegs")
        making.mkdir(parents=True)
        for number, picture in enumerate(_parts(photos(given, most), SIZES[name], most)):
            picture.save(making / f"{number:03d}.jpg", "JPEG", quality=_QUALITY)
        making.rename(folder)
    return sorted(folder.iterdir())


def cuts(given: Given, most: int) -> list[Image.Image]:
    """Different square parts of the photos, (SIDE, SIDE): as many as are wanted, or as there are."""
    return list(_parts(photos(given, most), (SIDE, SIDE), most))


def checkpoint(given: Given) -> Path:
    """The folder of the checkpoint; made in some seconds by torch and transformers."""
    folder = given.scratch / "clip-vit-base-patch32"
    if not folder.exists():
        making = folder.with_name("making-checkpoint")
        _save_clip(making)
        making.rename(folder)
    return folder


def quiet() -> None:
    """Keep transformers from telling about every file that it reads."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()


def _parts(paths: list[Path], size: tuple[int, int], most: int) -> Iterator[Image.Image]:
    """Of each photo the middle, then of each a corner, and so on: at most so many."""
    views = [(x, y, share, path) for x, y, share in _VIEWS for path in paths]
    for x, y, share, path in views[:most]:
        with Image.open(path) as opened:
            photo = ImageOps.exif_transpose(opened).convert("RGB")
        across, down = share * photo.width, share * photo.height
        left, top = x * (photo.width - across), y * (photo.height - down)
        part = photo.crop((round(left), round(top), round(left + across), round(top + down)))
        yield ImageOps.fit(part, size, Image.Resampling.BICUBIC)


def _save_clip(folder: Path) -> None:
    """Weights as `transformers` starts a training, but with attention that looks somewhere, so that photos differ."""
    import torch
    from transformers import CLIPConfig, CLIPModel

    sys.path.insert(0, str(ROOT / "tests"))
    from checkpoints import _write_clip_tokenizer, _write_preprocessor

    folder.mkdir(parents=True)
    _write_clip_tokenizer(folder)
    (folder / "tokenizer_config.json").write_text(
        json.dumps({**json.loads((folder / "tokenizer_config.json").read_text()), "model_max_length": 77})
    )
    torch.manual_seed(_SEED)
    model: Any = CLIPModel(CLIPConfig())
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1 and ("self_attn" in name or "mlp" in name):
                weight.normal_(std=weight.shape[1] ** -0.5)
    quiet()
    model.save_pretrained(folder, safe_serialization=True)
    _write_preprocessor(
        folder,
        {
            "image_processor_type": "CLIPImageProcessor",
            "size": {"shortest_edge": SIDE},
            "crop_size": {"height": SIDE, "width": SIDE},
            "do_center_crop": True,
            "image_mean": [0.48145466, 0.4578275, 0.40821073],
            "image_std": [0.26862954, 0.26130258, 0.27577711],
        },
    )
