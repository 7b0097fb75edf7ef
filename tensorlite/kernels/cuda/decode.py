"""Attention of the newest position over a cache of keys and values, whose places are numbers on the GPU; and argmax.

One idea: nothing that changes from token to token is in the launch. So the step of a token is recorded once as a CUDA
graph and replayed for all that follow.
"""

from ...backend import Array, xp
from .launch import ctype, launch, on_gpu
from .layers import address, as_rows

PLACES = 4096  # of a text at most, as in decode.cu
WIDEST = 1024  # channels of a head at most, as in decode.cu
THREADS = 512  # of a block at most, as in decode.cu
MANY = 128  # heads, about a large GPU's multiprocessors: of more, more fit at once in blocks of half the threads
_WIDTHS = {"float": 4, "bf16": 8}
INSTANTIATIONS = (
    *[f"attend<{t}, {n}>" for t, widest in _WIDTHS.items() for n in (1, widest)],
    *[f"argmax<{t}>" for t in _WIDTHS],
)


def supports(q: Array, keys: Array) -> bool:
    """Whether `attend` can be used for queries (B, H, 1, D) over keys (B, H, P, D)."""
    usual = on_gpu(q) and q.dtype.name in ("float32", "bfloat16") and q.dtype == keys.dtype and keys.flags.c_contiguous
    return usual and q.shape[2] == 1 and keys.shape[2] <= PLACES and keys.shape[3] <= WIDEST


def attend(q: Array, k: Array, v: Array, keys: Array, values: Array, places: Array, scale: float) -> Array:
    """q, k, v (B, H, 1, D) of the positions `places` (B) int64: k and v go to their places in keys and values
    (B, H, P, D), and softmax(scale q keys^T) values over all up to there is (B, H, 1, D).

    A place outside of 0 .. P - 1 gives nan.
    """
    (B, H, P, D), library = keys.shape, xp(q)
    parts = [q, k, v]
    if any(x.strides != (parts[0].strides[0], D * x.itemsize, x.strides[2], x.itemsize) for x in parts):
        parts = [library.ascontiguousarray(x) for x in parts]
    out = library.empty((B, H, 1, D), q.dtype)
    kind = ctype(q)
    n = _WIDTHS[kind] if D % _WIDTHS[kind] == 0 and address(keys) % 16 == 0 else 1
    stride = parts[0].strides[0] // q.itemsize if B > 1 else H * D
    args = *parts, keys, values, places, out, H, P, D, stride, float(scale)
    launch("decode.cu", f"attend<{kind}, {n}>", B * H, THREADS if B * H <= MANY else THREADS // 2, *args)
    return out


def supports_argmax(x: Array) -> bool:
    return on_gpu(x) and x.dtype.name in ("float32", "bfloat16") and x.ndim > 0 and x.shape[-1] > 0


def argmax(x: Array) -> Array:
    """Where the largest of each row is, (..., C) -> (...) int64: the first of equals, nan before all."""
    rows, out = as_rows(x), xp(x).empty(x.shape[:-1], "int64")
    if out.size:
        launch("decode.cu", f"argmax<{ctype(x)}>", len(rows), 1024, rows, out, rows.shape[1])
    return out
