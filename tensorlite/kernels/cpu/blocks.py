"""What all kernels do: see an array as rows, cut it into blocks, multiply matrices, over threads.

Partial sums are added in the order of their blocks, so the same number of threads gives the same bits.
"""

import itertools
import math
from collections.abc import Callable
from typing import cast

import numpy as np

from ...devices.machine import in_parts, matmul_time
from . import onednn
from .numpy_impl import sum_rows

BLOCK = 1 << 18  # elements: small enough for a cache, large enough that a change of threads costs little beside it


def supports(x, *others, **_) -> bool:
    """These kernels are for arrays in main memory, all floating ones float32 or all float64."""
    usual = type(x) is np.ndarray and x.dtype.char in "fd" and x.ndim > 0
    return usual and all(
        o is None or (type(o) is np.ndarray and (o.dtype == x.dtype or o.dtype.kind in "iub")) for o in others
    )


def as_rows(x: np.ndarray) -> np.ndarray:
    return x if x.ndim == 2 else x.reshape((math.prod(x.shape[:-1]), x.shape[-1]))  # (..., C) -> (N, C)


def product(a: np.ndarray, b: np.ndarray, bias: np.ndarray | None = None) -> np.ndarray:
    """a (M, K) @ b (K, N) + bias (N), rows of the result over threads, or columns where there are few rows."""
    out = np.empty((a.shape[0], b.shape[1]), a.dtype)
    matmul = cast(Callable, np.matmul)
    if onednn.pays(a, b):
        (a, b), matmul = onednn.operands(a, b), onednn.matmul

    def rows(part: slice) -> None:
        matmul(a[part], b, out=out[part])
        if bias is not None:
            out[part] += bias

    def columns(part: slice) -> None:
        matmul(a, b[:, part], out=out[:, part])
        if bias is not None:
            out[:, part] += bias[part]

    if a.shape[0] >= 16:
        in_parts(rows, a.shape[0], matmul_time(a, b))
    else:  # bound by reading b
        in_parts(columns, b.shape[1], max(matmul_time(a, b), b.size / 6))
    return out


def products(*pairs: tuple[np.ndarray, np.ndarray], summed: np.ndarray | None = None) -> list[np.ndarray]:
    """[a @ b for a, b in pairs], equally large products: one after another, and half of them in each of two threads.

    The last result is the sum of the rows of `summed` (N, C), where that is asked for.
    """
    sums = [] if summed is None else [(summed, np.empty(summed.shape[1], summed.dtype))]
    if any(onednn.pays(a, b) for a, b in pairs):
        return [*[product(a, b) for a, b in pairs], *[sum_rows(x, total) for x, total in sums]]
    outs = [np.empty((len(a), b.shape[1]), a.dtype) for a, b in pairs]

    def part(which: slice) -> None:
        begin, end = which.start, which.stop  # of 64 for each product
        for (a, b), out in zip(pairs, outs, strict=True):
            rows = slice(len(out) * min(max(0, begin), 64) // 64, len(out) * min(max(0, end), 64) // 64)
            np.matmul(a[rows], b, out=out[rows])
            begin, end = begin - 64, end - 64
        for x, total in sums:
            columns = slice(len(total) * which.start // units, len(total) * which.stop // units)
            sum_rows(x[:, columns], total[columns])

    units = 64 * max(1, len(pairs))
    in_parts(part, units, sum(matmul_time(a, b) for a, b in pairs) + sum(x.size / 4 for x, _ in sums))
    return [*outs, *[total for _, total in sums]]


def by_rows(function: Callable[[slice], object], x: np.ndarray, cost: float) -> list:
    """function(part) for blocks of x (N) or of rows of x (N, C), over threads; results in order. cost: ns of each"""
    n, step = x.shape[0], max(1, BLOCK // max(1, math.prod(x.shape[1:])))

    def blocks(part: slice) -> list:
        return [function(slice(i, min(i + step, part.stop))) for i in range(part.start, part.stop, step)]

    return list(itertools.chain(*in_parts(blocks, n, cost * x.size)))
