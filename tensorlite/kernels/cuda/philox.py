"""Masks for dropout, drawn on the GPU from a stream that is a counter: Philox4x32-10 (philox.cu).

One idea: the stream's place is a number on the device, moved on by what draws from it. So a CUDA graph that is replayed
draws new numbers each time, and the same state gives the same mask on every GPU.
"""

import math

from ...backend import Array, xp
from .launch import ctype, launch, on_gpu
from .losses import address

FILE = "philox.cu"
_WIDTHS = {"float": 4, "bf16": 8}  # elements in 16 bytes
INSTANTIATIONS = (  # of philox.cu: all that is launched
    "keep_mask", "take", "philox_of", *[f"apply_dropout_mask<{t}, {n}>" for t, widest in _WIDTHS.items() for n in (1, widest)],
)  # fmt: skip


def keep_mask(state: Array, p: float, shape: tuple[int, ...]) -> Array:
    """bool of `shape`: True with probability 1 - p, to 2**-32. `state`: uint64 [seed, counter], whose counter moves on
    by one for each four elements. For p = 0 and p = 1 the answer is known, and nothing is taken.
    """
    if not 0 <= p <= 1:
        raise ValueError(f"dropout probability p must be from 0 to 1, got {p}")
    size, library = math.prod(shape), xp(state)
    if p in (0, 1):
        return library.full(shape, p == 0)
    keep = library.empty(shape, bool)
    counters = -(-size // 4)
    launch(FILE, "keep_mask", -(-counters // 256), 256, state, keep, size, round((1 - p) * 2**32))
    launch(FILE, "take", 1, 1, state, counters)
    return keep


def supports_apply_dropout_mask(x, keep, *, p) -> bool:
    usual = on_gpu(x) and on_gpu(keep) and x.dtype.name in ("float32", "bfloat16")
    return usual and keep.shape == x.shape and x.ndim > 0


def apply_dropout_mask(x: Array, keep: Array, *, p: float) -> Array:
    """x / (1 - p) where `keep`, bool of its shape; otherwise 0."""
    library = xp(x)
    x, keep = library.ascontiguousarray(x), library.ascontiguousarray(keep)
    out, kind = library.empty(x.shape, x.dtype), ctype(x)
    n = _WIDTHS[kind]
    n = n if x.size % n == 0 and all(address(a) % 16 == 0 for a in (x, keep)) else 1
    gain = 1 / (1 - p) if p < 1 else 0.0
    launch(FILE, f"apply_dropout_mask<{kind}, {n}>", -(-x.size // (256 * n)), 256, x, keep, out, x.size, float(gain))
    return out


def apply_dropout_mask_vjp(g, needs, keep, p):
    return apply_dropout_mask(g, keep, p=p), None


def philox_of(counters: Array, keys: Array) -> Array:
    """The four draws at each counter (N, 4) under each key (N, 2), all uint32: (N, 4)."""
    out = xp(counters).empty(counters.shape, "uint32")
    launch(FILE, "philox_of", -(-len(counters) // 256), 256, counters, keys, out, len(counters))
    return out
