"""linear, layer_norm, gelu and add on a GPU, and the casts and column sums that they need: layers.cu and cublasLt.

One idea: products go to cublasLt, all else reads each array once. Sums over rows have two stages, parts of the rows and
then the parts, whose number depends on the shape alone: the same bits in every run, on every GPU. Served are float32
and bfloat16 activations with float32 parameters, and of gelu the tanh form; the rest takes the specification.
"""

import math

import numpy as np

from ...backend import ADDERS, Array, bfloat16, float32, xp
from ...devices.memory import together
from ...errors.layers import check_last_axis
from ..precision import matmul_dtype
from . import blas
from .launch import NAMES, ctype, launch, on_gpu

FEW = (1, 2, 4, 8)  # rows for which a product is no more than reading the matrix: generation, token by token
PER_THREAD = (24, 32)  # elements of a row of layer_norm: as many kinds of kernels; 24 is for rows of 768
LONGEST = 256 * 32  # a longer row does not fit the registers of a team
_WIDTHS = {"float": 4, "bf16": 8}  # elements in 16 bytes
_NAMES = ("float32", "bfloat16")

_TYPES = [(t, w) for t, widest in _WIDTHS.items() for w in (1, widest)]
INSTANTIATIONS = (  # of layers.cu: all that is launched
    *[f"layer_norm<{t}, {v}>" for t in ("float, float", "bf16, float", "bf16, bf16") for v in PER_THREAD],
    *[f"layer_norm_any<{t}>" for t in ("float, float", "bf16, float", "bf16, bf16")],
    *[f"layer_norm_vjp<{t}, {v}>" for t in _WIDTHS for v in PER_THREAD],
    *[f"layer_norm_vjp_any<{t}>" for t in _WIDTHS],
    *[f"{name}<{t}, {w}>" for name in ("gelu", "gelu_vjp", "add", "column_sums") for t, w in _TYPES],
    *[f"cast<{a}, {b}, {w}>" for a, b in (("float", "bf16"), ("bf16", "float")) for w in (1, 8)],
    *[f"few_rows<{t}, {w}, {m}>" for t, w in _TYPES for m in FEW],
    "sum_groups",
)


# ----- what is served, and how it is read -------------------------------------------------------------------------


def supports(x, *others, **_) -> bool:
    """An activation in float32 or bfloat16 on a GPU; its parameters are float32, or all is bfloat16."""
    usual = on_gpu(x) and x.dtype.name in ("float32", "bfloat16") and x.ndim > 0
    return usual and all(o is None or (on_gpu(o) and o.dtype in (float32, x.dtype)) for o in others)


def as_rows(x: Array) -> Array:
    """(..., C) -> (N, C), one row after another in memory."""
    return xp(x).ascontiguousarray(x).reshape((math.prod(x.shape[:-1]), x.shape[-1]))


def address(x: Array) -> int:
    return x.ctypes.data if isinstance(x, np.ndarray) else x.data.ptr


def width(kind: str, n: int, *arrays: Array | None) -> int:
    """How many elements the kernels move at once: 16 bytes of `kind` where each row of n is aligned, otherwise 1."""
    w = _WIDTHS[kind]
    return w if n % w == 0 and all(a is None or address(a) % 16 == 0 for a in arrays) else 1


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


# ----- layer_norm -------------------------------------------------------------------------------------------------


def supports_layer_norm(x, weight=None, bias=None, **_) -> bool:
    return supports(x, weight, bias) and x.shape[-1] > 0


def layer_norm(x, weight=None, bias=None, *, eps=1e-5):
    check_last_axis("layer_norm", x, weight, bias)
    rows, library = as_rows(x), xp(x)
    n, C = rows.shape
    narrow = all(p is None or p.dtype != float32 for p in (weight, bias))  # as all is: generation in bfloat16
    dtype = x.dtype if narrow else float32
    weight, bias = (None if p is None else library.ascontiguousarray(cast(p, dtype)) for p in (weight, bias))
    out, mean, rstd = library.empty((n, C), x.dtype), library.empty(n, float32), library.empty(n, float32)
    types = f"{ctype(x)}, {NAMES[dtype.name]}"
    kernel, warps, teams = _team("layer_norm", types, C, rows, weight, bias, out)
    blocks, threads = ceil_div(n, teams), 32 * warps * teams
    launch("layers.cu", kernel, blocks, threads, rows, weight, bias, out, mean, rstd, n, C, warps, float(eps))
    return out.reshape(x.shape), {"mean": mean, "rstd": rstd}  # (N, C) -> (..., C)


def layer_norm_vjp(g, needs, x, weight, mean, rstd):
    g, rows, library = as_rows(g.astype(x.dtype, copy=False)), as_rows(x), xp(x)
    n, C = rows.shape
    dtype = float32 if weight is None else weight.dtype
    weight = None if weight is None else library.ascontiguousarray(cast(weight, float32))
    dx = library.empty((n, C), x.dtype) if needs[0] else None
    kernel, warps, teams = _team("layer_norm_vjp", ctype(x), C, g, rows, weight, dx)
    threads = 32 * warps * teams
    blocks = min(ceil_div(n, teams), 65_536 // threads)  # a large GPU runs these at once; each adds up its rows
    groups = blocks * teams if "any" in kernel else blocks
    partial = library.empty((groups, 2 * C), float32) if needs[1] or needs[2] else None
    launch("layers.cu", kernel, blocks, threads, g, rows, weight, mean, rstd, dx, partial, n, C, warps)
    dweight, dbias = (library.empty(C, float32) if need else None for need in needs[1:3])
    if partial is not None:
        launch("layers.cu", "sum_groups", ceil_div(2 * C, 32), 512, partial, dweight, dbias, groups, 2 * C, C)
    dweight, dbias = (None if d is None else cast(d, dtype) for d in (dweight, dbias))
    return None if dx is None else dx.reshape(x.shape), dweight, dbias  # (N, C) -> (..., C)


def _team(name: str, types: str, C: int, x: Array, *others: Array | None) -> tuple[str, int, int]:
    """The kernel for rows of C elements, how many warps share a row, and how many rows a block has at once."""
    if width(ctype(x), C, x, *others) == 1 or C > LONGEST:
        return (f"{name}_any<{types}>", 1, 4) if C <= 1024 else (f"{name}_any<{types}>", 8, 1)
    warps = ceil_div(C, 1024)
    v = next(v for v in PER_THREAD if v * 32 * warps >= C)
    return f"{name}<{types}, {v}>", warps, 4 if warps == 1 else 1


# ----- linear -----------------------------------------------------------------------------------------------------


def supports_linear(x, weight, bias=None) -> bool:
    if not supports(x, weight, bias) or weight.ndim != 2 or (bias is not None and bias.shape != weight.shape[:1]):
        return False
    return matmul_dtype() == "bfloat16" or x.dtype == weight.dtype


def linear(x, weight, bias=None):
    """Kept are the operands of the product: in bfloat16 where products are, so that backward casts nothing again."""
    rows, matrix = as_rows(x), xp(x).ascontiguousarray(weight)
    if matmul_dtype() == "bfloat16" or weight.dtype != float32:
        rows, matrix, bias = (None if a is None else cast(a, bfloat16()) for a in (rows, matrix, bias))
    few = 0 < len(rows) <= FEW[-1] and matmul_dtype() != "tf32"
    y = _few_rows(rows, matrix, bias) if few else blas.matmul(rows, matrix.T, bias=bias)
    return y.reshape((*x.shape[:-1], weight.shape[0])), {"rows": rows, "matrix": matrix}  # (N, O) -> (..., O)


def _few_rows(rows: Array, matrix: Array, bias: Array | None) -> Array:
    """rows (n, C) matrix^T + bias, matrix (O, C), for n up to 8: cublasLt would take several times as long."""
    (n, C), O = rows.shape, len(matrix)
    out, kind = xp(rows).empty((n, O), rows.dtype), ctype(rows)
    bias = None if bias is None else xp(rows).ascontiguousarray(bias)
    kernel = f"few_rows<{kind}, {width(kind, C, rows, matrix)}, {next(m for m in FEW if m >= n)}>"
    launch("layers.cu", kernel, ceil_div(O, 8), 256, rows, matrix, bias, out, n, O, C)
    return out


def linear_vjp(g, needs, x, weight, rows, matrix):
    """y = x W^T + b: dx = g W, dW = g^T x, db = sum of the rows of g, each in the dtype of what it belongs to."""
    g = cast(as_rows(g), rows.dtype)
    dx = blas.matmul(g, matrix, out_dtype=x.dtype).reshape(x.shape) if needs[0] else None  # (N, I) -> (..., I)
    dweight = blas.matmul(g.T, rows, out_dtype=weight.dtype) if needs[1] else None
    return dx, dweight, cast(column_sums(g), weight.dtype) if needs[2] else None


def supports_projections(x, query, key, value, query_bias=None, key_bias=None, value_bias=None) -> bool:
    pairs = (query, query_bias), (key, key_bias), (value, value_bias)
    alike = len({bias is None for _, bias in pairs}) == 1
    return alike and all(supports_linear(x, weight, bias) for weight, bias in pairs)


def projections(x, query, key, value, query_bias=None, key_bias=None, value_bias=None):
    bias = None if query_bias is None else together(query_bias, key_bias, value_bias)
    return linear(x, together(query, key, value), bias)


def projections_vjp(g, needs, x, query, key, value, rows, matrix):
    """Those of one `linear`, in three."""
    dx, *sums = linear_vjp(g, (needs[0], any(needs[1:4]), any(needs[4:])), x, query, rows, matrix)
    a, b = len(query), len(query) + len(key)
    return dx, *[part for d in sums for part in ([None] * 3 if d is None else (d[:a], d[a:b], d[b:]))]


def cast(x: Array, dtype: np.dtype) -> Array:
    """`x` in float32 or bfloat16, itself where it is that already."""
    if x.dtype == dtype:
        return x
    x = xp(x).ascontiguousarray(x)
    out = xp(x).empty(x.shape, dtype)
    w = width("bf16", 0, x, out)
    launch("layers.cu", f"cast<{ctype(x)}, {ctype(out)}, {w}>", ceil_div(x.size, 256 * w), 256, x, out, x.size)
    return out


def column_sums(x: Array) -> Array:
    """(N, C) -> (C), in float32."""
    x, library = as_rows(x), xp(x)
    n, C = x.shape
    w = width(ctype(x), C, x)
    tiles = ceil_div(C, 32 * w)
    groups = min(ceil_div(n, 32), max(1, 1024 // max(1, tiles)))
    partial, out = library.empty((groups, C), float32), library.empty(C, float32)
    launch("layers.cu", f"column_sums<{ctype(x)}, {w}>", (tiles, groups), 256, x, partial, n, C)
    launch("layers.cu", "sum_groups", ceil_div(C, 32), 512, partial, out, None, groups, C, C)
    return out


# ----- gelu -------------------------------------------------------------------------------------------------------


def supports_gelu(x, *, approximate="tanh") -> bool:
    return supports(x) and approximate == "tanh"


def gelu(x, *, approximate="tanh"):
    x = xp(x).ascontiguousarray(x)
    out = xp(x).empty(x.shape, x.dtype)
    _elementwise("gelu", x, out)
    return out


def gelu_vjp(g, needs, x):
    g, x = (xp(x).ascontiguousarray(a) for a in (g.astype(x.dtype, copy=False), x))
    dx = xp(x).empty(x.shape, x.dtype)
    _elementwise("gelu_vjp", g, x, dx)
    return (dx,)


def _elementwise(name: str, *arrays: Array) -> None:
    n, kind = arrays[-1].size, ctype(arrays[-1])
    w = width(kind, 0, *arrays)
    launch("layers.cu", f"{name}<{kind}, {w}>", ceil_div(n, 256 * w), 256, *arrays, n)


# ----- add --------------------------------------------------------------------------------------------------------


def supports_add(x, y) -> bool:
    alike = on_gpu(x) and on_gpu(y) and x.dtype == y.dtype and x.shape == y.shape
    return alike and x.dtype.name in _NAMES and x.ndim > 0 and x.flags.c_contiguous and y.flags.c_contiguous


def add(x, y):
    """x + y of one shape: CuPy moves bfloat16 two bytes at a time, which takes three times as long."""
    out = xp(x).empty(x.shape, x.dtype)
    _elementwise("add", x, y, out)
    return out


def add_vjp(g, needs):
    return g, g


def add_if_served(x: Array, y: Array, out: Array | None = None) -> Array | None:
    """x + y, into `out`, which may be x; None where that is left to the library."""
    if not supports_add(x, y):
        return None
    out = xp(x).empty(x.shape, x.dtype) if out is None else out
    _elementwise("add", x, y, out)
    return out


ADDERS["cupy"] = add_if_served
