"""Dropout masks drawn on the GPU, from Philox4x32-10 (philox.cu), a random stream that is a function of a counter.

The counter is a number in the GPU's memory, and each draw moves it on. So a replayed CUDA graph draws new numbers each
time, and the same state gives the same mask on every GPU.
"""

import math
from functools import partial

from ...backend import Array, xp
from .. import shared
from .launch import FLOATS, INSTANTIATED_WIDTHS, ceil_div, ctype, launch, on_gpu, width

FILE = "philox.cu"
INSTANTIATIONS = (
    "keep_mask", "take", "philox_of", *[f"apply_dropout_mask<{t}, {n}>" for t, n in INSTANTIATED_WIDTHS],
)  # fmt: skip


def keep_mask(state: Array, p: float, shape: tuple[int, ...]) -> Array:
    """Booleans of `shape`, True with probability 1 - p (a multiple of 2**-32). ValueError for a p outside [0, 1].

    `state`: uint64 [seed, counter] on the GPU; the counter goes up by one for each four elements. For p = 0 and p = 1
    nothing is drawn.
    """
    if not 0 <= p <= 1:
        raise ValueError(f"dropout probability p must be from 0 to 1, got {p}")
    size, library = math.prod(shape), xp(state)
    if p in (0, 1):
        return library.full(shape, p == 0)
    keep = library.empty(shape, bool)
    counters = ceil_div(size, 4)
    launch(FILE, "keep_mask", ceil_div(counters, 256), 256, state, keep, size, round((1 - p) * 2**32))
    launch(FILE, "take", 1, 1, state, counters)
    return keep


def supports_apply_dropout_mask(x: Array, keep: Array, *, p: float) -> bool:
    """float32 or bfloat16 on a GPU, not 0-d, and a mask of the same shape."""
    return on_gpu(x) and on_gpu(keep) and x.dtype.name in FLOATS and keep.shape == x.shape and x.ndim > 0


def apply_dropout_mask(x: Array, keep: Array, *, p: float) -> Array:
    """x / (1 - p) where `keep`, booleans of x's shape, is True; 0 elsewhere."""
    library = xp(x)
    x, keep = library.ascontiguousarray(x), library.ascontiguousarray(keep)
    out, n = library.empty(x.shape, x.dtype), width(x.size, x, keep)
    kernel, blocks, scale = f"apply_dropout_mask<{ctype(x)}, {n}>", ceil_div(x.size, 256 * n), shared.dropout_scale(p)
    launch(FILE, kernel, blocks, 256, x, keep, out, x.size, scale)
    return out


apply_dropout_mask_vjp = partial(shared.apply_dropout_mask_vjp, apply_dropout_mask)


def philox_of(counters: Array, keys: Array) -> Array:
    """The four draws for each counter (N, 4) under each key (N, 2): (N, 4), all uint32. Tests compare them with the
    published answers.
    """
    out = xp(counters).empty(counters.shape, "uint32")
    launch(FILE, "philox_of", ceil_div(len(counters), 256), 256, counters, keys, out, len(counters))
    return out
