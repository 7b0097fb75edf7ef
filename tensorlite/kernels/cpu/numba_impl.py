"""The functions of numpy_impl.py as loops over rows, compiled by numba: a row stays in the CPU's cache meanwhile.

Each function has its docstring, with formula and shapes, in numpy_impl.py. All arrays are contiguous float32. To let
numba vectorize, no number is float64, exp is made of additions and products, and a row may be summed in any order.
numba keeps the compiled code on disk, beside this file or in the user's cache folder. Only choose_impl.py imports this
module, where numba is installed.
"""

from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import intrinsic, overload

from ...backend import Array
from . import numpy_impl

F = np.float32
GELU_A, GELU_C = F(numpy_impl.GELU_A), F(numpy_impl.GELU_C)
IN_ORDER = {"contract"}  # LLVM may round a product and a sum once, and must respect infinities and nan
ANY_ORDER = {"contract", "reassoc", "arcp", "nsz"}  # it may also reorder sums, which vectorizes them

loop = njit(nogil=True, cache=True, error_model="numpy", fastmath=IN_ORDER)
reduction = njit(nogil=True, cache=True, error_model="numpy", fastmath=ANY_ORDER)


@njit(fastmath=IN_ORDER)
def exp(x: Any) -> Any:
    """e^x = 2^n e^r with |r| <= ln(2) / 2: a polynomial for e^r (of Cephes' expf), and n written into the exponent.

    Correct within a unit in the last place; 0 below -87.3, where float32's normal numbers end, and inf above 88.3.
    """
    x = F(-104) if x < F(-104) else F(89) if x > F(89) else x  # nan stays nan
    n = np.floor(x * F(1.4426950408889634) + F(0.5))
    r = x - n * F(0.693359375) - n * F(-2.1219444005e-4)  # ln 2 in two pieces, of which the first makes no error
    p = F(1.9875691500e-4)
    p = p * r + F(1.3981999507e-3)
    p = p * r + F(8.3334519073e-3)
    p = p * r + F(4.1665795894e-2)
    p = p * r + F(1.6666665459e-1)
    p = p * r + F(5.0000001201e-1)
    power = np.int32((np.int32(n if n > F(-127) else F(-127)) + 127) << 23)  # the bits of 2^n: at its ends of 0 and inf
    return (p * r * r + r + F(1)) * power.view(F)


@intrinsic
def larger(context: Any, x: Any, y: Any) -> Any:
    """x if x > y, otherwise y, in instructions that LLVM vectorizes: those of Python's `max` lack these flags."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        flags = ("nnan", "nsz")  # which of 0 and -0, or whether a nan is passed over, may depend on the order
        return builder.select(builder.fcmp_ordered(">", *args, flags=flags), *args, flags=flags)

    return x(x, y), generate


@reduction
def largest(x: Array) -> Array:
    """The largest of x (N). A nan may be passed over: it is found by the row's sum."""
    top = F(-np.inf)
    for j in range(x.size):
        top = larger(x[j], top)  # type: ignore[call-arg]
    return top


@loop
def add_rows(x: Array, ids: Array, out: Array) -> None:
    for i in range(ids.size):
        row, into = x[i], out[ids[i]]
        for j in range(row.size):
            into[j] += row[j]


@reduction
def layer_norm(
    x: Array, weight: Array | None, bias: Array | None, eps: float, out: Array, mean: Array, rstd: Array,
) -> None:  # fmt: skip
    N, C = x.shape
    for i in range(N):
        total, squares = F(0), F(0)
        for j in range(C):
            total += x[i, j]
        m = total / F(C)
        for j in range(C):
            squares += (x[i, j] - m) * (x[i, j] - m)
        r = F(1) / np.sqrt(squares / F(C) + F(eps))
        mean[i, 0], rstd[i, 0] = m, r
        for j in range(C):
            y = (x[i, j] - m) * r
            if weight is not None:
                y *= weight[j]
            if bias is not None:
                y += bias[j]
            out[i, j] = y


@reduction
def layer_norm_vjp(
    g: Array, x: Array, weight: Array | None, mean: Array, rstd: Array, dx: Array | None, dweight: Array | None,
    dbias: Array | None,
) -> None:  # fmt: skip
    N, C = x.shape
    if dweight is not None:
        dweight[:] = 0
    if dbias is not None:
        dbias[:] = 0
    for i in range(N):
        m, r, sum_h, sum_hz = mean[i, 0], rstd[i, 0], F(0), F(0)
        for j in range(C):
            z = (x[i, j] - m) * r
            h = g[i, j] if weight is None else g[i, j] * weight[j]
            sum_h += h
            sum_hz += h * z
            if dweight is not None:
                dweight[j] += g[i, j] * z
            if dbias is not None:
                dbias[j] += g[i, j]
        if dx is not None:
            for j in range(C):
                z = (x[i, j] - m) * r
                h = g[i, j] if weight is None else g[i, j] * weight[j]
                dx[i, j] = r * (h - sum_h / F(C) - z * (sum_hz / F(C)))


@loop
def gelu(x: Array, out: Array) -> None:
    for i in range(x.size):
        # (1 + tanh u) / 2 = 1 / (1 + e^-2u)
        out[i] = x[i] / (F(1) + exp(F(-2) * GELU_A * x[i] * (F(1) + GELU_C * x[i] * x[i])))


@loop
def gelu_vjp(g: Array, x: Array, y: Array, dx: Array) -> None:
    for i in range(x.size):
        s = F(1) / (F(1) + exp(F(-2) * GELU_A * x[i] * (F(1) + GELU_C * x[i] * x[i])))
        k = F(2) * GELU_A * y[i] * (F(1) + F(3) * GELU_C * x[i] * x[i])
        dx[i] = g[i] * (s + k * (F(1) - s))


@loop
def transpose(x: Array, out: Array) -> None:
    """out[b, h, d, s] = x[b, h, s, d] for x (B, H, S, D) of any strides: some rows at a time, written side by side."""
    B, H, S, D = x.shape
    together = S // 8 * 8
    for b in range(B):
        for h in range(H):
            for s in range(0, together, 8):
                for d in range(D):
                    for i in range(8):
                        out[b, h, d, s + i] = x[b, h, s + i, d]
            for s in range(together, S):
                for d in range(D):
                    out[b, h, d, s] = x[b, h, s, d]


@reduction
def softmax(seen: int, w: Array) -> None:
    t, s = w.shape[-2:]
    rows = w.reshape((w.size // max(1, s), s))  # (..., s) -> (N, s)
    for i in range(len(rows)):
        row = rows[i]
        n = min(max(seen + i % t, 0), s)
        top, total = largest(row[:n]), F(0)
        if top == F(-np.inf):
            top = F(0)  # a row that may attend to nothing
        for j in range(n):
            row[j] = exp(row[j] - top)
            total += row[j]
        share = F(1) / (total if total != F(0) else F(1))
        for j in range(n):
            row[j] *= share
        for j in range(n, s):
            row[j] = F(0) * share  # nan where all is nan


@reduction
def softmax_vjp(w: Array, dw: Array) -> None:
    s = w.shape[-1]
    ws, dws = w.reshape((w.size // max(1, s), s)), dw.reshape((w.size // max(1, s), s))  # (..., s) -> (N, s)
    for i in range(len(ws)):
        total = F(0)
        for j in range(ws.shape[1]):
            total += dws[i, j] * ws[i, j]
        for j in range(ws.shape[1]):
            dws[i, j] = ws[i, j] * (dws[i, j] - total)


@reduction
def exp_minus_max(x: Array, top: Array, total: Array) -> None:
    N, P = x.shape
    for i in range(N):
        row, most, sum_ = x[i], largest(x[i]), F(0)
        shift = F(0) if most == F(-np.inf) else most
        for j in range(P):
            row[j] = exp(row[j] - shift)
            sum_ += row[j]
        top[i, 0], total[i, 0] = most, sum_  # of nan: only the sum


def widened(x: Any) -> Any:
    """A weight as float32: float32 and int8 by value, uint16 as the bits of a bfloat16."""
    raise NotImplementedError("only within compiled loops")


@overload(widened)
def _widened(x: Any) -> Any:
    def from_bits(x: Any) -> Any:
        return np.uint32(np.uint32(x) << np.uint32(16)).view(np.float32)

    def from_number(x: Any) -> Any:
        return np.float32(x)

    return from_bits if x == types.uint16 else from_number


@reduction
def finished(total: Any, scales: Array | None, bias: Array | None, i: int) -> Any:
    """total scales_i + bias_i."""
    scaled = total if scales is None else total * scales[i]
    return scaled if bias is None else scaled + bias[i]


@reduction
def few_rows(x: Array, weight: Array, scales: Array | None, bias: Array | None, out: Array) -> None:
    """out_ir = scales_i (sum over j of weight_ij x_rj) + bias_i, for a few rows x (M, K): each weight is read once.

    weight (N, K) is float32, int8, or bits of bfloat16 (uint16); scales and bias (N); out (N, M). BLAS copies the
    weights of such a product into another layout first, which takes longer than the product. Sums depend in their last
    bits on which 4 rows of the weight are multiplied together: cut the weight at multiples of 4.
    """
    M, N, K = len(x), len(weight), x.shape[1]
    for first in range(0, N, 4):
        last, done = min(first + 4, N), 0
        if M >= 4:  # one row of the weight after the other, as they lie in memory: this loads them into the cache
            done = 4
            for i in range(first, last):
                a, b, c, d = F(0), F(0), F(0), F(0)
                for j in range(K):
                    w = widened(weight[i, j])
                    a, b, c, d = a + w * x[0, j], b + w * x[1, j], c + w * x[2, j], d + w * x[3, j]
                out[i, 0], out[i, 1] = finished(a, scales, bias, i), finished(b, scales, bias, i)
                out[i, 2], out[i, 3] = finished(c, scales, bias, i), finished(d, scales, bias, i)
        while 4 <= done <= M - 2 and first + 4 == last:  # from the cache: 8 products for 6 numbers read
            a, b, c, d, e, f, g, h = F(0), F(0), F(0), F(0), F(0), F(0), F(0), F(0)
            for j in range(K):
                u, v = x[done, j], x[done + 1, j]
                w = widened(weight[first, j])
                a, b = a + w * u, b + w * v
                w = widened(weight[first + 1, j])
                c, d = c + w * u, d + w * v
                w = widened(weight[first + 2, j])
                e, f = e + w * u, f + w * v
                w = widened(weight[first + 3, j])
                g, h = g + w * u, h + w * v
            for i, u, v in ((first, a, b), (first + 1, c, d), (first + 2, e, f), (first + 3, g, h)):
                out[i, done], out[i, done + 1] = finished(u, scales, bias, i), finished(v, scales, bias, i)
            done += 2
        for i in range(first, last):
            for r in range(done, M):
                a = F(0)
                for j in range(K):
                    a += widened(weight[i, j]) * x[r, j]
                out[i, r] = finished(a, scales, bias, i)


@loop
def adam(
    p: Array, g: Array, m: Array, v: Array, beta1: Any, beta2: Any, keep: Any, decay: Any, eps: Any, rate: Any
) -> None:  # fmt: skip
    """The update of optim.Adam for a block, all arrays (N). With d = g + decay p: m = beta1 m + (1 - beta1) d,
    v = beta2 v + (1 - beta2) d^2, p = keep p - rate m / (sqrt(v) + eps). p, m and v are written to.
    """
    keep, decay, eps, rate = F(keep), F(decay), F(eps), F(rate)
    b1, c1, b2, c2 = F(beta1), F(1 - beta1), F(beta2), F(1 - beta2)
    for i in range(p.size):
        gradient = g[i] + decay * p[i]
        m[i] = b1 * m[i] + c1 * gradient
        v[i] = b2 * v[i] + c2 * gradient * gradient
        p[i] = keep * p[i] - rate * m[i] / (np.sqrt(v[i]) + eps)
