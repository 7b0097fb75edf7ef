"""linear, projections, layer_norm, gelu and add on a GPU, and the casts and column sums that they need.

Matrix products go to cublasLt (blas.py); the kernels of layers.cu are bound by memory and read each array once. Sums
over rows have two stages, groups of rows and then the groups, whose number depends on the shape alone: every run on
every GPU gives the same bits. Activations are float32 or bfloat16, parameters float32, or all is bfloat16.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from ...backend import ADDERS, Array, bfloat16, float32, xp
from ...errors.layers import check_last_axis
from .. import shared
from ..precision import matmul_dtype
from ..shared import Gradients, Residuals
from . import blas
from .launch import FLOATS, INSTANTIATED_WIDTHS, NAMES, WIDTHS, as_rows, ceil_div, ctype, launch, on_gpu, width

FILE = "layers.cu"
FEW_ROWS = (1, 2, 4, 8)  # for so many a product only has to read the matrix: generation, token by token
PER_THREAD = (24, 32)  # elements of a row of layer_norm, each a kernel of its own; 24 is for rows of 768
LONGEST = 256 * 32  # elements of a row that fit the registers of its threads

_LAYER_NORM = ("float, float", "bf16, float", "bf16, bf16")  # dtypes of activations and parameters
INSTANTIATIONS = (
    *[f"layer_norm<{t}, {v}>" for t in _LAYER_NORM for v in PER_THREAD],
    *[f"layer_norm_any<{t}>" for t in _LAYER_NORM],
    *[f"layer_norm_vjp<{t}, {v}>" for t in WIDTHS for v in PER_THREAD],
    *[f"layer_norm_vjp_any<{t}>" for t in WIDTHS],
    *[f"{name}<{t}, {w}>" for name in ("gelu", "gelu_vjp", "add", "column_sums") for t, w in INSTANTIATED_WIDTHS],
    *[f"cast<{a}, {b}, {w}>" for a, b in (("float", "bf16"), ("bf16", "float")) for w in (1, 8)],
    *[f"few_rows<{t}, {w}, {m}>" for t, w in INSTANTIATED_WIDTHS for m in FEW_ROWS],
    "sum_groups",
)


def supports(x: Array, *parameters: Array | None) -> bool:
    """Whether `x` is float32 or bfloat16 on a GPU, not 0-d, and the parameters are float32 or of its dtype."""
    usual = on_gpu(x) and x.dtype.name in FLOATS and x.ndim > 0
    return usual and all(p is None or (on_gpu(p) and p.dtype in (float32, x.dtype)) for p in parameters)


# ----- layer_norm -------------------------------------------------------------------------------------------------


def supports_layer_norm(x: Array, weight: Array | None = None, bias: Array | None = None, **_: Any) -> bool:
    """As `supports`, with rows that are not empty."""
    return supports(x, weight, bias) and x.shape[-1] > 0


def layer_norm(
    x: Array, weight: Array | None = None, bias: Array | None = None, *, eps: float = 1e-5
) -> tuple[Array, Residuals]:
    """(x - mean) rstd weight + bias over the last axis, rstd = 1 / sqrt(var + eps): x (..., C), weight and bias (C) ->
    (..., C) in the dtype of x. Residuals: mean and rstd, float32 (N) for the N = size / C rows.
    """
    check_last_axis("layer_norm", x, weight, bias)
    rows, library = as_rows(x), xp(x)
    n, C = rows.shape
    narrow = all(p is None or p.dtype != float32 for p in (weight, bias))  # all in bfloat16: generation
    dtype = x.dtype if narrow else float32
    weight, bias = (None if p is None else library.ascontiguousarray(cast(p, dtype)) for p in (weight, bias))
    out, mean, rstd = library.empty((n, C), x.dtype), library.empty(n, float32), library.empty(n, float32)
    types = f"{ctype(x)}, {NAMES[dtype.name]}"
    kernel, warps, teams = _team("layer_norm", types, C, rows, weight, bias, out)
    blocks, threads = ceil_div(n, teams), 32 * warps * teams
    launch(FILE, kernel, blocks, threads, rows, weight, bias, out, mean, rstd, n, C, warps, float(eps))
    return out.reshape(x.shape), {"mean": mean, "rstd": rstd}  # (N, C) -> (..., C)


def layer_norm_vjp(
    g: Array, needs_grad: Sequence[bool], x: Array, weight: Array | None, mean: Array, rstd: Array
) -> Gradients:
    """With z = (x - mean) rstd and h = g weight: dx = rstd (h - mean(h) - z mean(h z)), dweight = sum of g z over the
    rows, dbias = sum of g; each in the dtype of its argument.
    """
    g, rows, library = as_rows(g.astype(x.dtype, copy=False)), as_rows(x), xp(x)
    n, C = rows.shape
    dtype = float32 if weight is None else weight.dtype
    weight = None if weight is None else library.ascontiguousarray(cast(weight, float32))
    dx = library.empty((n, C), x.dtype) if needs_grad[0] else None
    kernel, warps, teams = _team("layer_norm_vjp", ctype(x), C, g, rows, weight, dx)
    threads = 32 * warps * teams
    blocks = min(ceil_div(n, teams), 65_536 // threads)  # a large GPU runs these at once; each adds up its rows
    groups = blocks * teams if "any" in kernel else blocks
    partial_sums = library.empty((groups, 2 * C), float32) if needs_grad[1] or needs_grad[2] else None
    launch(FILE, kernel, blocks, threads, g, rows, weight, mean, rstd, dx, partial_sums, n, C, warps)
    dweight, dbias = (library.empty(C, float32) if need else None for need in needs_grad[1:3])
    if partial_sums is not None:
        launch(FILE, "sum_groups", ceil_div(2 * C, 32), 512, partial_sums, dweight, dbias, groups, 2 * C, C)
    dweight, dbias = (None if d is None else cast(d, dtype) for d in (dweight, dbias))
    return None if dx is None else dx.reshape(x.shape), dweight, dbias  # (N, C) -> (..., C)


def _team(name: str, types: str, C: int, x: Array, *others: Array | None) -> tuple[str, int, int]:
    """The kernel for rows of C elements, how many warps share a row, and how many rows a block has at once."""
    if width(C, x, *others) == 1 or C > LONGEST:
        return (f"{name}_any<{types}>", 1, 4) if C <= 1024 else (f"{name}_any<{types}>", 8, 1)
    warps = ceil_div(C, 1024)
    v = next(v for v in PER_THREAD if v * 32 * warps >= C)
    return f"{name}<{types}, {v}>", warps, 4 if warps == 1 else 1


# ----- linear -----------------------------------------------------------------------------------------------------


def supports_linear(x: Array, weight: Array, bias: Array | None = None) -> bool:
    """As `supports`, weight (n_out, n_in), bias (n_out). x and weight of one dtype, unless products are in bfloat16."""
    if not supports(x, weight, bias) or weight.ndim != 2 or (bias is not None and bias.shape != weight.shape[:1]):
        return False
    return matmul_dtype() == "bfloat16" or x.dtype == weight.dtype


def linear(x: Array, weight: Array, bias: Array | None = None) -> tuple[Array, Residuals]:
    """x W^T + b: x (..., n_in), weight (n_out, n_in), bias (n_out) -> (..., n_out).

    Residuals: the operands of the product, rows (N, n_in) and matrix (n_out, n_in), in bfloat16 where products are, so
    that the derivative does not cast them again.
    """
    rows, matrix = as_rows(x), xp(x).ascontiguousarray(weight)
    if matmul_dtype() == "bfloat16" or weight.dtype != float32:
        rows, matrix, bias = (None if a is None else cast(a, bfloat16()) for a in (rows, matrix, bias))
    few = 0 < len(rows) <= FEW_ROWS[-1] and matmul_dtype() != "tf32"
    y = _linear_few_rows(rows, matrix, bias) if few else blas.matmul(rows, matrix.T, bias=bias)
    return y.reshape((*x.shape[:-1], weight.shape[0])), {"rows": rows, "matrix": matrix}  # (N, O) -> (..., O)


def _linear_few_rows(rows: Array, matrix: Array, bias: Array | None) -> Array:
    """rows matrix^T + bias for rows (n, C), n up to 8, and matrix (O, C): cublasLt would take several times as long."""
    (n, C), O = rows.shape, len(matrix)
    out = xp(rows).empty((n, O), rows.dtype)
    bias = None if bias is None else xp(rows).ascontiguousarray(bias)
    kernel = f"few_rows<{ctype(rows)}, {width(C, rows, matrix)}, {next(m for m in FEW_ROWS if m >= n)}>"
    launch(FILE, kernel, ceil_div(O, 8), 256, rows, matrix, bias, out, n, O, C)
    return out


def linear_vjp(g: Array, needs_grad: Sequence[bool], x: Array, weight: Array, rows: Array, matrix: Array) -> Gradients:
    """dx = g W, dW = g^T x, db = sum of g over all positions; each in the dtype of its argument."""
    g = cast(as_rows(g), rows.dtype)
    dx = blas.matmul(g, matrix, out_dtype=x.dtype).reshape(x.shape) if needs_grad[0] else None  # (N, I) -> (..., I)
    dweight = blas.matmul(g.T, rows, out_dtype=weight.dtype) if needs_grad[1] else None
    return dx, dweight, cast(column_sums(g), weight.dtype) if needs_grad[2] else None


supports_projections = partial(shared.supports_projections, supports_linear)
projections = partial(shared.projections, linear)


def projections_vjp(
    g: Array, needs_grad: Sequence[bool], x: Array, query: Array, key: Array, value: Array, rows: Array, matrix: Array
) -> Gradients:
    """Those of `linear` with the three weights stacked, cut into three."""
    stacked = linear_vjp(g, shared.stacked_needs(needs_grad), x, query, rows, matrix)
    return shared.split_gradients(stacked, query, key)


def cast(x: Array, dtype: np.dtype) -> Array:
    """`x` in float32 or bfloat16; x itself where it has that dtype."""
    if x.dtype == dtype:
        return x
    x = xp(x).ascontiguousarray(x)
    out = xp(x).empty(x.shape, dtype)
    w = width(0, *((x, out) if x.itemsize == 2 else (out, x)))
    launch(FILE, f"cast<{ctype(x)}, {ctype(out)}, {w}>", ceil_div(x.size, 256 * w), 256, x, out, x.size)
    return out


def column_sums(x: Array) -> Array:
    """The sum over all positions, (..., C) -> (C), in float32."""
    x, library = as_rows(x), xp(x)
    n, C = x.shape
    w = width(C, x)
    tiles = ceil_div(C, 32 * w)
    groups = min(ceil_div(n, 32), max(1, 1024 // max(1, tiles)))
    partial_sums, out = library.empty((groups, C), float32), library.empty(C, float32)
    launch(FILE, f"column_sums<{ctype(x)}, {w}>", (tiles, groups), 256, x, partial_sums, n, C)
    launch(FILE, "sum_groups", ceil_div(C, 32), 512, partial_sums, out, None, groups, C, C)
    return out


# ----- gelu -------------------------------------------------------------------------------------------------------

supports_gelu = partial(shared.supports_gelu, supports)


def gelu(x: Array, *, approximate: str = "tanh") -> Array:
    """x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2, elementwise."""
    x = xp(x).ascontiguousarray(x)
    return _elementwise("gelu", x, xp(x).empty(x.shape, x.dtype))


def gelu_vjp(g: Array, needs_grad: Sequence[bool], x: Array) -> Gradients:
    """dx = g (s + 2 u' x s (1 - s)), with s = 1 / (1 + exp(-2 u)) and u = sqrt(2 / pi) (x + 0.044715 x^3)."""
    g, x = (xp(x).ascontiguousarray(a) for a in (g.astype(x.dtype, copy=False), x))
    return (_elementwise("gelu_vjp", g, x, xp(x).empty(x.shape, x.dtype)),)


def _elementwise(name: str, *arrays: Array) -> Array:
    """Launch a kernel on contiguous arrays of one dtype and size; the last one is written to, and returned."""
    out = arrays[-1]
    w = width(0, *arrays)
    launch(FILE, f"{name}<{ctype(out)}, {w}>", ceil_div(out.size, 256 * w), 256, *arrays, out.size)
    return out


# ----- add --------------------------------------------------------------------------------------------------------


def supports_add(x: Array, y: Array) -> bool:
    """Contiguous float32 or bfloat16 on a GPU, not 0-d, of one shape and dtype."""
    alike = on_gpu(x) and on_gpu(y) and x.dtype == y.dtype and x.shape == y.shape
    return alike and x.dtype.name in FLOATS and x.ndim > 0 and x.flags.c_contiguous and y.flags.c_contiguous


def add_if_supported(x: Array, y: Array, out: Array | None = None) -> Array | None:
    """x + y, into `out` where it is given, which may be x; None where `supports_add` says no, and CuPy must add.

    CuPy's own kernel moves bfloat16 two bytes at a time, and takes three times as long.
    """
    if not supports_add(x, y):
        return None
    return _elementwise("add", x, y, xp(x).empty(x.shape, x.dtype) if out is None else out)


ADDERS["cupy"] = add_if_supported
