"""Masks for dropout, drawn on the GPU from a stream that is a counter: Philox4x32-10 (philox.cu).

One idea: the stream's place is a number on the device, moved on by what draws from it. So a CUDA graph that is replayed
draws new numbers each time, and the same state gives the same mask on every GPU.
"""

import math

from ...backend import Array, xp
from .launch import launch

FILE = "philox.cu"
INSTANTIATIONS = ("keep_mask", "take", "philox_of")  # of philox.cu: all that is launched


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


def philox_of(counters: Array, keys: Array) -> Array:
    """The four draws at each counter (N, 4) under each key (N, 2), all uint32: (N, 4)."""
    out = xp(counters).empty(counters.shape, "uint32")
    launch(FILE, "philox_of", -(-len(counters) // 256), 256, counters, keys, out, len(counters))
    return out
