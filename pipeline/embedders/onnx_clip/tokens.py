"""Texts to token ids by the `tokenizers` library alone: the same ids as transformers' CLIPTokenizer gives."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

from pipeline.embedders.checkpoint import Checkpoint
from pipeline.embedders.texts import check_texts
from pipeline.errors import UnsupportedModel

# How CLIP cuts a text into words (openai/CLIP, simple_tokenizer.py)
_WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
_START, _END = "<|startoftext|>", "<|endoftext|>"


class ClipTokens:
    """A CLIP checkpoint's tokenizer, cutting texts to the model's context. Safe to call from many threads."""

    def __init__(self, checkpoint: Checkpoint, context_length: int) -> None:
        self._tokenizer = _load(checkpoint)
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(context_length)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text, unpadded. Raises InvalidQuery for an empty text."""
        check_texts(texts)
        return [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))]


def _load(checkpoint: Checkpoint) -> Tokenizer:
    files = checkpoint.tokenizer_files
    try:
        return Tokenizer.from_file(str(files[0])) if len(files) == 1 else _from_vocabulary(checkpoint.folder)
    except Exception as error:  # the library raises bare Exceptions; the cause is shown and chained
        names = ", ".join(path.name for path in files)
        raise UnsupportedModel(f"the tokenizer of {checkpoint.name} ({names}) cannot be loaded: {error}") from error


def _from_vocabulary(folder: Path) -> Tokenizer:
    """Make it of vocab.json and merges.txt, as the first checkpoints have them."""
    vocabulary, merges = models.BPE.read_file(str(folder / "vocab.json"), str(folder / "merges.txt"))
    special = _special_tokens(folder)
    start, end = special.get("bos_token", _START), special.get("eos_token", _END)
    unknown = special.get("unk_token", _END)
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token=unknown, end_of_word_suffix="</w>", fuse_unk=False))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.add_special_tokens([start, end, unknown])
    ends = (end, vocabulary[end]), (start, vocabulary[start])
    tokenizer.post_processor = processors.RobertaProcessing(*ends, trim_offsets=False, add_prefix_space=False)
    return tokenizer


def _special_tokens(folder: Path) -> dict[str, str]:
    """What the tokenizer's own settings call its special tokens; each is a text, or a table with `content`."""
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    named = {name: value for name, value in settings.items() if name.endswith("_token") and value}
    return {name: value["content"] if isinstance(value, dict) else str(value) for name, value in named.items()}
