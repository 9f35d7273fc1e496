"""The identity of a CLIP-family model: which inputs it is given, and which numbers come of that. Loads no model."""

from __future__ import annotations

from pipeline.embedders.checkpoint import Checkpoint
from pipeline.embedders.fingerprint import sha256_of_files, sha256_of_settings
from pipeline.embedders.texts import TEXTS_VERSION
from pipeline.errors import UnsupportedModel
from pipeline.preprocess import ClipPreprocessing

# Model types that are tested here. OpenAI's and LAION's exports are all `clip`; SigLIP, and SigLIP 2 of fixed
# resolution, are `siglip`. The values are transformers' classes.
MODEL_CLASSES = {"clip": "CLIPModel", "siglip": "SiglipModel"}


def inputs_fingerprint(checkpoint: Checkpoint, preprocessing: ClipPreprocessing) -> str:
    """sha256 hex over everything that turns a picture or a text into the model's input."""
    return sha256_of_settings(
        {
            "pictures": preprocessing.fingerprint,
            "texts": TEXTS_VERSION,
            "tokenizer": sha256_of_files(checkpoint.tokenizer_files),
        }
    )


def check_family(checkpoint: Checkpoint) -> None:
    """Raise UnsupportedModel for a model of another family."""
    model_type = checkpoint.config.get("model_type")
    if model_type not in MODEL_CLASSES:
        raise UnsupportedModel(
            f"{checkpoint.name} is a model of type {model_type!r}; supported are {', '.join(MODEL_CLASSES)} "
            "(OpenAI CLIP, LAION exports, SigLIP) and `baseline`"
        )
