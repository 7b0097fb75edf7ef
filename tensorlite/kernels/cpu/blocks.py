"""What all kernels do: see an array as rows, cut it into blocks, multiply matrices, over threads.

Partial sums are added in the order of their blocks, so the same number of threads gives the same bits.
"""

import itertools
import math
from collections.abc import Callable
from typing import cast

import numpy as np

from ...machine import in_parts, matmul_time
from .. import onednn

BLOCK = 1 << 18  # elements: small enough for a cache, large enough that a change of threads costs little beside it


def serves(x, *others, **_) -> bool:
    """These kernels are for arrays in main memory, all floating ones float32 or all float64."""
    usual = type(x) is np.ndarray and x.dtype.char in "fd" and x.ndim > 0
    return usual and all(
        o is None or (type(o) is np.ndarray and (o.dtype == x.dtype or o.dtype.kind in "iub")) for o in others
    )


def as_rows(x: np.ndarray) -> np.ndarray:
    return x.reshape((math.prod(x.shape[:-1]), x.shape[-1]))  # (..., C) -> (N, C)


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


def products(*pairs: tuple[np.ndarray, np.ndarray]) -> list[np.ndarray]:
    """[a @ b for a, b in pairs], equally large products: one after another, and half of them in each of two threads."""
    if any(onednn.pays(a, b) for a, b in pairs):
        return [product(a, b) for a, b in pairs]
    outs = [np.empty((len(a), b.shape[1]), a.dtype) for a, b in pairs]

    def part(which: slice) -> None:
        for i, ((a, b), out) in enumerate(zip(pairs, outs, strict=True)):
            start, stop = (len(out) * min(max(0, at - 64 * i), 64) // 64 for at in (which.start, which.stop))
            if start < stop:
                np.matmul(a[start:stop], b, out=out[start:stop])

    in_parts(part, 64 * len(pairs), sum(matmul_time(a, b) for a, b in pairs))
    return outs


def by_rows(function: Callable[[slice], object], x: np.ndarray, cost: float) -> list:
    """function(part) for blocks of x (N) or of rows of x (N, C), over threads; results in order. cost: ns of each"""
    n, step = x.shape[0], max(1, BLOCK // max(1, math.prod(x.shape[1:])))

    def blocks(part: slice) -> list:
        return [function(slice(i, min(i + step, part.stop))) for i in range(part.start, part.stop, step)]

    return list(itertools.chain(*in_parts(blocks, n, cost * x.size)))
