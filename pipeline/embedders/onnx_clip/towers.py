"""CLIP's two towers as ONNX graphs, built from a checkpoint's tensors.

Exact, and cheaper than the model as it was trained: in the last block only the row that is read (the class token, or a
text's end) goes through the query, the output and the inner layers; the pictures' rescaling and normalisation are
folded into the first layer, which takes plain bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import onnx
from onnx import TensorProto

from pipeline.embedders.onnx_clip.graph import GraphBuilder
from pipeline.embedders.onnx_clip.shape import ClipShape, TowerShape
from pipeline.embedders.onnx_clip.tensors import Array, CheckpointTensors
from pipeline.preprocess import ClipPreprocessing

Exact: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]

_LAYER_PARTS = ("layer_norm1", "layer_norm2")
_ATTENTION_PARTS = ("q_proj", "k_proj", "v_proj", "out_proj")


@dataclass(frozen=True)
class TowerSource:
    """What a graph is built from: the weights, their shape, and what is done to a picture before."""

    tensors: CheckpointTensors
    shape: ClipShape
    preprocessing: ClipPreprocessing


@dataclass(frozen=True)
class Tower:
    """One tower in the building: where its tensors are, and the graph that they go to."""

    graph: GraphBuilder
    tensors: CheckpointTensors
    prefix: str
    shape: TowerShape
    causal: bool

    def read(self, name: str) -> Array:
        """One of this tower's tensors."""
        return self.tensors.read(f"{self.prefix}.{name}")

    def norm(self, x: str, name: str) -> str:
        """One of this tower's layer norms."""
        return self.graph.layer_norm(x, self.read(f"{name}.weight"), self.read(f"{name}.bias"), self.shape.epsilon)

    def linear(self, x: str, name: str) -> str:
        """One of this tower's linear layers."""
        return self.graph.linear(x, self.read(f"{name}.weight"), self.read(f"{name}.bias"))


@dataclass(frozen=True)
class LastRows:
    """Which row of each input the last block is computed for: flat row numbers, and how many tokens it looks at."""

    rows: str
    lengths: str | None  # None: all


def build_vision_tower(source: TowerSource, graph: GraphBuilder) -> onnx.ModelProto:
    """Build pixels (n, side, side, 3) uint8 to vectors (n, dimension) float32, not yet of unit length."""
    tensors, shape = source.tensors, source.shape
    tower = Tower(graph, tensors, "vision_model", shape.vision, causal=False)
    tokens, width = shape.patches + 1, shape.vision.width
    with_class = _embedded_patches(tower, shape, source.preprocessing)
    x = tower.norm(graph.reshape(with_class, (-1, width)), "pre_layrnorm")
    first = _multiples(graph, graph.node("Shape", ["pixels"], end=1), tokens)
    pooled = tower.norm(_blocks(tower, x, tokens, LastRows(first, None)), "post_layernorm")
    vectors = graph.linear_fp32(pooled, tensors.read("visual_projection.weight"))
    return graph.model({"pixels": (TensorProto.UINT8, ["n", shape.side, shape.side, 3])}, vectors, shape.dimension)


def build_text_tower(source: TowerSource, graph: GraphBuilder) -> onnx.ModelProto:
    """Build ids (n, length) int64 and ends (n,) int64 to vectors (n, dimension) float32, not yet of unit length."""
    tensors, shape = source.tensors, source.shape
    tower = Tower(graph, tensors, "text_model", shape.text, causal=True)
    length = graph.node("Shape", ["ids"], start=1)
    positions = graph.weight(tower.read("embeddings.position_embedding.weight"))
    zero = graph.constant([0], np.int64)
    used = graph.node("Slice", [positions, zero, length, zero])
    words = graph.node("Gather", [graph.weight(tower.read("embeddings.token_embedding.weight")), "ids"])
    x = graph.reshape(graph.node("Add", [words, used]), (-1, shape.text.width))
    starts = graph.node("Mul", [_counted(graph, graph.node("Shape", ["ids"], end=1)), length])
    seen = graph.node("Add", ["ends", graph.constant(1, np.int64)])
    last = LastRows(graph.node("Add", [starts, "ends"]), graph.node("Cast", [seen], to=TensorProto.INT32))
    pooled = tower.norm(_blocks(tower, x, length, last), "final_layer_norm")
    vectors = graph.linear_fp32(pooled, tensors.read("text_projection.weight"))
    inputs = {"ids": (TensorProto.INT64, ["n", "length"]), "ends": (TensorProto.INT64, ["n"])}
    return graph.model(inputs, vectors, shape.dimension)


def tensor_shapes(shape: ClipShape) -> dict[str, tuple[int, ...]]:
    """Every tensor that the towers are built from, with the shape that the configuration gives it."""
    vision, text, dimension = shape.vision, shape.text, shape.dimension
    return {
        "vision_model.embeddings.class_embedding": (vision.width,),
        "vision_model.embeddings.patch_embedding.weight": (vision.width, 3, shape.patch, shape.patch),
        "vision_model.embeddings.position_embedding.weight": (shape.patches + 1, vision.width),
        **_vector_pair("vision_model.pre_layrnorm", vision.width),
        **_block_shapes("vision_model", vision),
        **_vector_pair("vision_model.post_layernorm", vision.width),
        "visual_projection.weight": (dimension, vision.width),
        "text_model.embeddings.token_embedding.weight": (shape.vocabulary, text.width),
        "text_model.embeddings.position_embedding.weight": (shape.context, text.width),
        **_block_shapes("text_model", text),
        **_vector_pair("text_model.final_layer_norm", text.width),
        "text_projection.weight": (dimension, text.width),
    }


def _block_shapes(prefix: str, tower: TowerShape) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in range(tower.layers):
        start = f"{prefix}.encoder.layers.{layer}"
        for part in _LAYER_PARTS:
            shapes |= _vector_pair(f"{start}.{part}", tower.width)
        for part in _ATTENTION_PARTS:
            shapes |= _linear_pair(f"{start}.self_attn.{part}", tower.width, tower.width)
        shapes |= _linear_pair(f"{start}.mlp.fc1", tower.inner, tower.width)
        shapes |= _linear_pair(f"{start}.mlp.fc2", tower.width, tower.inner)
    return shapes


def _vector_pair(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _linear_pair(name: str, out: int, into: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (out, into), f"{name}.bias": (out,)}


def _embedded_patches(tower: Tower, shape: ClipShape, preprocessing: ClipPreprocessing) -> str:
    """Cut bytes into patches and embed them, the class token before them: (n, tokens, width)."""
    graph, side, patch = tower.graph, shape.side // shape.patch, shape.patch
    # Rows of a patch that the picture has side by side stay side by side, and bytes are moved, not floats.
    cut = graph.reshape("pixels", (-1, side, patch, side, patch, 3))
    patches = graph.reshape(graph.node("Transpose", [cut], perm=[0, 1, 3, 2, 4, 5]), (-1, patch * patch * 3))
    scale, shift = _normalisation(preprocessing)
    kernel = tower.read("embeddings.patch_embedding.weight").astype(np.float64)
    weight = (kernel * scale[:, None, None]).transpose(0, 2, 3, 1).reshape(shape.vision.width, -1)
    offset = (kernel * shift[:, None, None]).sum(axis=(1, 2, 3))
    embedded = graph.linear_fp32(graph.node("Cast", [patches], to=TensorProto.FLOAT), weight.astype(np.float32))
    positions = tower.read("embeddings.position_embedding.weight").astype(np.float64)
    positions[1:] += offset
    positions[0] += tower.read("embeddings.class_embedding")
    shaped = graph.reshape(embedded, (-1, shape.patches, shape.vision.width))
    padded = graph.node("Pad", [shaped, graph.constant([0, 1, 0, 0, 0, 0], np.int64)])  # room for the class token
    return graph.node("Add", [padded, graph.weight(positions.astype(np.float32))])


def _normalisation(preprocessing: ClipPreprocessing) -> tuple[Exact, Exact]:
    """Per channel: what a byte is multiplied by, and what is added."""
    mean, std = np.array(preprocessing.mean), np.array(preprocessing.std)
    return preprocessing.rescale_factor / std, -mean / std


def _blocks(tower: Tower, x: str, tokens: int | str, last: LastRows) -> str:
    for layer in range(tower.shape.layers):
        is_last = layer == tower.shape.layers - 1
        x = _block(tower, f"encoder.layers.{layer}", (x, tokens), last if is_last else None)
    return x


def _block(tower: Tower, name: str, rows: tuple[str, int | str], last: LastRows | None) -> str:
    """Attention and inner layers, each beside a shortcut; with `last` for those rows alone."""
    graph, (x, tokens) = tower.graph, rows
    normed = tower.norm(x, f"{name}.layer_norm1")
    keys, values = (tower.linear(normed, f"{name}.self_attn.{part}") for part in ("k_proj", "v_proj"))
    if last is not None:
        x, normed = (graph.node("Gather", [rows_of, last.rows]) for rows_of in (x, normed))
    queries = tower.linear(normed, f"{name}.self_attn.q_proj")
    mixed = _attention(tower, (queries, keys, values), tokens, last)
    x = graph.node("Add", [x, tower.linear(mixed, f"{name}.self_attn.out_proj")])
    inner = tower.linear(tower.norm(x, f"{name}.layer_norm2"), f"{name}.mlp.fc1")
    return graph.node("Add", [x, tower.linear(graph.activation(inner, tower.shape.activation), f"{name}.mlp.fc2")])


def _attention(tower: Tower, parts: tuple[str, str, str], tokens: int | str, last: LastRows | None) -> str:
    """Mix values by queries and keys, all (rows, width), within each input's tokens."""
    graph, width = tower.graph, tower.shape.width
    query_tokens: int | str = tokens if last is None else 1
    by_input = [
        _in_threes(graph, x, count, width) for x, count in zip(parts, (query_tokens, tokens, tokens), strict=True)
    ]
    if last is not None and last.lengths is not None:
        by_input += ["", last.lengths]
    looks_back = int(tower.causal and last is None)
    mixed = graph.node(
        "MultiHeadAttention",
        by_input,
        domain="com.microsoft",
        num_heads=tower.shape.heads,
        unidirectional=looks_back,
        mask_filter_value=float(np.finfo(np.float32).min),
    )
    return graph.reshape(mixed, (-1, width))


def _in_threes(graph: GraphBuilder, x: str, tokens: int | str, width: int) -> str:
    """Rows to (n, tokens, width)."""
    if isinstance(tokens, int):
        return graph.reshape(x, (-1, tokens, width))
    pieces = [graph.constant([-1], np.int64), tokens, graph.constant([width], np.int64)]
    return graph.node("Reshape", [x, graph.node("Concat", pieces, axis=0)])


def _counted(graph: GraphBuilder, count: str) -> str:
    """0, 1, ... up to a count given as one number in a list."""
    scalar = graph.node("Squeeze", [count])
    return graph.node("Range", [graph.constant(0, np.int64), scalar, graph.constant(1, np.int64)])


def _multiples(graph: GraphBuilder, count: str, step: int) -> str:
    return graph.node("Mul", [_counted(graph, count), graph.constant(step, np.int64)])
