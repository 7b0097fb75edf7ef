"""embedding: rows of a table, and for the gradient the sums of rows with the same index, in a fixed order.

Sums in a fixed order need the positions of each index in their order. They are found by counting, not sorting: the rank
of a position is the number of earlier positions with the same index, and integer counts are the same in whatever order
threads add them up. The comparisons grow with the square of the number of indices, 134 million for 16,384 of them,
which takes some microseconds.

An index outside the table gives a row of nan and no gradient: to check values would wait for the GPU.
"""

from collections.abc import Sequence

from ...backend import Array, bfloat16, float32, xp
from ...errors.layers import check_indices
from ..precision import matmul_dtype
from ..shared import Gradients
from .launch import INDICES, INSTANTIATED_WIDTHS, as_indices, as_rows, ceil_div, ctype, launch, on_gpu, width

FILE = "embedding.cu"
PIECE, TILE, CHUNK = 32, 256, 2048  # as in embedding.cu
WARPS = 8  # of a block

_ROWS = [f"{t}, {n}" for t, n in INSTANTIATED_WIDTHS]
INSTANTIATIONS = (
    *[f"gather<{index}, {t}, {n}>" for index in INDICES for t in ("float", "bf16") for n in (1, 4)],
    *[f"{kernel}<{index}>" for kernel in ("count_and_rank", "fill_segments") for index in INDICES],
    "make_segments",
    *[f"sum_pieces<{index}, {rows}>" for index in INDICES for rows in _ROWS],
    *[f"sum_segments<{rows}>" for rows in _ROWS],
)


def supports_embedding(weight: Array, idx: Array) -> bool:
    """A contiguous float32 table (V, C) on a GPU that is not empty, and integers on a GPU."""
    usual = on_gpu(weight) and weight.dtype.name == "float32" and weight.ndim == 2 and weight.flags.c_contiguous
    return usual and 0 < weight.shape[0] < 2**31 and weight.shape[1] > 0 and on_gpu(idx) and idx.dtype.kind in "iu"


def embedding(weight: Array, idx: Array) -> Array:
    """weight[idx]: weight (V, C) float32, integers idx (...) -> (..., C), bfloat16 where products are, else float32."""
    check_indices("embedding", idx, weight.shape[0])
    ids, (V, C) = as_indices(idx), weight.shape
    out = xp(weight).empty((len(ids), C), bfloat16() if matmul_dtype() == "bfloat16" else float32)
    kernel = f"gather<{ctype(ids)}, {ctype(out)}, {width(C, weight)}>"
    launch(FILE, kernel, ceil_div(len(ids), WARPS), 32 * WARPS, weight, ids, out, len(ids), V, C)
    return out.reshape((*idx.shape, C))  # (N, C) -> (..., C)


def embedding_vjp(g: Array, needs_grad: Sequence[bool], weight_shape: tuple[int, ...], idx: Array) -> Gradients:
    """dW_v = sum of g_i over the positions i with idx_i = v, in float32: g (..., C) -> (V, C)."""
    library, ids, rows = xp(g), as_indices(idx), as_rows(g)
    (V, C), N = weight_shape, len(ids)
    zeros = library.zeros(V + N + 2, "int32")
    counts, ranks, used = zeros[:V], zeros[V : V + N], zeros[V + N :]
    starts, firsts = library.empty((2, V), "int32")
    places = library.empty(N, "int32")
    launch(
        FILE, f"count_and_rank<{ctype(ids)}>", (ceil_div(N, TILE), ceil_div(N, CHUNK)), TILE, ids, counts, ranks, N, V
    )
    launch(FILE, "make_segments", ceil_div(V, 256), 256, counts, starts, firsts, used, V)
    launch(FILE, f"fill_segments<{ctype(ids)}>", ceil_div(N, 256), 256, ids, ranks, starts, places, N, V)
    n = width(C, rows)
    partial = library.empty((2 * N // PIECE + 1, C), "float32")  # segments longer than PIECE have < 2 / PIECE a place
    out = library.empty(weight_shape, "float32")
    segments = starts, firsts, places, partial
    if N > PIECE:
        kernel = f"sum_pieces<{ctype(ids)}, {ctype(rows)}, {n}>"
        launch(FILE, kernel, ceil_div(N, WARPS), 32 * WARPS, rows, ids, counts, ranks, *segments, N, V, C)
    kernel = f"sum_segments<{ctype(rows)}, {n}>"
    launch(FILE, kernel, ceil_div(V, WARPS), 32 * WARPS, rows, counts, *segments, out, V, C)
    return out, None
