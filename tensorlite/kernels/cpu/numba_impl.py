"""The steps of numpy_impl.py as loops over rows, compiled by numba for this CPU, in whose cache a row stays meanwhile.

Every function says what its namesake says. numba vectorizes what it sees: so nothing is float64 here, exp is made of
additions and products, and the sum of a row may be taken in any order. What is compiled is kept on disk, beside this
file or in the user's cache. Imported by steps.py alone, where numba is installed.
"""

import numpy as np
from numba import njit

from . import numpy_impl

F = np.float32
A, C = F(numpy_impl.A), F(numpy_impl.C)
IN_ORDER = {"contract"}  # of LLVM's liberties: a product and a sum may be rounded once; infinities and nan stay
ANY_ORDER = {"contract", "reassoc", "arcp", "nsz"}  # and sums be vectorized

loop = njit(nogil=True, cache=True, error_model="numpy", fastmath=IN_ORDER)
reduction = njit(nogil=True, cache=True, error_model="numpy", fastmath=ANY_ORDER)


@njit(fastmath=IN_ORDER)
def exp(x):
    """e^x = 2^n e^r with |r| <= ln(2) / 2: a polynomial (that of Cephes' expf), and n written into the exponent.

    Within a unit in the last place; 0 below -87.3, where float32's normal numbers end, and inf above 88.3.
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


@njit(fastmath=ANY_ORDER | {"nnan"})  # or it is not vectorized; the sum of a row finds its nan
def largest(x):
    top = F(-np.inf)
    for j in range(x.size):
        top = max(top, x[j])
    return top


@loop
def add_rows(x, ids, out):
    for i in range(ids.size):
        row, into = x[i], out[ids[i]]
        for j in range(row.size):
            into[j] += row[j]


@njit
def rows_of(x):
    return x.reshape((x.size // max(1, x.shape[-1]), x.shape[-1]))  # (..., C) -> (N, C)


@reduction
def normalize(x, weight, bias, eps, out, mean, rstd):
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
def normalize_vjp(g, x, weight, mean, rstd, dx, dweight, dbias):
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
def gelu(x, out):
    for i in range(x.size):
        out[i] = x[i] / (F(1) + exp(F(-2) * A * x[i] * (F(1) + C * x[i] * x[i])))  # (1 + tanh u) / 2 = 1 / (1 + e^-2u)


@loop
def gelu_vjp(g, x, y, dx):
    for i in range(x.size):
        s = F(1) / (F(1) + exp(F(-2) * A * x[i] * (F(1) + C * x[i] * x[i])))
        k = F(2) * A * y[i] * (F(1) + F(3) * C * x[i] * x[i])
        dx[i] = g[i] * (s + k * (F(1) - s))


@reduction
def softmax(seen, w):
    t, s = w.shape[-2:]
    rows = rows_of(w)
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
def softmax_vjp(w, dw):
    ws, dws = rows_of(w), rows_of(dw)
    for i in range(len(ws)):
        total = F(0)
        for j in range(ws.shape[1]):
            total += dws[i, j] * ws[i, j]
        for j in range(ws.shape[1]):
            dws[i, j] = ws[i, j] * (dws[i, j] - total)


@reduction
def exponentials(x, top, total):
    N, P = x.shape
    for i in range(N):
        row, most, sum_ = x[i], largest(x[i]), F(0)
        shift = F(0) if most == F(-np.inf) else most
        for j in range(P):
            row[j] = exp(row[j] - shift)
            sum_ += row[j]
        top[i, 0], total[i, 0] = most, sum_  # of nan: only the sum


@loop
def adam(p, g, m, v, beta1, beta2, keep, decay, eps, rate):
    """The block of optim.Adam.update: p keep - rate m / (sqrt(v) + eps) with both averages brought up to date."""
    keep, decay, eps, rate = F(keep), F(decay), F(eps), F(rate)
    b1, c1, b2, c2 = F(beta1), F(1 - beta1), F(beta2), F(1 - beta2)
    for i in range(p.size):
        gradient = g[i] + decay * p[i]
        m[i] = b1 * m[i] + c1 * gradient
        v[i] = b2 * v[i] + c2 * gradient * gradient
        p[i] = keep * p[i] - rate * m[i] / (np.sqrt(v[i]) + eps)
