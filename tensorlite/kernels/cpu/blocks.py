"""Rows, blocks and matrix products over threads: what all CPU kernels are made of.

Partial sums are added in the order of their blocks, so the same number of threads gives the same bits.
"""

import itertools
import math
from collections.abc import Callable
from types import ModuleType
from typing import Any, TypeVar

import numpy as np

from ...devices.machine import in_parts, matmul_time, splits
from . import onednn
from .choose_impl import numba_impl_for
from .numpy_impl import sum_rows

T = TypeVar("T")
BLOCK = 1 << 18  # elements: they fit a core's cache, and take far longer than handing them to a thread
FEW_ROWS = 32  # a product with fewer takes about as long as reading the matrix
COMPILED = 1 << 18  # weights of a product of few rows, from which importing numba pays


def supports(x: Any, *others: Any, **_: Any) -> bool:
    """Whether `x` is a NumPy array of float32 or float64, not 0-d, and the others have its dtype, integers or bools."""
    if type(x) is not np.ndarray or x.dtype.char not in "fd" or not x.ndim:
        return False
    for other in others:  # a plain loop: every kernel asks in every call
        if other is None:
            continue
        if type(other) is not np.ndarray or (other.dtype != x.dtype and other.dtype.kind not in "iub"):
            return False
    return True


def as_rows(x: np.ndarray) -> np.ndarray:
    """(..., C) -> (N, C), a view where the strides allow it."""
    if x.ndim == 2:
        return x
    shape = x.shape
    return x.reshape((math.prod(shape[:-1]), shape[-1]))  # (..., C) -> (N, C)


def product(
    a: np.ndarray, b: np.ndarray, bias: np.ndarray | None = None, a_bits: np.ndarray | None = None
) -> np.ndarray:
    """a @ b + bias: a (M, K), b (K, N), bias (N) -> (M, N).

    Threads share the rows of the result, or its columns where there are few rows. In bfloat16 where that is set and
    faster (onednn.is_worthwhile); `a_bits` is a in bfloat16, if it has been rounded already.
    """
    if a.shape[0] < FEW_ROWS and b.size >= COMPILED and (impl := numba_impl_for(b.T, a, bias)):
        return few_rows(impl, a, b.T, None, bias)
    by_rows, nanoseconds, half = a.shape[0] >= FEW_ROWS, matmul_time(a, b), onednn.is_worthwhile(a, b)
    if not by_rows:  # reading b takes the time
        nanoseconds = max(nanoseconds, b.size / 6)
    if not half and not splits(a.shape[0] if by_rows else b.shape[1], nanoseconds):
        out = a.dot(b)  # in less time than np.matmul where all is small
        return out if bias is None else np.add(out, bias, out=out)
    out = np.empty((a.shape[0], b.shape[1]), a.dtype)
    matmul: Callable[..., np.ndarray] = np.matmul
    if half:
        a, b = onednn.to_bf16_scratch(0, a) if a_bits is None else a_bits, onednn.to_bf16_scratch(1, b)
        matmul = onednn.matmul

    def rows(part: slice) -> None:
        matmul(a[part], b, out=out[part])
        if bias is not None:
            out[part] += bias

    def columns(part: slice) -> None:
        matmul(a, b[:, part], out=out[:, part])
        if bias is not None:
            out[:, part] += bias[part]

    if by_rows:
        in_parts(rows, a.shape[0], nanoseconds)
    else:
        in_parts(columns, b.shape[1], nanoseconds)
    return out


def few_rows(
    impl: ModuleType, x: np.ndarray, weight: np.ndarray, scales: np.ndarray | None, bias: np.ndarray | None
) -> np.ndarray:
    """x (M, K) @ weight (N, K)^T * scales (N) + bias (N) -> (M, N), by the compiled loop of that name."""
    out = np.empty((len(weight), len(x)), x.dtype)

    def rows(fours: slice) -> None:  # cut at multiples of 4: the same bits on any number of threads
        part = slice(4 * fours.start, 4 * fours.stop)
        shares = (None if y is None else y[part] for y in (scales, bias))
        impl.few_rows(x, weight[part], *shares, out[part])

    nanoseconds = max(weight.nbytes / 24, weight.size * len(x) / 16)  # 24 bytes or 16 products in each
    in_parts(rows, -(-len(weight) // 4), nanoseconds)
    return np.ascontiguousarray(out.T)  # (N, M) -> (M, N)


def linear_gradients(
    g: np.ndarray, weight: np.ndarray | None, x: np.ndarray | None, with_sum: bool
) -> list[np.ndarray]:
    """[g @ weight, g^T @ x, the sum of the rows of g]: g (N, O), weight (O, I), x (N, I) -> (N, I), (O, I), (O).

    Without what is None, and without the sum unless `with_sum`. Both products are equally large: with two threads each
    computes one of them, and not half of each.
    """
    sums = [(g, np.empty(g.shape[1], g.dtype))] if with_sum else []
    pairs = [(a, b) for a, b in ((g, weight), (g.T, x)) if b is not None]
    if any(onednn.is_worthwhile(a, b) for a, b in pairs):
        g_bits = onednn.to_bf16_scratch(0, g)  # for both products
        outs = [product(a, b, None, g_bits if a is g else g_bits.T) for a, b in pairs]
        return [*outs, *[sum_rows(x, total) for x, total in sums]]
    units = 64 * max(1, len(pairs))  # of work: 64 for each product
    nanoseconds = sum([matmul_time(a, b) for a, b in pairs]) + sum([x.size / 4 for x, _ in sums])
    if not splits(units, nanoseconds):
        return [*[a.dot(b) for a, b in pairs], *[sum_rows(x, total) for x, total in sums]]
    outs = [np.empty((len(a), b.shape[1]), a.dtype) for a, b in pairs]

    def part(which: slice) -> None:
        begin, end = which.start, which.stop
        for (a, b), out in zip(pairs, outs, strict=True):
            rows = slice(len(out) * min(max(0, begin), 64) // 64, len(out) * min(max(0, end), 64) // 64)
            np.matmul(a[rows], b, out=out[rows])
            begin, end = begin - 64, end - 64
        for x, total in sums:
            columns = slice(len(total) * which.start // units, len(total) * which.stop // units)
            sum_rows(x[:, columns], total[columns])

    in_parts(part, units, nanoseconds)
    return [*outs, *[total for _, total in sums]]


def for_blocks(function: Callable[[slice], T], x: np.ndarray, cost: float) -> list[T]:
    """[function(rows) for blocks of rows of x], over threads. x (N) or (N, C); `cost`: ns for each of its elements."""
    n, step = x.shape[0], max(1, BLOCK // max(1, math.prod(x.shape[1:])))
    if 0 < n <= step and not splits(n, cost * x.size):
        return [function(slice(0, n))]

    def blocks(part: slice) -> list[T]:
        return [function(slice(i, min(i + step, part.stop))) for i in range(part.start, part.stop, step)]

    return list(itertools.chain(*in_parts(blocks, n, cost * x.size)))
