"""Building an ONNX graph: nodes, weights, and the layers that both towers share. Knows no checkpoint.

Every array of features is a matrix of (rows, width) float32, one row a token. In int8, each row of a layer's input is
scaled by itself. Other than with onnxruntime's own dynamic quantization, which has one scale for the whole batch, a
picture's vector then does not depend on which pictures it is embedded with, and a loud token costs the others nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from pipeline.embedders.onnx_clip.precision import Precision
from pipeline.embedders.onnx_clip.tensors import Array

_INLINE_BYTES = 1024
_PAGE_BYTES = 4096  # mapped memory begins at pages
_OPSET = 20  # the first with Gelu
_IR_VERSION = 9
_CONTRIB = "com.microsoft"  # onnxruntime's own operators; all of these are in its CPU build since 1.14
_ACTIVATIONS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "quick_gelu": ("QuickGelu", _CONTRIB, {"alpha": 1.702}),
    "gelu": ("Gelu", "", {"approximate": "none"}),
    "gelu_new": ("Gelu", "", {"approximate": "tanh"}),
    "gelu_pytorch_tanh": ("Gelu", "", {"approximate": "tanh"}),
}
_INPUT_LEVELS = 127  # either side of 128, the zero of an unsigned byte
# Seven bits: where a CPU has no VNNI, two products of eight bits overflow the 16 bits that they are summed in, and the
# same model would give other vectors there than here.
_WEIGHT_LEVELS = 63
_TINY = np.float32(1e-30)  # keeps a row of zeros from being divided by zero


class GraphBuilder:
    """Collects nodes and writes weights; each method appends nodes and returns the name of their output."""

    def __init__(self, precision: Precision, weights: BinaryIO) -> None:
        self._precision = precision
        self._file = weights
        self._nodes: list[Any] = []
        self._weights: list[Any] = []
        self._quantized: dict[str, tuple[str, str]] = {}
        self._constants: dict[tuple[Any, ...], str] = {}

    def node(self, operator: str, inputs: Sequence[str], *, outputs: int = 1, domain: str = "", **given: Any) -> str:
        """Append an operator; returns its first output's name, the others are that name with .1, .2, ..."""
        name = f"{operator}_{len(self._nodes)}"
        names = [name, *(f"{name}.{number}" for number in range(1, outputs))]
        self._nodes.append(helper.make_node(operator, list(inputs), names, name=name, domain=domain, **given))
        return name

    def weight(self, array: np.ndarray[Any, np.dtype[Any]]) -> str:
        """Keep an array: a small one in the graph, another in the file of weights, which is mapped when it runs."""
        name, array = f"weight_{len(self._weights)}", np.ascontiguousarray(array)
        small = array.nbytes < _INLINE_BYTES
        self._weights.append(numpy_helper.from_array(array, name) if small else self._written(array, name))
        return name

    def constant(self, value: Any, dtype: type[np.generic]) -> str:
        """Keep a small constant, each value once."""
        array = np.asarray(value, dtype=dtype)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            self._constants[key] = self.weight(array)
        return self._constants[key]

    def reshape(self, x: str, shape: Sequence[int]) -> str:
        """Give another shape; -1 stands for what is left."""
        return self.node("Reshape", [x, self.constant(list(shape), np.int64)])

    def linear(self, x: str, weight: Array, bias: Array | None) -> str:
        """Multiply rows by a weight of (out, in), as checkpoints have it, and add the bias."""
        if self._precision == "int8":
            return self._linear_int8(x, weight, bias)
        inputs = [x, self.weight(weight.T)]
        return self.node("Gemm", inputs if bias is None else [*inputs, self.weight(bias)])

    def linear_fp32(self, x: str, weight: Array) -> str:
        """Multiply in float32 whatever the precision: first and last layers are cheap, and the most sensitive."""
        return self.node("MatMul", [x, self.weight(weight.T)])

    def layer_norm(self, x: str, scale: Array, bias: Array, epsilon: float) -> str:
        """Normalise each row."""
        return self.node("LayerNormalization", [x, self.weight(scale), self.weight(bias)], axis=-1, epsilon=epsilon)

    def activation(self, x: str, name: str) -> str:
        """Apply a tower's activation."""
        operator, domain, settings = _ACTIVATIONS[name]
        return self.node(operator, [x], domain=domain, **settings)

    def model(self, inputs: dict[str, tuple[int, list[Any]]], output: str, dimension: int) -> onnx.ModelProto:
        """Make the model: inputs by name with element type and shape, one output of (n, dimension) float32."""
        self._nodes.append(helper.make_node("Identity", [output], ["vectors"], name="vectors"))
        graph = helper.make_graph(
            self._nodes,
            "tower",
            [helper.make_tensor_value_info(name, *kind) for name, kind in inputs.items()],
            [helper.make_tensor_value_info("vectors", TensorProto.FLOAT, ["n", dimension])],
            self._weights,
        )
        opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid(_CONTRIB, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION, producer_name="visual-search")

    def _written(self, array: np.ndarray[Any, np.dtype[Any]], name: str) -> Any:
        """Append the numbers to the file at once, so that memory holds one weight and never the whole model."""
        self._file.write(b"\0" * (-self._file.tell() % _PAGE_BYTES))
        place = {"location": Path(self._file.name).name, "offset": self._file.tell(), "length": array.nbytes}
        self._file.write(array.data)
        tensor = TensorProto(name=name, dims=array.shape, data_type=helper.np_dtype_to_tensor_dtype(array.dtype))
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in place.items():
            tensor.external_data.add(key=key, value=str(value))
        return tensor

    def _linear_int8(self, x: str, weight: Array, bias: Array | None) -> str:
        """Multiply bytes by bytes, then scale by row (of the input) and by column (of the weight)."""
        column_scale = np.maximum(np.abs(weight).max(axis=1), _TINY) / _WEIGHT_LEVELS
        levels = np.rint(weight / column_scale[:, None]).astype(np.int8)
        quantized, row_scale = self._quantize_rows(x)
        one, zero = self.constant(1, np.float32), self.constant(_INPUT_LEVELS + 1, np.uint8)
        inputs = [quantized, self.weight(levels.T), one, self.weight(column_scale.astype(np.float32)), zero]
        product = self.node("MatMulIntegerToFloat", inputs, domain=_CONTRIB)
        scaled = self.node("Mul", [product, row_scale])
        return scaled if bias is None else self.node("Add", [scaled, self.weight(bias)])

    def _quantize_rows(self, x: str) -> tuple[str, str]:
        """Turn rows into bytes around 128, and give each row's scale (rows, 1); once for all users of the rows."""
        if x not in self._quantized:
            largest = self.node("ReduceMax", [self.node("Abs", [x]), self.constant([-1], np.int64)], keepdims=1)
            share = self.node("Mul", [largest, self.constant(1 / _INPUT_LEVELS, np.float32)])
            scale = self.node("Max", [share, self.constant(_TINY, np.float32)])
            levels = self.node("Div", [x, scale])
            one, zero = self.constant(1, np.float32), self.constant(_INPUT_LEVELS + 1, np.uint8)
            self._quantized[x] = self.node("QuantizeLinear", [levels, one, zero]), scale
        return self._quantized[x]
