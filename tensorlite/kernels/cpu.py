"""NumPy kernels of the hot ops: few passes over memory, results written in place, matrix products wherever one fits.

One idea: rows. Every function sees its input as (rows, columns), takes the rows in blocks that stay in a core's cache,
spreads the blocks over threads, and leaves to BLAS what BLAS can do: a mean is a product with a vector of ones, a sum
over rows too (7 times faster than `sum`). Each formula is the derivative of its namesake in functional.py, written for
arrays; the property tests hold the two together. Partial sums are added in the order of their blocks, so the same
number of threads gives the same bits.
"""

import functools
import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ..backend import in_parts, scratch
from ..functional import check_cross_entropy, check_indices, check_last_axis
from ..primitive import unbroadcast
from . import onednn

BLOCK = 1 << 18  # elements: small enough for a cache, large enough that a change of threads costs little beside it
POSITIONS = 128  # of a tile of causal attention: fewer save more scores that nobody may see, and waste more of BLAS
CLASSES = 64  # at least so many at once in linear_cross_entropy: narrower products waste BLAS


def serves(x, *others, **_) -> bool:
    """These kernels are for arrays in main memory, all floating ones float32 or all float64."""
    usual = type(x) is np.ndarray and x.dtype.char in "fd" and x.ndim > 0
    return usual and all(
        o is None or (type(o) is np.ndarray and (o.dtype == x.dtype or o.dtype.kind in "iub")) for o in others
    )


def _rows(x: np.ndarray) -> np.ndarray:
    return x.reshape((math.prod(x.shape[:-1]), x.shape[-1]))  # (..., C) -> (N, C)


@functools.lru_cache(64)
def _ones(n: int, dtype: np.dtype) -> np.ndarray:
    return np.ones(n, dtype)


def sum_rows(x: np.ndarray) -> np.ndarray:
    """(N, C) -> (C)"""
    return _ones(x.shape[0], x.dtype) @ x


def sum_columns(x: np.ndarray) -> np.ndarray:
    """(..., C) -> (..., 1)"""
    return (x @ _ones(x.shape[-1], x.dtype))[..., None]


def product(a: np.ndarray, b: np.ndarray, bias: np.ndarray | None = None) -> np.ndarray:
    """a (M, K) @ b (K, N) + bias (N), rows of the result over threads, or columns where there are few rows."""
    out = np.empty((a.shape[0], b.shape[1]), a.dtype)
    nanoseconds, matmul = a.size * b.shape[1] / 100, np.matmul  # at 200 GF/s
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
        in_parts(rows, a.shape[0], nanoseconds)
    else:  # bound by reading b
        in_parts(columns, b.shape[1], max(nanoseconds, b.size / 6))
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

    in_parts(part, 64 * len(pairs), sum(a.size * b.shape[1] for a, b in pairs) / 100)  # at 200 GF/s
    return outs


def by_rows(function: Callable[[slice], object], x: np.ndarray, cost: float) -> list:
    """function(rows) for blocks of the rows of x (N, C), over threads; the results in order. `cost`: ns an element."""
    n, step = x.shape[0], max(1, BLOCK // max(1, x.shape[1]))

    def blocks(part: slice) -> list:
        return [function(slice(i, min(i + step, part.stop))) for i in range(part.start, part.stop, step)]

    return blocks(slice(0, n)) if n <= step else list(itertools.chain(*in_parts(blocks, n, cost * x.size)))


# ----- linear -----------------------------------------------------------------------------------------------------


def serves_linear(x, weight, bias=None) -> bool:
    return serves(x, weight, bias) and weight.ndim == 2


def linear(x, weight, bias=None):
    y = product(_rows(x), weight.T, bias)
    return y.reshape((*x.shape[:-1], weight.shape[0]))  # (N, O) -> (..., O)


def linear_vjp(g, needs, x, weight):
    """y = x W^T + b: dx = g W, dW = g^T x, db = sum of the rows of g."""
    g, rows = _rows(g), _rows(x)
    wanted = iter(products(*[pair for pair, need in zip(((g, weight), (g.T, rows)), needs, strict=False) if need]))
    dx = next(wanted).reshape(x.shape) if needs[0] else None  # (N, I) -> (..., I)
    dweight = next(wanted) if needs[1] else None
    return dx, dweight, sum_rows(g) if len(needs) > 2 and needs[2] else None


# ----- embedding --------------------------------------------------------------------------------------------------


def embedding(weight, idx):
    check_indices("embedding", idx, weight.shape[0])
    return weight.take(idx, axis=0)


def embedding_vjp(g, needs, weight_shape, idx):
    """Add the rows of `g` that have the same index: sorted first, so that each sum is one run, in a fixed order."""
    out = np.zeros(weight_shape, g.dtype)
    order = np.argsort(idx, axis=None, kind="stable")
    if order.size:
        ids = idx.reshape(-1)[order]
        starts = np.flatnonzero(np.concatenate([[True], ids[1:] != ids[:-1]]))
        out[ids[starts]] = np.add.reduceat(_rows(g)[order], starts, axis=0)
    return out, None


# ----- layer_norm -------------------------------------------------------------------------------------------------


def layer_norm(x, weight=None, bias=None, *, eps=1e-5):
    check_last_axis("layer_norm", x, weight, bias)
    n, rows = x.shape[-1], _rows(x)
    out, mean, rstd = np.empty(rows.shape, x.dtype), *np.empty((2, len(rows), 1), x.dtype)

    def normalize(part: slice) -> None:
        y, m, r = out[part], mean[part], rstd[part]
        np.divide(sum_columns(rows[part]), n, out=m)
        np.subtract(rows[part], m, out=y)
        np.divide(np.vecdot(y, y)[:, None], n, out=r)  # of the centered values: no cancellation
        r += eps
        np.sqrt(r, out=r)
        np.divide(1, r, out=r)
        y *= r
        if weight is not None:
            y *= weight
        if bias is not None:
            y += bias

    by_rows(normalize, rows, cost=0.8)
    return out.reshape(x.shape), {"mean": mean, "rstd": rstd}  # (N, C) -> (..., C)


def layer_norm_vjp(g, needs, x, weight, mean, rstd):
    """With z = (x - mean) rstd, h = g weight: dx = rstd (h - mean(h) - z mean(h z)), dweight = sum g z."""
    n, rows, g = x.shape[-1], _rows(x), _rows(g)
    dx = np.empty(rows.shape, x.dtype) if needs[0] else None

    def backward(part: slice) -> tuple:
        g_part = g[part]
        z, work = (scratch(slot, g_part.shape, g.dtype) for slot in (0, 1))
        np.subtract(rows[part], mean[part], out=z)
        z *= rstd[part]
        dweight = sum_rows(np.multiply(g_part, z, out=work)) if needs[1] else None
        dbias = sum_rows(g_part) if needs[2] else None
        if dx is not None:
            h = dx[part]
            np.multiply(g_part, 1 if weight is None else weight, out=h)
            z *= np.vecdot(h, z)[:, None] / n
            h -= sum_columns(h) / n
            h -= z
            h *= rstd[part]
        return dweight, dbias

    sums = by_rows(backward, rows, cost=1.5)
    dweight, dbias = (total([each[i] for each in sums], g) if needs[i + 1] else None for i in (0, 1))
    return None if dx is None else dx.reshape(x.shape), dweight, dbias  # (N, C) -> (..., C)


def total(parts: list[np.ndarray], like: np.ndarray) -> np.ndarray:
    """The sum of partial sums (C), in their order; zeros where there is none."""
    return functools.reduce(np.add, parts) if parts else np.zeros(like.shape[-1:], like.dtype)


# ----- gelu -------------------------------------------------------------------------------------------------------

_A, _C = math.sqrt(2 / math.pi), 0.044715


def serves_gelu(x, *, approximate="tanh") -> bool:
    return serves(x) and approximate == "tanh"


def gelu(x, *, approximate="tanh"):
    """0.5 x (1 + t), t = tanh(a (x + c x^3)); kept is its derivative (1 + t)/2 (1 + a x (1 + 3 c x^2) (1 - t))."""
    flat = x.reshape((-1, 1))  # (..., C) -> (N, 1)
    out, slope = np.empty((2, flat.size, 1), x.dtype)

    def block(part: slice) -> None:
        _gelu(flat[part, 0], out[part, 0], slope[part, 0], scratch(0, (part.stop - part.start,), x.dtype))

    by_rows(block, flat, cost=1.5)
    return out.reshape(x.shape), {"slope": slope.reshape(x.shape)}  # (N, 1) -> (..., C)


def _gelu(x, out, slope, t):
    np.multiply(x, x, out=slope)
    np.multiply(slope, _A * _C, out=t)
    t += _A
    t *= x
    np.tanh(t, out=t)
    np.subtract(1, t, out=out)
    slope *= 3 * _A * _C
    slope += _A
    slope *= x
    slope *= out
    slope += 1
    t += 1
    t *= 0.5
    slope *= t
    np.multiply(x, t, out=out)


def gelu_vjp(g, needs, slope):
    out, rows = np.empty(g.shape, g.dtype), _rows(g)
    into, slopes = _rows(out), _rows(slope)
    by_rows(lambda part: np.multiply(rows[part], slopes[part], out=into[part]), rows, cost=0.3)
    return (out,)


# ----- attention --------------------------------------------------------------------------------------------------


@functools.lru_cache(16)
def _causal_bias(T: int, S: int, dtype: np.dtype) -> np.ndarray:
    """(T, S): 0 where position t of the last T of S may see position s, otherwise -inf."""
    return np.where(np.arange(S)[None, :] <= np.arange(S - T, S)[:, None], 0, -np.inf).astype(dtype)


class _Tile(NamedTuple):
    """Scores that are computed at once: those of some positions of some texts and heads, for the keys that they see."""

    at: slice  # where they lie in one long array of all scores
    shape: tuple[int, int, int, int]  # (b, h, t, s)
    queries: tuple[slice, slice, slice]  # index into (B, H, T, D)
    keys: tuple[slice, slice, slice]  # index into (B, H, S, D)
    first: bool  # of those with the same keys: it sees all keys that the others see


def _tiles(B: int, H: int, T: int, S: int, is_causal: bool) -> list[list[_Tile]]:
    """The scores (B, H, T, S) as tiles; tiles in one list share their texts and heads.

    Positions that may not see the later keys have no scores for them, which saves up to half of all work.
    """
    rows = max(1, min(T, POSITIONS if is_causal else BLOCK // max(1, S)))
    groups = max(1, round(H * rows * S / (2 * BLOCK)))
    heads = max(1, -(-H // groups))
    texts = max(1, BLOCK // max(1, H * rows * S))
    pieces, at = [], 0
    for b, h in itertools.product(range(0, B, texts), range(0, H, heads)):
        of = slice(b, min(b + texts, B)), slice(h, min(h + heads, H))
        piece = []
        for stop in range(T, 0, -rows):
            t = slice(max(0, stop - rows), stop)
            seen = max(0, S - T + stop) if is_causal else S
            shape = (of[0].stop - b, of[1].stop - h, t.stop - t.start, seen)
            end = at + math.prod(shape)
            piece.append(_Tile(slice(at, end), shape, (*of, t), (*of, slice(0, seen)), stop == T))
            at = end
        pieces.append(piece)
    return pieces


def _over(pieces: list[list[_Tile]], function: Callable[[_Tile], object], D: int) -> None:
    """function(tile) for all tiles, over threads; those of one piece one after another in one thread."""

    def part(which: slice) -> None:
        for piece in pieces[which]:
            for tile in piece:
                function(tile)

    scores = pieces[-1][-1].at.stop if pieces and pieces[-1] else 0
    in_parts(part, len(pieces), scores * (2 + D / 50))


def _four(x: np.ndarray, lead: tuple[int, ...]) -> np.ndarray:
    """(..., T, D) -> (B, H, T, D) with the leading axes broadcast to `lead`: a view where there are at most two."""
    x = x if x.shape[:-2] == lead else np.broadcast_to(x, (*lead, *x.shape[-2:]))
    return x.reshape((math.prod(lead[:-1]), *(lead[-1:] or (1,)), *x.shape[-2:]))


def _beside(x: np.ndarray, lead: tuple[int, ...], T: int, D: int) -> np.ndarray:
    """A new array (*lead, T, D) whose axes lie in memory as those of x: heads that were split are joined as a view."""
    same = x.ndim == len(lead) + 2 <= 4
    return np.empty_like(x, shape=(*lead, T, D)) if same else np.empty((*lead, T, D), x.dtype)


def attention(q, k, v, keep=None, mask=None, *, is_causal=False, dropout_p=0.0, scale=None):
    T, S, scale = q.shape[-2], k.shape[-2], _scale(scale, q)
    lead = np.broadcast_shapes(*[x.shape[:-2] for x in (q, k, v, keep, mask) if x is not None])
    out = _beside(q, lead, T, v.shape[-1])
    q, k, v, into = (_four(x, lead) for x in (q, k, v, out))
    keep, mask = (x if x is None else _four(np.broadcast_to(x, (*x.shape[:-2], T, S)), lead) for x in (keep, mask))
    pieces = _tiles(*into.shape[:3], S, is_causal)
    weights = np.empty(pieces[-1][-1].at.stop if pieces and pieces[-1] else 0, q.dtype)

    def forward(tile: _Tile) -> None:
        w = weights[tile.at].reshape(tile.shape)  # (N) -> (b, h, t, s)
        asked = q[tile.queries]
        asked = np.multiply(asked, scale, out=scratch(0, asked.shape, q.dtype))  # (b, h, t, D)
        np.matmul(asked, k[tile.keys].swapaxes(-1, -2), out=w)
        if is_causal:
            t, s = tile.shape[2:]
            by_all = max(0, s - t)  # so many keys are seen by every position of the tile
            w[..., by_all:] += _causal_bias(t, s, w.dtype)[:, by_all:]
        if mask is not None:
            allowed = mask[tile.queries][..., : tile.shape[3]]
            np.copyto(w, -np.inf, where=~allowed) if mask.dtype == bool else np.add(w, allowed, out=w)
        top = w.max(axis=-1, keepdims=True, initial=-np.inf)
        if not np.isfinite(top).all():
            top[top == -np.inf] = 0  # a row that may attend to nothing
        w -= top
        np.exp(w, out=w)
        sums = sum_columns(w)
        sums[sums == 0] = 1
        w /= sums
        np.matmul(_dropped(w, keep, tile, dropout_p), v[tile.keys], out=into[tile.queries])

    _over(pieces, forward, q.shape[-1])
    return out, {"weights": weights}


def attention_vjp(g, needs, q, k, v, keep, mask_shape, is_causal, dropout_p, scale, weights):
    """With P the weights: dv = P^T g; dP = g v^T; dscores = P (dP - sum(dP P)); dq = dscores k, dk = dscores^T q."""
    lead, T, S, scale = g.shape[:-2], q.shape[-2], k.shape[-2], _scale(scale, q)
    dq, dk, dv = (
        _beside(x, lead, *x.shape[-2:]) if need else None for x, need in zip((q, k, v), needs[:3], strict=True)
    )
    dmask = np.zeros((*lead, T, S), q.dtype) if needs[4] else None
    shapes = q.shape, k.shape, v.shape
    q, k, v, g = (_four(x, lead) for x in (q, k, v, g))
    keep = None if keep is None else _four(keep, lead)
    into_q, into_k, into_v, into_mask = (None if x is None else _four(x, lead) for x in (dq, dk, dv, dmask))

    def add(into: np.ndarray, tile: _Tile, a: np.ndarray, b: np.ndarray) -> None:
        if tile.first:
            np.matmul(a, b, out=into[tile.keys])
        else:
            into[tile.keys] += np.matmul(a, b, out=scratch(2, (*a.shape[:-1], b.shape[-1]), b.dtype))

    def backward(tile: _Tile) -> None:
        w, incoming = weights[tile.at].reshape(tile.shape), g[tile.queries]  # (N) -> (b, h, t, s)
        if into_v is not None:
            add(into_v, tile, _dropped(w, keep, tile, dropout_p).swapaxes(-1, -2), incoming)
        if into_q is None and into_k is None and into_mask is None:
            return
        ds = np.matmul(incoming, v[tile.keys].swapaxes(-1, -2), out=scratch(0, tile.shape, w.dtype))
        ds = _dropped(ds, keep, tile, dropout_p)
        ds -= np.vecdot(ds, w)[..., None]
        ds *= w
        if into_mask is not None:
            into_mask[tile.queries][..., : tile.shape[3]] = ds
        if into_q is not None:
            part = into_q[tile.queries]
            np.matmul(ds, k[tile.keys], out=part)
            part *= scale
        if into_k is not None:
            asked = q[tile.queries]
            asked = np.multiply(asked, scale, out=scratch(3, asked.shape, w.dtype))
            add(into_k, tile, ds.swapaxes(-1, -2), asked)

    _over(_tiles(*g.shape[:3], S, is_causal), backward, q.shape[-1])
    if T == 0:  # no tile wrote anything
        dk, dv = (None if x is None else np.zeros_like(x) for x in (dk, dv))
    dq, dk, dv = (None if x is None else unbroadcast(x, shape) for x, shape in zip((dq, dk, dv), shapes, strict=True))
    return dq, dk, dv, None, None if dmask is None else unbroadcast(dmask, mask_shape)


def _scale(scale, q):
    return 1 / math.sqrt(q.shape[-1]) if scale is None else scale


def _dropped(x: np.ndarray, keep: np.ndarray | None, tile: _Tile, p: float) -> np.ndarray:
    """x (b, h, t, s) where the tile's weights are kept, scaled up to make good for the others."""
    if keep is None:
        return x
    out = np.multiply(x, 1 / (1 - p) if p < 1 else 0.0, out=scratch(1, x.shape, x.dtype))
    out *= keep[tile.queries][..., : tile.shape[3]]
    return out


# ----- cross_entropy ----------------------------------------------------------------------------------------------


def serves_cross_entropy(logits, targets, *, reduction="mean", label_smoothing=0.0, weight=None, **_) -> bool:
    usual = targets.dtype.kind in "iu" and reduction in ("mean", "sum") and not label_smoothing and weight is None
    return serves(logits) and usual


def cross_entropy(logits, targets, *, ignore_index=-100, reduction="mean", label_smoothing=0.0, weight=None):
    check_cross_entropy(logits.shape, targets, ignore_index, reduction, label_smoothing, weight)
    x, t = _rows(logits), targets.reshape(-1)
    valid = t != ignore_index
    t = np.where(valid, t, 0)
    rows = np.arange(len(t))
    top = x.max(axis=-1, keepdims=True)
    top[top == -np.inf] = 0
    p = x - top
    picked = p[rows, t]
    np.exp(p, out=p)
    total = sum_columns(p)
    losses = np.log(total[:, 0]) - picked
    p /= total
    count = valid.sum() if reduction == "mean" else 1
    loss = np.where(valid, losses, 0).sum()
    loss = loss / loss.dtype.type(count)
    scale = valid.astype(p.dtype)[:, None]
    if count:
        scale /= scale.dtype.type(count)
    return loss, {"p": p, "scale": scale, "rows": rows, "classes": t}


def cross_entropy_vjp(g, needs, logits_shape, p, scale, rows, classes):
    """(softmax(logits) - onehot(target)) / count, and 0 where the target is ignored."""
    scale = scale * g
    out = p * scale
    out[rows, classes] -= scale[:, 0]
    return out.reshape(logits_shape), None  # (N, C) -> (..., C)


# ----- linear_cross_entropy ---------------------------------------------------------------------------------------


def serves_linear_cross_entropy(x, weight, targets, *, reduction="mean", **_) -> bool:
    usual = targets.dtype.kind in "iu" and weight.ndim == 2 and reduction in ("mean", "sum")
    return serves(x, weight, targets) and usual


def _some_classes(N: int, V: int) -> list[slice]:
    """Slices of the V classes: so many at once that N rows of their logits stay in a core's cache."""
    step = max(CLASSES, 4 * BLOCK // max(1, N))
    return [slice(v, min(v + step, V)) for v in range(0, V, step)]


def linear_cross_entropy(x, weight, targets, *, ignore_index=-100, reduction="mean"):
    """Some classes at a time: of their logits only the exponentials are kept, less each row's maximum among them."""
    check_cross_entropy((*x.shape[:-1], len(weight)), targets, ignore_index, reduction)
    rows, targets = _rows(x), targets.reshape(-1)
    valid = targets != ignore_index
    if not valid.all():
        rows, targets = rows[valid], targets[valid]
    N, V = len(targets), len(weight)
    parts = _some_classes(N, V)
    exps, picked = np.empty(N * V, x.dtype), np.empty(N, x.dtype)
    tops, sums = np.empty((2, len(parts), N, 1), x.dtype)  # of each part

    def forward(which: slice) -> None:
        for part, top, total in zip(parts[which], tops[which], sums[which], strict=True):
            e = exps[N * part.start : N * part.stop].reshape((N, part.stop - part.start))  # (N * P) -> (N, P)
            np.matmul(rows, weight[part].T, out=e)
            mine = np.flatnonzero((targets >= part.start) & (targets < part.stop))
            picked[mine] = e[mine, targets[mine] - part.start]
            e.max(axis=1, keepdims=True, out=top)
            e -= np.where(top == -np.inf, 0, top)
            np.exp(e, out=e)
            total[...] = sum_columns(e)

    in_parts(forward, len(parts), N * V * (2 + x.shape[-1] / 100))
    top = tops.max(axis=0, initial=-np.inf)
    log_total = top + np.log((sums * np.exp(tops - top)).sum(axis=0))  # (N, 1)
    scale = x.dtype.type(1 if reduction == "sum" else 1 / N if N else np.nan)
    loss = (log_total[:, 0] - picked).sum() * scale
    return loss, {"exps": exps, "shares": np.exp(tops - log_total), "valid": valid, "scale": scale}


def linear_cross_entropy_vjp(g, needs, x, weight, targets, exps, shares, valid, scale):
    """Of the logits: (softmax - onehot(target)) scale, some classes at a time; dx and dweight as for `linear`."""
    rows, targets = _rows(x), targets.reshape(-1)
    every = valid.all()
    if not every:
        rows, targets = rows[valid], targets[valid]
    N, scale = len(rows), scale * g
    parts = _some_classes(N, len(weight))
    dweight = np.empty(weight.shape, x.dtype) if needs[1] else None

    def backward(which: slice) -> np.ndarray | None:
        dx = np.zeros(rows.shape, x.dtype) if needs[0] else None
        for part, share in zip(parts[which], shares[which], strict=True):
            e = exps[N * part.start : N * part.stop].reshape((N, part.stop - part.start))  # (N * P) -> (N, P)
            d = np.multiply(e, share * scale, out=scratch(0, e.shape, x.dtype))
            mine = np.flatnonzero((targets >= part.start) & (targets < part.stop))
            d[mine, targets[mine] - part.start] -= scale
            if dweight is not None:
                np.matmul(d.T, rows, out=dweight[part])
            if dx is not None:
                dx += np.matmul(d, weight[part], out=scratch(1, rows.shape, x.dtype))
        return dx

    dxs = in_parts(backward, len(parts), N * len(weight) * (1 + x.shape[-1] / 50))
    if not needs[0]:
        return None, dweight, None
    dx = functools.reduce(np.add, dxs)
    if not every:
        dx, some = np.zeros((len(valid), x.shape[-1]), x.dtype), dx
        dx[valid] = some
    return dx.reshape(x.shape), dweight, None  # (N, C) -> (..., C)
