"""Matrices in bfloat16 or int8, for products with a few rows, whose time is that of reading the matrix.

bfloat16 has half of float32's bytes and 8 bits of precision. int8 has a quarter of the bytes, and one float32 scale
per row: W_ij is about s_i q_ij with s_i = max_j |W_ij| / 127 and q_ij = W_ij / s_i rounded to the nearest integer
(symmetric quantization, one scale per output). Only the matrix is stored so: x, sums and results are float32.

A few rows are multiplied by a compiled loop (numba_impl.few_rows). For more rows, blocks of the matrix become float32
and are multiplied by BLAS.
"""

from typing import Literal, get_args

import numpy as np

from ...devices.machine import in_parts, matmul_time
from ...devices.memory import scratch
from .blocks import FEW_ROWS, as_rows, few_rows
from .choose_impl import compiled_loops, missing

Kind = Literal["bfloat16", "int8"]
BLOCK = 1 << 16  # weights that are float32 at a time: with their rows of x they fit a core's cache


class QuantizedMatrix:
    """A float32 matrix (N, K) as bfloat16 or int8. ValueError for another kind, a value that is not finite, or where
    numba, which compiles the loops, is missing.
    """

    def __init__(self, weight: np.ndarray, kind: Kind):
        if kind not in get_args(Kind):
            raise ValueError(f"weights are quantized to bfloat16 or int8, not to {kind!r:.80}")
        if reason := missing():
            raise ValueError(f"quantized weights need compiled loops, and {reason}")
        if type(weight) is not np.ndarray or weight.ndim != 2 or weight.dtype != np.float32:
            raise ValueError("only matrices of float32 on the CPU can be quantized: load the model there in float32")
        if not np.isfinite(weight).all():
            raise ValueError("a weight is not finite: such a matrix cannot be quantized")
        self.shape, self.kind = weight.shape, kind
        self.scales = largest_of_rows(weight) / np.float32(127) if kind == "int8" else None  # (N,)
        self.values = np.empty(weight.shape, np.uint16 if self.scales is None else np.int8)
        for rows in blocks(slice(0, len(weight)), weight.shape[1]):  # temporary arrays stay small
            if self.scales is None:
                self.values[rows] = bfloat16_bits(weight[rows])
            else:
                self.values[rows] = np.rint(
                    weight[rows] / np.where(self.scales[rows] == 0, 1, self.scales[rows])[:, None]
                )

    @property
    def nbytes(self) -> int:
        return self.values.nbytes + (0 if self.scales is None else self.scales.nbytes)

    def rows(self, idx: np.ndarray | slice | list[int], out: np.ndarray | None = None) -> np.ndarray:
        """The rows idx (...) as float32 (..., K). IndexError for one that the matrix does not have."""
        values = self.values[idx]
        out = np.empty(values.shape, np.float32) if out is None else out
        if self.scales is None:
            bits = out.view(np.uint32)
            bits[...] = values
            bits <<= 16
        else:
            np.multiply(values, self.scales[idx][..., None], out=out)
        return out

    def linear(self, x: np.ndarray, bias: np.ndarray | None = None) -> np.ndarray:
        """x W^T + b: float32 x (..., K), bias (N) -> (..., N)."""
        if x.dtype != np.float32 or x.shape[-1] != self.shape[1]:
            raise ValueError(
                f"linear: x must be float32 (..., {self.shape[1]}) for quantized weights {self.shape}, "
                f"not {x.dtype} {x.shape}"
            )
        rows = np.ascontiguousarray(as_rows(x))
        if len(rows) < FEW_ROWS:
            y = few_rows(compiled_loops(), rows, self.values, self.scales, bias)
        else:
            y = self._many_rows(rows, bias)
        return y.reshape((*x.shape[:-1], self.shape[0]))  # (M, N) -> (..., N)

    def _many_rows(self, x: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
        out = np.empty((len(x), self.shape[0]), np.float32)

        def part(columns: slice) -> None:
            for block in blocks(columns, self.shape[1]):
                shape = (block.stop - block.start, self.shape[1])
                weight = self.rows(block, scratch(2, shape, np.dtype(np.float32)))
                np.matmul(x, weight.T, out=out[:, block])
            if bias is not None:
                out[:, columns] += bias[columns]

        in_parts(part, self.shape[0], matmul_time(x, self.values.T))
        return out


def blocks(part: slice, columns: int) -> list[slice]:
    """A range of rows, each with that many columns, in blocks of about BLOCK elements."""
    step = max(1, BLOCK // max(1, columns))
    return [slice(i, min(i + step, part.stop)) for i in range(part.start, part.stop, step)]


def largest_of_rows(x: np.ndarray) -> np.ndarray:
    """max |x| of each row: (N, K) -> (N,), without a copy of x."""
    return np.maximum(x.max(axis=1, initial=0), -x.min(axis=1, initial=0))


def bfloat16_bits(x: np.ndarray) -> np.ndarray:
    """Finite float32 rounded to the nearest bfloat16, ties to even, as its bits (uint16)."""
    bits = x.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
