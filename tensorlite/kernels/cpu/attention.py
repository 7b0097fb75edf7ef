"""Attention, tile by tile: the scores of some positions of some heads at a time, and none that nobody may see."""

import functools
import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ...devices.machine import in_parts
from ...devices.memory import scratch
from ...formulas import join_heads, split_heads
from ...primitive import unbroadcast
from .blocks import supports
from .choose_impl import steps
from .numpy_impl import sum_columns

SCORES = 1 << 18  # of a tile, about: they stay in a core's cache
PIECES = 2  # at least, where there are as many texts and heads: work for that many threads
POSITIONS = 64  # of a tile of causal attention: fewer save more scores that nobody may see, and waste more of BLAS


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
    rows = max(1, min(T, POSITIONS if is_causal else SCORES // max(1, S)))
    groups = max(1, round(H * rows * S / SCORES), PIECES // max(1, B))
    heads = max(1, -(-H // groups))
    texts = max(1, min(SCORES // max(1, H * rows * S), B // PIECES))
    return _cut(B, H, T, S, is_causal, rows, heads, texts)


@functools.lru_cache(1 << 10)
def _cut(B: int, H: int, T: int, S: int, is_causal: bool, rows: int, heads: int, texts: int) -> list[list[_Tile]]:
    """The tiles of so many rows of scores, heads and texts at a time, cut once for each kind of call."""
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


def supports_attention(q, k, v, keep=None, mask=None, **_) -> bool:
    """A mask of integers is left to the specification, which refuses it."""
    return supports(q, k, v, keep, mask) and (mask is None or mask.dtype.kind not in "iu")


def attention(q, k, v, keep=None, mask=None, *, is_causal=False, dropout_p=0.0, scale=None):
    T, S, scale = q.shape[-2], k.shape[-2], _scale(scale, q)
    few = T == 1 and 0 < math.prod(k.shape[-3:-1]) <= SCORES and q.shape[:-2] == k.shape[:-2] == v.shape[:-2]
    if few and keep is None and mask is None:
        return _of_one(q, k, v, scale)
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
        if mask is not None:
            allowed = mask[tile.queries][..., : tile.shape[3]]
            np.copyto(w, -np.inf, where=~allowed) if mask.dtype == bool else np.add(w, allowed, out=w)
        t, s = tile.shape[2:]
        steps(w).softmax(s - t + 1 if is_causal else s, w)
        np.matmul(_apply_dropout_mask(w, keep, tile, dropout_p), v[tile.keys], out=into[tile.queries])

    _over(pieces, forward, q.shape[-1])
    return out, {"weights": weights}


def _of_one(q, k, v, scale):
    """The same for one position of each text, which sees all keys: what generation asks for, token by token."""
    w = np.matmul(k, (q * scale).swapaxes(-1, -2)).swapaxes(-1, -2)  # (..., 1, S)
    top = np.maximum.reduce(w, axis=-1, keepdims=True)
    finite = math.isfinite(np.add.reduce(top, axis=None))
    if not finite:
        top[top == -np.inf] = 0
    w -= top
    np.exp(w, out=w)
    sums = sum_columns(w)
    if not finite:
        sums[sums == 0] = 1
    w /= sums
    return w @ v, {"weights": w.reshape(-1)}


def attention_vjp(g, needs, q, k, v, keep, mask_shape, is_causal, dropout_p, scale, weights):
    """With P the weights: dv = P^T g; dP = g v^T; dscores = P (dP - sum(dP P)); dq = dscores k, dk = dscores^T q."""
    lead, T, S = g.shape[:-2], q.shape[-2], k.shape[-2]
    dq, dk, dv = (
        _beside(x, lead, *x.shape[-2:]) if need else None for x, need in zip((q, k, v), needs[:3], strict=True)
    )
    dmask = np.zeros((*lead, T, S), q.dtype) if needs[4] else None
    _backward(g, q, k, v, keep, is_causal, dropout_p, scale, weights, (dq, dk, dv, dmask))
    pairs = zip((dq, dk, dv), (q, k, v), strict=True)
    dq, dk, dv = (None if dx is None else unbroadcast(dx, x.shape) for dx, x in pairs)
    return dq, dk, dv, None, None if dmask is None else unbroadcast(dmask, mask_shape)


def _backward(g, q, k, v, keep, is_causal, dropout_p, scale, weights, into):
    """Write the gradients by q, k, v and a mask of numbers `into` four arrays; what is None is not wanted."""
    lead, T, S, scale = g.shape[:-2], q.shape[-2], k.shape[-2], _scale(scale, q)
    q, k, v, g = (_four(x, lead) for x in (q, k, v, g))
    keep = None if keep is None else _four(keep, lead)
    into_q, into_k, into_v, into_mask = (None if x is None else _four(x, lead) for x in into)

    def add(into: np.ndarray, tile: _Tile, a: np.ndarray, b: np.ndarray) -> None:
        if tile.first:
            np.matmul(a, b, out=into[tile.keys])
        else:
            into[tile.keys] += np.matmul(a, b, out=scratch(2, (*a.shape[:-1], b.shape[-1]), b.dtype))

    def backward(tile: _Tile) -> None:
        w, incoming = weights[tile.at].reshape(tile.shape), g[tile.queries]  # (N) -> (b, h, t, s)
        if into_v is not None:
            add(into_v, tile, _apply_dropout_mask(w, keep, tile, dropout_p).swapaxes(-1, -2), incoming)
        if into_q is None and into_k is None and into_mask is None:
            return
        ds = np.matmul(incoming, v[tile.keys].swapaxes(-1, -2), out=scratch(0, tile.shape, w.dtype))
        ds = _apply_dropout_mask(ds, keep, tile, dropout_p)
        steps(w, ds).softmax_vjp(w, ds)
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
        for each in (into_k, into_v):
            if each is not None:
                each[...] = 0


def supports_heads(qkv, keep=None, **_) -> bool:
    return supports(qkv, keep)


def heads_attention(qkv, keep=None, *, n_head, is_causal=False, dropout_p=0.0):
    """The heads are read where they lie, and written where they are wanted: nothing is split or joined."""
    q, k, v = split_heads(qkv, n_head)
    out, kept = attention(q, k, v, keep, is_causal=is_causal, dropout_p=dropout_p)  # (B, H, T, D)
    return join_heads(out), kept


def heads_attention_vjp(g, needs, qkv, keep, n_head, is_causal, dropout_p, weights):
    q, k, v = split_heads(qkv, n_head)
    dqkv = np.empty(qkv.shape, qkv.dtype)
    g = g.reshape((*g.shape[:2], n_head, q.shape[-1])).swapaxes(1, 2)  # (B, T, C) -> (B, H, T, D)
    _backward(g, q, k, v, keep, is_causal, dropout_p, None, weights, (*split_heads(dqkv, n_head), None))
    return dqkv, None


def _scale(scale, q):
    return 1 / math.sqrt(q.shape[-1]) if scale is None else scale


def _apply_dropout_mask(x: np.ndarray, keep: np.ndarray | None, tile: _Tile, p: float) -> np.ndarray:
    """x (b, h, t, s) where the tile's weights are kept, scaled up to make good for the others."""
    if keep is None:
        return x
    out = np.multiply(x, 1 / (1 - p) if p < 1 else 0.0, out=scratch(1, x.shape, x.dtype))
    out *= keep[tile.queries][..., : tile.shape[3]]
    return out
