"""Tiny seeded CLIP and SigLIP checkpoints for tests: real files, random weights, nothing from a network.

Each function writes what a downloaded checkpoint's folder holds: configuration, safetensors weights,
preprocessor settings and a tokenizer (byte-level, with a few merges, made here).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import ByteLevel, Whitespace
from transformers import (
    CLIPConfig,
    CLIPModel,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipModel,
)
from transformers.utils import logging as transformers_logging

IMAGE_SIDE = 32
CONTEXT_LENGTH = 16
_LEGACY_EOS = 2  # OpenAI's own configurations say 2, and transformers then takes the highest token id instead
_TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
_MERGES = (
    "a t</w>",
    "c at</w>",
    "d o",
    "do g</w>",
    "p h",
    "o t",
    "ph ot",
    "phot o</w>",
    "o f</w>",
    "r e",
    "re d</w>",
)
_SIGLIP_WORDS = ("<unk>", "</s>", "a", "photo", "of", "cat", "dog", "red", "blue")


def save_tiny_clip(
    folder: Path, projection_dim: int = 24, *, seed: int = 1, legacy_eos: bool = True, shard_size: str = "1GB"
) -> Path:
    """Write a CLIP checkpoint of the given dimension into the folder (made if missing) and return the folder.

    Equal arguments give equal weights. `legacy_eos=False` writes the end-of-text id as newer exports do.
    """
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = _write_clip_tokenizer(folder)
    start, end = vocabulary["<|startoftext|>"], vocabulary["<|endoftext|>"]
    config = CLIPConfig(
        text_config={
            **_TOWER,
            "vocab_size": len(vocabulary),
            "max_position_embeddings": CONTEXT_LENGTH,
            "bos_token_id": start,
            "eos_token_id": _LEGACY_EOS if legacy_eos else end,
            "pad_token_id": end,
        },
        vision_config={**_TOWER, "image_size": IMAGE_SIDE, "patch_size": 8},
        projection_dim=projection_dim,
    )
    _save_seeded(CLIPModel, config, folder, seed, shard_size)
    settings = {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": IMAGE_SIDE},
        "crop_size": {"height": IMAGE_SIDE, "width": IMAGE_SIDE},
        "do_center_crop": True,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
    }
    _write_preprocessor(folder, settings)
    return folder


def save_tiny_siglip(folder: Path, *, seed: int = 1) -> Path:
    """Write a SigLIP checkpoint of dimension 32 into the folder (made if missing) and return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer(WordLevel({word: number for number, word in enumerate(_SIGLIP_WORDS)}, unk_token="<unk>"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = Lowercase(), Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        eos_token="</s>",
        pad_token="</s>",
        model_max_length=CONTEXT_LENGTH,
    ).save_pretrained(folder)
    config = SiglipConfig(
        text_config={
            **_TOWER,
            "vocab_size": len(_SIGLIP_WORDS),
            "max_position_embeddings": CONTEXT_LENGTH,
            "projection_size": _TOWER["hidden_size"],
            "bos_token_id": 1,
            "eos_token_id": 1,
            "pad_token_id": 1,
        },
        vision_config={**_TOWER, "image_size": IMAGE_SIDE, "patch_size": 8},
    )
    _save_seeded(SiglipModel, config, folder, seed, "1GB")
    settings = {
        "image_processor_type": "SiglipImageProcessor",
        "size": {"height": IMAGE_SIDE, "width": IMAGE_SIDE},
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }
    _write_preprocessor(folder, settings)
    return folder


def _write_clip_tokenizer(folder: Path) -> dict[str, int]:
    letters = sorted(ByteLevel.alphabet())
    merged = ["".join(merge.split(" ")) for merge in _MERGES]
    # the end-of-text token has the highest id, as in every CLIP vocabulary
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *merged, "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    _write_json(folder / "vocab.json", vocabulary)
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *_MERGES, ""]), encoding="utf-8")
    special = {
        "bos_token": "<|startoftext|>",
        **dict.fromkeys(("eos_token", "pad_token", "unk_token"), "<|endoftext|>"),
    }
    _write_json(
        folder / "tokenizer_config.json",
        {"tokenizer_class": "CLIPTokenizer", "model_max_length": CONTEXT_LENGTH, **special},
    )
    return vocabulary


def _save_seeded(model_class: Any, config: Any, folder: Path, seed: int, shard_size: str) -> None:
    was_shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    with torch.random.fork_rng(devices=[]):  # leaves the caller's random numbers alone
        torch.manual_seed(seed)
        model = model_class(config)
        for parameter in model.parameters():  # the usual start is so small that all pictures embed alike
            torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder, safe_serialization=True, max_shard_size=shard_size)
    if was_shown:
        transformers_logging.enable_progress_bar()


def _write_preprocessor(folder: Path, settings: dict[str, Any]) -> None:
    shared = {
        "do_convert_rgb": True,
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
        "resample": 3,  # bicubic
        "rescale_factor": 1 / 255,
    }
    _write_json(folder / "preprocessor_config.json", {**shared, **settings})


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
