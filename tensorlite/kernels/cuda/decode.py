"""Kernels for generation token by token: attention of the newest position over cached keys and values, and argmax.

Nothing that changes from token to token is an argument of a launch: positions are numbers in the GPU's memory. So the
step of one token is recorded once as a CUDA graph and replayed for all tokens that follow.
"""

from ...backend import Array, xp
from .launch import FLOATS, INSTANTIATED_WIDTHS, WIDTHS, as_rows, ctype, launch, on_gpu, width

PLACES = 4096  # positions of a sequence at most, as in decode.cu
WIDEST = 1024  # channels of a head at most, as in decode.cu
THREADS = 512  # of a block at most, as in decode.cu
MANY_HEADS = 128  # about a large GPU's multiprocessors: of more heads, more run at once in blocks of half the threads
INSTANTIATIONS = (*[f"attend<{t}, {n}>" for t, n in INSTANTIATED_WIDTHS], *[f"argmax<{t}>" for t in WIDTHS])


def supports(q: Array, keys: Array) -> bool:
    """Whether `attend` can compute queries (B, H, 1, D) over keys (B, H, P, D): on a GPU, in one dtype of float32 and
    bfloat16, keys contiguous, P at most `PLACES` and D at most `WIDEST`.
    """
    usual = on_gpu(q) and q.dtype.name in FLOATS and q.dtype == keys.dtype and keys.flags.c_contiguous
    return usual and q.shape[2] == 1 and keys.shape[2] <= PLACES and keys.shape[3] <= WIDEST


def attend(q: Array, k: Array, v: Array, keys: Array, values: Array, places: Array, scale: float) -> Array:
    """softmax(scale q K^T) V over the positions up to the newest one, which is written into the cache first.

    q, k, v (B, H, 1, D) belong to the positions `places` (B) int64. k and v are written there into `keys` and `values`
    (B, H, P, D); K and V are the positions 0 .. places[b] of these. Returns (B, H, 1, D); nan for a position outside
    0 .. P - 1.
    """
    (B, H, P, D), library = keys.shape, xp(q)
    parts = [q, k, v]
    if any(x.strides != (parts[0].strides[0], D * x.itemsize, x.strides[2], x.itemsize) for x in parts):
        parts = [library.ascontiguousarray(x) for x in parts]
    out = library.empty((B, H, 1, D), q.dtype)
    stride = parts[0].strides[0] // q.itemsize
    kernel, threads = f"attend<{ctype(q)}, {width(D, keys)}>", THREADS if B * H <= MANY_HEADS else THREADS // 2
    launch("decode.cu", kernel, B * H, threads, *parts, keys, values, places, out, H, P, D, stride, float(scale))
    return out


def supports_argmax(x: Array) -> bool:
    """float32 or bfloat16 on a GPU, with rows that are not empty."""
    return on_gpu(x) and x.dtype.name in FLOATS and x.ndim > 0 and x.shape[-1] > 0


def argmax(x: Array) -> Array:
    """The index of the largest element of each row, (..., C) -> (...) int64: the first of equals; nan is largest."""
    rows, out = as_rows(x), xp(x).empty(x.shape[:-1], "int64")
    if out.size:
        launch("decode.cu", f"argmax<{ctype(x)}>", len(rows), 1024, rows, out, rows.shape[1])
    return out
