"""Layers with quantized weights, for generation on a CPU: reading the weights is what a generated token takes.

They have no Parameters and no gradient: a graph through them is an error. kernels/cpu/quantized.py has the formats.
"""

from typing import Any

from ..errors.layers import check_indices
from ..kernels.cpu.quantized import Kind as Kind
from ..kernels.cpu.quantized import QuantizedMatrix as QuantizedMatrix
from ..nn import Module, as_indices
from ..tensor import Tensor

NO_GRADIENT = (
    "quantized weights cannot be trained, and no gradient flows through them: load the model without quantization, or "
    "compute inside tl.no_grad()"
)


class QuantizedLinear(Module):
    """x W^T + b with a QuantizedMatrix W (out_features, in_features): (..., in_features) -> (..., out_features).

    RuntimeError where x requires a gradient.
    """

    def __init__(self, matrix: QuantizedMatrix, bias: Tensor | None = None):
        self.matrix, self.bias = matrix, None if bias is None else bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        if x.requires_grad:
            raise RuntimeError(NO_GRADIENT)
        return Tensor(self.matrix.linear(x.data, None if self.bias is None else self.bias.data))


class QuantizedEmbedding(Module):
    """A row of a QuantizedMatrix (num_embeddings, embedding_dim) per integer: (...) -> float32 (..., embedding_dim).

    IndexError for an integer outside 0 .. num_embeddings - 1.
    """

    def __init__(self, matrix: QuantizedMatrix):
        self.matrix = matrix

    def forward(self, idx: Any) -> Tensor:
        indices = as_indices(idx, "cpu").data
        check_indices("embedding", indices, self.matrix.shape[0])
        return Tensor(self.matrix.rows(indices))
