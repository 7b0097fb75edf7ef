"""embedding: rows of a table by their numbers, and the sum of gradients of rows that were taken more than once.

One idea: the sums have a fixed order without a sort: counting is enough, and counts of integers are the same in
whatever order threads make them. The comparisons to count with grow with the square of the number of ids: 134 million
for 16,384 of them, some microseconds.

An id outside of the table gives a row of nan and no gradient: values are not checked, which would wait.
"""

from ...backend import bfloat16, float32, xp
from ...errors.layers import check_indices
from ..precision import matmul_dtype
from .launch import ctype, launch, on_gpu
from .losses import address, as_rows, indices

FILE = "embedding.cu"
PIECE, TILE, CHUNK = 32, 256, 2048  # as in embedding.cu
WARPS = 8  # of a block

_INDEX, _ROWS = ("int", "long long"), ("float, 1", "float, 4", "bf16, 1", "bf16, 8")
INSTANTIATIONS = (  # of embedding.cu: all that is launched
    *[f"gather<{index}, {T}, {n}>" for index in _INDEX for T in ("float", "bf16") for n in (1, 4)],
    *[f"{kernel}<{index}>" for kernel in ("count_and_rank", "fill_segments") for index in _INDEX],
    "make_segments",
    *[f"sum_pieces<{index}, {rows}>" for index in _INDEX for rows in _ROWS],
    *[f"sum_segments<{rows}>" for rows in _ROWS],
)


def supports_embedding(weight, idx) -> bool:
    usual = on_gpu(weight) and weight.dtype.name == "float32" and weight.ndim == 2 and weight.flags.c_contiguous
    return usual and 0 < weight.shape[0] < 2**31 and weight.shape[1] > 0 and on_gpu(idx) and idx.dtype.kind in "iu"


def embedding(weight, idx):
    """weight (V, C) float32, idx (...) -> (..., C), in the dtype of activations."""
    check_indices("embedding", idx, weight.shape[0])
    ids, (V, C) = indices(idx), weight.shape
    out = xp(weight).empty((len(ids), C), bfloat16() if matmul_dtype() == "bfloat16" else float32)
    n = 4 if C % 4 == 0 and address(weight) % 16 == 0 else 1
    kernel = f"gather<{ctype(ids)}, {ctype(out)}, {n}>"
    launch(FILE, kernel, -(-len(ids) // WARPS), 32 * WARPS, weight, ids, out, len(ids), V, C)
    return out.reshape((*idx.shape, C))  # (N, C) -> (..., C)


def embedding_vjp(g, needs, weight_shape, idx):
    """The rows of `g` with the same index added up, in float32: (V, C)."""
    library, ids, rows = xp(g), indices(idx), as_rows(g)
    (V, C), N = weight_shape, len(ids)
    zeros = library.zeros(V + N + 2, "int32")
    counts, ranks, used = zeros[:V], zeros[V : V + N], zeros[V + N :]
    starts, firsts = library.empty((2, V), "int32")
    places = library.empty(N, "int32")
    launch(FILE, f"count_and_rank<{ctype(ids)}>", (-(-N // TILE), -(-N // CHUNK)), TILE, ids, counts, ranks, N, V)
    launch(FILE, "make_segments", -(-V // 256), 256, counts, starts, firsts, used, V)
    launch(FILE, f"fill_segments<{ctype(ids)}>", -(-N // 256), 256, ids, ranks, starts, places, N, V)
    n = 16 // rows.itemsize
    n = n if C % n == 0 and address(rows) % 16 == 0 else 1
    partial = library.empty(
        (2 * N // PIECE + 1, C), "float32"
    )  # a longer segment than PIECE has under 2 / PIECE a place
    out = library.empty(weight_shape, "float32")
    kernel, blocks = f"sum_pieces<{ctype(ids)}, {ctype(rows)}, {n}>", -(-N // WARPS)
    segments = starts, firsts, places, partial
    if N > PIECE:
        launch(FILE, kernel, blocks, 32 * WARPS, rows, ids, counts, ranks, *segments, N, V, C)
    kernel, blocks = f"sum_segments<{ctype(rows)}, {n}>", -(-V // WARPS)
    launch(FILE, kernel, blocks, 32 * WARPS, rows, counts, *segments, out, V, C)
    return out, None
