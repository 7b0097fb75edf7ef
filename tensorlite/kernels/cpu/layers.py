"""linear, projections, embedding, layer_norm, gelu and dropout on NumPy's arrays: what acts on each position alone."""

import functools
from collections.abc import Sequence
from functools import partial

import numpy as np

from ...backend import Array
from ...devices.memory import concatenated
from ...errors.layers import check_indices, check_last_axis, check_table
from .. import shared
from ..shared import Gradients, Residuals
from .blocks import as_rows, for_blocks, linear_gradients, product, supports
from .choose_impl import choose_impl

# ----- linear -----------------------------------------------------------------------------------------------------


def supports_linear(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None = None) -> bool:
    """float32 or float64 alone, weight (n_out, n_in), bias (n_out)."""
    return supports(x, weight, bias) and weight.ndim == 2 and (bias is None or bias.shape == weight.shape[:1])


def linear(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None = None) -> np.ndarray:
    """x W^T + b: x (..., n_in), weight (n_out, n_in), bias (n_out) -> (..., n_out)."""
    y = product(as_rows(x), weight.T, bias)
    return y.reshape((*x.shape[:-1], weight.shape[0]))  # (N, O) -> (..., O)


def linear_vjp(g: np.ndarray, needs_grad: Sequence[bool], x: np.ndarray, weight: np.ndarray) -> Gradients:
    """dx = g W, dW = g^T x, db = sum of g over all positions."""
    of_x, of_weight, of_bias = needs_grad
    results = iter(linear_gradients(as_rows(g), weight if of_x else None, as_rows(x) if of_weight else None, of_bias))
    dx, dweight, dbias = (next(results) if need else None for need in needs_grad)
    return None if dx is None else dx.reshape(x.shape), dweight, dbias  # (N, I) -> (..., I)


supports_projections = partial(shared.supports_projections, supports_linear)


def _linear_and_view(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None) -> tuple[np.ndarray, Residuals]:
    """`linear`; residual: the weight if it is a view, which takes longer to find than a small product."""
    return linear(x, weight, bias), {"matrix": None if weight.base is None else weight}


projections = partial(shared.projections, _linear_and_view)


def projections_vjp(
    g: np.ndarray, needs_grad: Sequence[bool], x: np.ndarray, query: np.ndarray, key: np.ndarray, value: np.ndarray,
    matrix: np.ndarray | None,
) -> Gradients:  # fmt: skip
    """Those of `linear` with the three weights stacked, cut into three."""
    matrix = concatenated(query, key, value) if matrix is None else matrix
    return shared.split_gradients(linear_vjp(g, shared.stacked_needs(needs_grad), x, matrix), query, key)


# ----- embedding --------------------------------------------------------------------------------------------------


def embedding(weight: np.ndarray, idx: np.ndarray) -> np.ndarray:
    """weight[idx]: weight (V, D), integers idx (...) -> (..., D). IndexError for one outside 0 .. V - 1."""
    check_table("embedding", weight)
    check_indices("embedding", idx, weight.shape[0])
    return weight.take(idx, axis=0)


def embedding_vjp(
    g: np.ndarray, needs_grad: Sequence[bool], weight_shape: tuple[int, ...], idx: np.ndarray
) -> Gradients:
    """dW_v = sum of g_i over the positions i with idx_i = v, in a fixed order."""
    out, rows = np.zeros(weight_shape, g.dtype), as_rows(g)
    choose_impl(rows).add_rows(rows, np.ascontiguousarray(idx.reshape(-1), np.int64), out)
    return out, None


# ----- layer_norm -------------------------------------------------------------------------------------------------


def layer_norm(
    x: np.ndarray, weight: np.ndarray | None = None, bias: np.ndarray | None = None, *, eps: float = 1e-5
) -> tuple[np.ndarray, Residuals]:
    """(x - mean) rstd weight + bias over the last axis, rstd = 1 / sqrt(var + eps): x (..., C), weight and bias (C).

    Residuals: mean and rstd, (N, 1) each for the N = size / C rows.
    """
    check_last_axis("layer_norm", x, weight, bias)
    rows = as_rows(x)
    if len(rows) == 1:
        return _layer_norm_of_one_row(x, weight, bias, eps)
    out, (mean, rstd) = np.empty(rows.shape, x.dtype), np.empty((2, len(rows), 1), x.dtype)
    impl = choose_impl(rows, weight, bias)

    def normalize(part: slice) -> None:
        impl.layer_norm(rows[part], weight, bias, eps, out[part], mean[part], rstd[part])

    for_blocks(normalize, rows, cost=0.8)
    return out.reshape(x.shape), {"mean": mean, "rstd": rstd}  # (N, C) -> (..., C)


def _layer_norm_of_one_row(
    x: np.ndarray, weight: np.ndarray | None, bias: np.ndarray | None, eps: float
) -> tuple[np.ndarray, Residuals]:
    """The same with numbers for mean and rstd: fewer NumPy calls when text is generated token by token."""
    mean = np.add.reduce(x, axis=None) / x.size
    out = x - mean
    flat = out.reshape(-1)
    rstd = 1 / np.sqrt(flat @ flat / x.size + eps)
    out *= rstd
    if weight is not None:
        out *= weight
    if bias is not None:
        out += bias
    statistics = np.array([[mean], [rstd]], x.dtype)
    return out, {"mean": statistics[:1], "rstd": statistics[1:]}


def layer_norm_vjp(
    g: np.ndarray, needs_grad: Sequence[bool], x: np.ndarray, weight: np.ndarray | None, mean: np.ndarray,
    rstd: np.ndarray,
) -> Gradients:  # fmt: skip
    """With z = (x - mean) rstd and h = g weight: dx = rstd (h - mean(h) - z mean(h z)), dweight = sum of g z over the
    rows, dbias = sum of g.
    """
    rows, g = as_rows(x), as_rows(g)
    dx = np.empty(rows.shape, x.dtype) if needs_grad[0] else None
    impl = choose_impl(rows, g, weight)

    def backward(part: slice) -> list[Array]:
        into = None if dx is None else dx[part]
        sums = [np.empty(x.shape[-1], x.dtype) if need else None for need in needs_grad[1:]]
        impl.layer_norm_vjp(g[part], rows[part], weight, mean[part], rstd[part], into, *sums)
        return sums

    sums = for_blocks(backward, rows, cost=1.5)
    dweight, dbias = (_total([each[i] for each in sums], g) if needs_grad[i + 1] else None for i in (0, 1))
    return None if dx is None else dx.reshape(x.shape), dweight, dbias  # (N, C) -> (..., C)


def _total(parts: list[np.ndarray], like: np.ndarray) -> np.ndarray:
    """The sum of partial sums (C), added in their order; zeros where there is none."""
    return functools.reduce(np.add, parts) if parts else np.zeros(like.shape[-1:], like.dtype)


# ----- gelu -------------------------------------------------------------------------------------------------------

supports_gelu = partial(shared.supports_gelu, supports)


def gelu(x: np.ndarray, *, approximate: str = "tanh") -> np.ndarray:
    """x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2, elementwise."""
    flat = x.reshape(-1)  # (..., C) -> (N)
    out, impl = np.empty(flat.shape, x.dtype), choose_impl(flat)
    for_blocks(lambda part: impl.gelu(flat[part], out[part]), flat, cost=1.0)
    return out.reshape(x.shape)  # (N) -> (..., C)


def gelu_vjp(g: np.ndarray, needs_grad: Sequence[bool], x: np.ndarray, out: np.ndarray) -> Gradients:
    """With s = out / x: dx = g (s + 2 u' out (1 - s)), u' = sqrt(2 / pi) (1 + 3 0.044715 x^2).

    The rule uses `out` because this avoids a tanh, and the linear layer that follows saves it anyway.
    """
    flat, y, g = (array.reshape(-1) for array in (x, out, g))  # (..., C) -> (N)
    dx, impl = np.empty(flat.shape, x.dtype), choose_impl(flat, y, g)
    for_blocks(lambda part: impl.gelu_vjp(g[part], flat[part], y[part], dx[part]), flat, cost=1.0)
    return (dx.reshape(x.shape),)  # (N) -> (..., C)


# ----- dropout ----------------------------------------------------------------------------------------------------


def apply_dropout_mask(x: np.ndarray, keep: np.ndarray, *, p: float) -> np.ndarray:
    """x / (1 - p) where `keep`, booleans of x's shape, is True; 0 elsewhere."""
    flat, kept = x.reshape((-1, 1)), keep.reshape((-1, 1))  # (..., C) -> (N, 1)
    out, scale = np.empty(flat.shape, x.dtype), shared.dropout_scale(p)

    def part(rows: slice) -> None:
        np.multiply(flat[rows], scale, out=out[rows])
        np.copyto(out[rows], 0, where=~kept[rows])

    for_blocks(part, flat, cost=0.5)
    return out.reshape(x.shape)  # (N, 1) -> (..., C)


apply_dropout_mask_vjp = partial(shared.apply_dropout_mask_vjp, apply_dropout_mask)
