"""The shape of a CLIP checkpoint: what its config.json says, with transformers' defaults. Opens no weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.errors import UnsupportedModel

# Defaults of transformers' CLIPTextConfig, CLIPVisionConfig and CLIPConfig: exports leave out what equals them.
_TOWER = {"num_hidden_layers": 12, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}
_TEXT = {
    **_TOWER,
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_attention_heads": 8,
    "vocab_size": 49408,
    "max_position_embeddings": 77,
    "eos_token_id": 49407,
}
_VISION = {
    **_TOWER,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_attention_heads": 12,
    "num_channels": 3,
    "image_size": 224,
    "patch_size": 32,
}
_DIMENSION = 512

# hidden_act to the operator of the graph; others are left to torch
ACTIVATIONS = frozenset({"quick_gelu", "gelu", "gelu_new", "gelu_pytorch_tanh"})


@dataclass(frozen=True)
class TowerShape:
    """One transformer: its width, heads, layers, and the widths of its inner layers."""

    width: int
    inner: int
    heads: int
    layers: int
    activation: str
    epsilon: float


@dataclass(frozen=True)
class ClipShape:
    """Both towers; `side` and `patch` in pixels, `context` and `vocabulary` in tokens."""

    vision: TowerShape
    text: TowerShape
    side: int
    patch: int
    context: int
    vocabulary: int
    eos_token_id: int
    dimension: int

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> ClipShape:
        """Read a checkpoint's config.json. Raises UnsupportedModel for what only torch can run."""
        text, vision = _settings(config, "text", _TEXT), _settings(config, "vision", _VISION)
        try:
            shape = cls(
                vision=_tower(vision),
                text=_tower(text),
                side=_square(vision["image_size"]),
                patch=_square(vision["patch_size"]),
                context=int(text["max_position_embeddings"]),
                vocabulary=int(text["vocab_size"]),
                eos_token_id=int(text["eos_token_id"]),
                dimension=int(config.get("projection_dim") or _DIMENSION),
            )
        except (TypeError, ValueError) as error:
            raise UnsupportedModel(f"a configuration that ONNX export does not know: {error}") from error
        if vision["num_channels"] != 3:
            raise UnsupportedModel(f"pictures of {vision['num_channels']} channels are not known to ONNX export")
        return shape

    @property
    def patches(self) -> int:
        """How many patches a picture is cut into; the class token makes it one more."""
        return (self.side // self.patch) ** 2

    def text_ends(self, ids: Any) -> Any:
        """Where each row of token ids (n, length) has its first end-of-text token: (n,) int64.

        OpenAI's configurations say eos_token_id 2; transformers then takes the highest id, which is what ends a text.
        """
        is_end = ids == ids.max(axis=1, keepdims=True) if self.eos_token_id == 2 else ids == self.eos_token_id
        return is_end.argmax(axis=1)


def _settings(config: Mapping[str, Any], tower: str, defaults: dict[str, Any]) -> dict[str, Any]:
    """One tower's settings. Old exports have a second table, `text_config_dict`, which then decides alone."""
    overriding = config.get(f"{tower}_config_dict")
    given = config.get(f"{tower}_config") if overriding is None else overriding
    return {**defaults, **{key: value for key, value in (given or {}).items() if value is not None}}


def _tower(settings: Mapping[str, Any]) -> TowerShape:
    if settings["hidden_act"] not in ACTIVATIONS:
        message = f"activation {settings['hidden_act']!r}"
        raise ValueError(message)
    width, heads = int(settings["hidden_size"]), int(settings["num_attention_heads"])
    if width % heads:
        message = f"{width} numbers do not divide among {heads} heads"
        raise ValueError(message)
    return TowerShape(
        width=width,
        inner=int(settings["intermediate_size"]),
        heads=heads,
        layers=int(settings["num_hidden_layers"]),
        activation=settings["hidden_act"],
        epsilon=float(settings["layer_norm_eps"]),
    )


def _square(size: Any) -> int:
    if isinstance(size, int):
        return size
    height, width = size
    if height != width:
        message = f"{height} x {width} is no square"
        raise ValueError(message)
    return int(height)
