"""Texts to token ids, as each family was trained. Knows tokenizers, no model and no device."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from pipeline.embedders.checkpoint import Checkpoint
from pipeline.errors import InvalidQuery, UnsupportedModel

# Raised when the same texts give other tokens than before.
TEXTS_VERSION = 1


class TextTokens:
    """A checkpoint's tokenizer with its padding rule. Texts longer than the model's context are cut.

    CLIP looks backwards only and reads the end-of-text token, so padding changes nothing and is kept to the
    longest text of the batch. SigLIP was trained on texts padded to the full context, without a mask.
    """

    def __init__(self, checkpoint: Checkpoint, context_length: int) -> None:
        self._tokenizer = _load_tokenizer(checkpoint)
        self._context_length = context_length
        self._pads_fully = checkpoint.config["model_type"] != "clip"
        self._lock = threading.Lock()  # padding is a state of the tokenizer: two threads must not set it at once

    def encode(self, texts: Sequence[str]) -> dict[str, Any]:
        """Return the text tower's torch inputs for (n) texts. Raises InvalidQuery for an empty text."""
        check_texts(texts)
        with self._lock:
            encoded = self._tokenizer(
                list(texts),
                padding="max_length" if self._pads_fully else "longest",
                truncation=True,
                max_length=self._context_length,
                return_tensors="pt",
            )
        names = ("input_ids",) if self._pads_fully else ("input_ids", "attention_mask")
        return {name: encoded[name] for name in names}


def check_texts(texts: Sequence[str]) -> None:
    """Raise InvalidQuery unless these are texts with something in them."""
    if isinstance(texts, str):  # a string is a sequence of strings too: one vector per letter
        raise InvalidQuery("expected a list of texts, got one text")
    for text in texts:
        if not isinstance(text, str) or not text.strip():
            raise InvalidQuery(f"a text query needs at least one visible character, got {text!r}")


def _load_tokenizer(checkpoint: Checkpoint) -> Any:
    from transformers import AutoTokenizer

    files = ", ".join(path.name for path in checkpoint.tokenizer_files)
    try:
        return AutoTokenizer.from_pretrained(str(checkpoint.folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # tokenizers and sentencepiece raise bare Exceptions; the cause is shown and chained
        raise UnsupportedModel(
            f"the tokenizer of {checkpoint.name} ({files}) cannot be loaded: {error}. "
            "For a spiece.model, install what it needs: pip install 'visual-search[siglip]'"
        ) from error
