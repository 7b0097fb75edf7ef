"""Attention on NumPy's arrays, tile by tile: the scores of some queries of some heads at a time fit a core's cache.

With a causal mask, scores of later keys that a whole tile may not see are never computed, up to half of all.
"""

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from ...devices.machine import in_parts, splits, threads
from ...devices.memory import scratch
from ...formulas import split_heads
from ...grad_mode import recording
from ...primitive import unbroadcast
from .. import shared
from ..shared import Gradients, Residuals
from .blocks import supports
from .choose_impl import choose_impl, numba_impl_for
from .numpy_impl import softmax

TILE_SCORES = 1 << 18  # of a tile, about: they stay in a core's cache
TILE_QUERIES = 64  # of a tile with a causal mask: fewer would skip more scores, but make products slow
MANY_QUERIES = 32  # for which keys and values are copied: see _transposed
FEW_SCORES = 1 << 12  # in all: one group of tiles, since no other thread would take a second one

# ----- tiles ------------------------------------------------------------------------------------------------------


class _Tile(NamedTuple):
    """Scores computed together: of t queries for the s keys that they see, in b sequences and h heads."""

    at: slice  # where they lie in one flat array of all scores, whatever the groups: by queries, sequence, head
    shape: tuple[int, int, int, int]  # (b, h, t, s)
    queries: tuple[slice, slice, slice]  # index into (B, H, T, D)
    keys: tuple[slice, slice, slice]  # index into (B, H, S, D)
    first: bool  # the first tile of its group, which sees all keys that the others of the group see


def _tiles(B: int, H: int, T: int, S: int, is_causal: bool, D: int) -> list[list[_Tile]]:
    """The scores (B, H, T, S) in groups of tiles; the tiles of a group have their sequences and heads in common.

    There are as many groups as threads, or more, if these can share the work, and otherwise as few as fit a cache.
    """
    rows = max(1, min(T, TILE_QUERIES if is_causal else TILE_SCORES // max(1, S)))
    if 0 < B * H * T * S <= FEW_SCORES:
        return _make_tiles(B, H, T, S, is_causal, rows, H, B)
    least = threads() if splits(B * H, _nanoseconds(B * H * T * S, D)) else 1
    of_a_sequence = -(-least // max(1, B))  # groups, for the threads
    heads = max(1, min(-(-H // max(1, round(H * rows * S / TILE_SCORES))), H // of_a_sequence))
    sequences = max(1, min(TILE_SCORES // max(1, H * rows * S), B // least)) if heads >= H else 1
    return _make_tiles(B, H, T, S, is_causal, rows, heads, sequences)


def _nanoseconds(scores: int, D: int) -> float:
    """Roughly how long one thread takes for so many scores of heads with D channels, forward."""
    return scores * (2 + D / 50)


@functools.lru_cache(1 << 10)
def _make_tiles(
    B: int, H: int, T: int, S: int, is_causal: bool, rows: int, heads: int, sequences: int
) -> list[list[_Tile]]:
    """Tiles of `rows` queries, and of all heads of some sequences or some heads of one; at the ends what is left."""
    parts, start = [], 0  # queries, the keys that they see, and where their scores begin
    for stop in range(T, 0, -rows):
        t = slice(max(0, stop - rows), stop)
        seen = max(0, S - T + stop) if is_causal else S
        parts.append((t, seen, start))
        start += B * H * (t.stop - t.start) * seen
    groups = []
    for b, h in itertools.product(range(0, B, sequences), range(0, H, heads)):
        of = slice(b, min(b + sequences, B)), slice(h, min(h + heads, H))
        group = []
        for t, seen, start in parts:
            shape = (of[0].stop - b, of[1].stop - h, t.stop - t.start, seen)
            begin = start + (b * H + h) * shape[2] * seen
            at = slice(begin, begin + math.prod(shape))
            group.append(_Tile(at, shape, (*of, t), (*of, slice(0, seen)), t.stop == T))
        groups.append(group)
    return groups


def _number_of_scores(groups: list[list[_Tile]]) -> int:
    return groups[-1][-1].at.stop if groups and groups[-1] else 0


def _for_groups(groups: list[list[_Tile]], function: Callable[[list[_Tile]], object], D: int) -> None:
    """function(group) for all groups of tiles, over threads."""

    def part(which: slice) -> None:
        for group in groups[which]:
            if group:  # without queries it has no tiles
                function(group)

    in_parts(part, len(groups), _nanoseconds(_number_of_scores(groups), D))


# ----- attention --------------------------------------------------------------------------------------------------


def supports_attention(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, keep: np.ndarray | None = None, mask: np.ndarray | None = None,
    **_: Any,
) -> bool:  # fmt: skip
    """float32 or float64 alone, masks boolean or floating: the formula refuses a mask of integers."""
    return supports(q, k, v, keep, mask) and (mask is None or mask.dtype.kind not in "iu")


def attention(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, keep: np.ndarray | None = None, mask: np.ndarray | None = None, *,
    is_causal: bool = False, dropout_p: float = 0.0, scale: float | None = None,
) -> tuple[np.ndarray, Residuals]:  # fmt: skip
    """softmax(scale q k^T + mask) v, with dropout where `keep` is given: formulas.attention.

    q (..., T, D), k (..., S, D), v (..., S, E) -> (..., T, E); keep and mask broadcast to (..., T, S). Residual: the
    weights, as one flat array in the order of the tiles, before dropout; None inside no_grad(), where they are not
    kept and each tile's stay in the cache.
    """
    T, S, scale = q.shape[-2], k.shape[-2], shared.attention_scale(scale, q)
    small = T == 1 and 0 < math.prod(k.shape[-3:-1]) <= TILE_SCORES and q.shape[:-2] == k.shape[:-2] == v.shape[:-2]
    if small and keep is None and mask is None:
        return _attention_of_one_query(q, k, v, scale)
    leads = [x.shape[:-2] for x in (q, k, v, keep, mask) if x is not None]
    lead = leads[0] if leads.count(leads[0]) == len(leads) else np.broadcast_shapes(*leads)
    out = _empty_in_layout_of(q, lead, T, v.shape[-1])
    q, k, v, into = (_as_4d(x, lead) for x in (q, k, v, out))
    keep, mask = (x if x is None else _as_4d(np.broadcast_to(x, (*x.shape[:-2], T, S)), lead) for x in (keep, mask))
    groups = _tiles(*into.shape[:3], S, is_causal, q.shape[-1])  # type: ignore[call-arg]
    weights = np.empty(_number_of_scores(groups), q.dtype) if recording.get() else None

    def forward(group: list[_Tile]) -> None:
        columns = _transposed(k[group[0].keys], T, slot=3)  # (b, h, D, S)
        for tile in group:
            t, s = tile.shape[2:]
            if weights is None:
                w = scratch(2, tile.shape, q.dtype)
            else:
                w = weights[tile.at].reshape(tile.shape)  # (N) -> (b, h, t, s)
            queries = q[tile.queries]
            queries = np.multiply(queries, scale, out=scratch(0, queries.shape, q.dtype))  # (b, h, t, D)
            np.matmul(queries, columns[..., :s], out=w)
            if mask is not None:
                allowed = mask[tile.queries][..., :s]
                np.copyto(w, -np.inf, where=~allowed) if mask.dtype == bool else np.add(w, allowed, out=w)
            choose_impl(w).softmax(s - t + 1 if is_causal else s, w)
            np.matmul(_apply_dropout_mask(w, keep, tile, dropout_p), v[tile.keys], out=into[tile.queries])

    _for_groups(groups, forward, q.shape[-1])
    return out, {"weights": weights}


def _attention_of_one_query(q: np.ndarray, k: np.ndarray, v: np.ndarray, scale: float) -> tuple[np.ndarray, Residuals]:
    """The same for T = 1 without mask and dropout, in few NumPy calls: generation asks for it token by token."""
    w = np.matmul(k, (q * scale).swapaxes(-1, -2)).swapaxes(-1, -2)  # (..., 1, S)
    softmax(w.shape[-1], w)
    return w @ v, {"weights": w.reshape(-1)}


def attention_vjp(
    g: np.ndarray, needs_grad: Sequence[bool], q: np.ndarray, k: np.ndarray, v: np.ndarray, keep: np.ndarray | None,
    mask_shape: tuple[int, ...], is_causal: bool, dropout_p: float, scale: float | None, weights: np.ndarray,
) -> Gradients:  # fmt: skip
    """With P the weights, Z = keep / (1 - p) the dropout mask (1 without dropout) and all products elementwise but
    those with ^T or of matrices:

        dv = (P Z)^T g,  dP = (g v^T) Z,  dscores = P (dP - sum(dP P over the keys)),
        dq = scale dscores k,  dk = scale dscores^T q,  dmask = dscores
    """
    lead, T, S = g.shape[:-2], q.shape[-2], k.shape[-2]
    dq, dk, dv = (
        _empty_in_layout_of(x, lead, *x.shape[-2:]) if need else None
        for x, need in zip((q, k, v), needs_grad[:3], strict=True)
    )
    dmask = np.zeros((*lead, T, S), q.dtype) if needs_grad[4] else None
    _write_gradients(g, q, k, v, keep, is_causal, dropout_p, scale, weights, (dq, dk, dv, dmask))
    pairs = zip((dq, dk, dv), (q, k, v), strict=True)
    dq, dk, dv = (None if dx is None else unbroadcast(dx, x.shape) for dx, x in pairs)
    return dq, dk, dv, None, None if dmask is None else unbroadcast(dmask, mask_shape)


def _write_gradients(
    g: np.ndarray, q: np.ndarray, k: np.ndarray, v: np.ndarray, keep: np.ndarray | None, is_causal: bool,
    dropout_p: float, scale: float | None, weights: np.ndarray, into: tuple[np.ndarray | None, ...],
) -> None:  # fmt: skip
    """Write dq, dk, dv and dmask into the four arrays `into`; where it has None, the gradient is not needed."""
    lead, S, factor = g.shape[:-2], k.shape[-2], shared.attention_scale(scale, q)
    q, k, v, g = (_as_4d(x, lead) for x in (q, k, v, g))
    keep = None if keep is None else _as_4d(keep, lead)
    dq, dk, dv, dmask = (None if x is None else _as_4d(x, lead) for x in into)

    def add(into: np.ndarray, tile: _Tile, a: np.ndarray, b: np.ndarray) -> None:
        if tile.first:
            np.matmul(a, b, out=into[tile.keys])
        else:
            into[tile.keys] += np.matmul(a, b, out=scratch(2, (*a.shape[:-1], b.shape[-1]), b.dtype))

    def backward(group: list[_Tile]) -> None:
        by_scores = dq is not None or dk is not None or dmask is not None
        columns = _transposed(v[group[0].keys], g.shape[2], slot=4) if by_scores else None  # (b, h, E, S)
        for tile in group:
            backward_of(tile, columns)

    def backward_of(tile: _Tile, columns: np.ndarray | None) -> None:
        w, incoming = weights[tile.at].reshape(tile.shape), g[tile.queries]  # (N) -> (b, h, t, s)
        if dv is not None:
            add(dv, tile, _apply_dropout_mask(w, keep, tile, dropout_p).swapaxes(-1, -2), incoming)
        if columns is None:
            return
        ds = np.matmul(incoming, columns[..., : tile.shape[3]], out=scratch(0, tile.shape, w.dtype))
        ds = _apply_dropout_mask(ds, keep, tile, dropout_p)
        choose_impl(w, ds).softmax_vjp(w, ds)
        if dmask is not None:
            dmask[tile.queries][..., : tile.shape[3]] = ds
        if dq is not None:
            part = dq[tile.queries]
            np.matmul(ds, k[tile.keys], out=part)
            part *= factor
        if dk is not None:
            queries = q[tile.queries]
            queries = np.multiply(queries, factor, out=scratch(3, queries.shape, w.dtype))
            add(dk, tile, ds.swapaxes(-1, -2), queries)

    groups = _tiles(*g.shape[:3], S, is_causal, q.shape[-1])  # type: ignore[call-arg]
    _for_groups(groups, backward, q.shape[-1])
    if g.shape[2] == 0:  # no query: no tile wrote anything
        for each in (dk, dv):
            if each is not None:
                each[...] = 0


def _transposed(x: np.ndarray, queries: int, slot: int) -> np.ndarray:
    """x (b, h, S, D) as (b, h, D, S), to be multiplied by so many queries from the left.

    BLAS multiplies small matrices by a copy that lies in memory like this in two thirds of the time that it takes with
    a view, and a compiled loop copies in little of the difference.
    """
    if queries >= MANY_QUERIES:
        out = scratch(slot, (*x.shape[:2], x.shape[3], x.shape[2]), x.dtype)
        if impl := numba_impl_for(out):
            impl.transpose(x, out)
            return out
    return x.swapaxes(-1, -2)


def _as_4d(x: np.ndarray, lead: tuple[int, ...]) -> np.ndarray:
    """(..., T, D) -> (B, H, T, D) with the leading axes broadcast to `lead`: a view where there are at most two."""
    if x.shape[:-2] != lead:
        x = np.broadcast_to(x, (*lead, *x.shape[-2:]))
    if x.ndim == 4:
        return x
    return x.reshape((math.prod(lead[:-1]), *(lead[-1:] or (1,)), *x.shape[-2:]))


def _empty_in_layout_of(x: np.ndarray, lead: tuple[int, ...], T: int, D: int) -> np.ndarray:
    """A new array (*lead, T, D) whose axes lie in memory as those of x, so that split heads are joined as a view."""
    same = x.ndim == len(lead) + 2 <= 4
    return np.empty_like(x, shape=(*lead, T, D)) if same else np.empty((*lead, T, D), x.dtype)


def _apply_dropout_mask(x: np.ndarray, keep: np.ndarray | None, tile: _Tile, p: float) -> np.ndarray:
    """x / (1 - p) where the tile's part of `keep` is True, 0 elsewhere, for x (b, h, t, s); x itself without `keep`."""
    if keep is None:
        return x
    out: np.ndarray = np.multiply(x, shared.dropout_scale(p), out=scratch(1, x.shape, x.dtype))
    out *= keep[tile.queries][..., : tile.shape[3]]
    return out


# ----- attention of packed heads ----------------------------------------------------------------------------------


def supports_heads(qkv: np.ndarray, keep: np.ndarray | None = None, **_: Any) -> bool:
    """float32 or float64 alone."""
    return supports(qkv, keep)


heads_attention = partial(shared.heads_attention, attention)


def heads_attention_vjp(
    g: np.ndarray, needs_grad: Sequence[bool], qkv: np.ndarray, keep: np.ndarray | None, n_head: int, is_causal: bool,
    dropout_p: float, weights: np.ndarray,
) -> Gradients:  # fmt: skip
    """dq, dk and dv of `attention_vjp`, written side by side into the gradient of qkv (B, T, 3 C)."""
    dqkv, g = np.empty(qkv.shape, qkv.dtype), shared.split_result(g, n_head)
    q, k, v = split_heads(qkv, n_head)
    into = (*split_heads(dqkv, n_head), None)
    _write_gradients(g, q, k, v, keep, is_causal, dropout_p, None, weights, into)
    return dqkv, None
