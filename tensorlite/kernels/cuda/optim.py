"""The optimizer step on a GPU: Adam's update, the norm of all gradients, and the factor that clips them.

No value is read back to the host. All that changes from step to step, the number of steps too, lies in memory of the
GPU, so the launches can be recorded in a CUDA graph and replayed. A step whose gradients are not finite is skipped on
the GPU: `clip_scale` returns nan then, and `adam` changes nothing where the gradients' factor is not finite.
"""

from collections.abc import Sequence
from itertools import accumulate

import numpy as np

from ...backend import Array, xp
from .launch import address, ceil_div, launch, on_gpu

FILE = "optim.cu"
THREADS, CHUNK = 256, 16384  # as in optim.cu


def _structure(count: int, *pointers: str) -> np.dtype:
    """The NumPy dtype of a structure in optim.cu that holds pointers to `count` arrays of each kind."""
    return np.dtype([*[(name, np.int64, count) for name in (*pointers, "size", "first")], ("count", np.int64)])


TENSORS, GRADIENTS = _structure(64, "p", "m", "v", "g"), _structure(128, "g")
INSTANTIATIONS = ("advance", "adam", "sum_of_squares", "norm_of_sums", "clip")


def supports(*arrays: Array) -> bool:
    """Whether all are float32 on a GPU."""
    return all(on_gpu(x) and x.dtype.name == "float32" for x in arrays)


def adam(
    control: Array, params: Sequence[Array], ms: Sequence[Array], vs: Sequence[Array], grads: Sequence[Array],
    scale: Array | None = None, *, decoupled: bool,
) -> None:  # fmt: skip
    """One step of Adam (AdamW where `decoupled`) as optim.Adam.update has it, for parameters that share their settings.

    `params`, `ms` and `vs` (the moments) are updated in place: float32, contiguous, each of any shape, with as many
    elements as its gradient. `control`, float64 (6): the number of steps, which goes up by one, lr, weight_decay,
    beta1, beta2, eps. `scale`: one float32 on the GPU that multiplies the gradients; where it is not finite, nothing
    changes. ValueError for arrays of another dtype, size or layout.
    """
    grads = [_contiguous(g) for g in grads]
    for each in zip(params, ms, vs, grads, strict=True):
        _check("adam: a parameter, what is kept beside it and its gradient", *each)
    coefficients = xp(control).empty(8, "float32")
    launch(FILE, "advance", 1, 1, control, coefficients, scale, decoupled)
    for blocks, structure in _launches(TENSORS, p=params, m=ms, v=vs, g=grads):
        launch(FILE, "adam", blocks, THREADS, structure, coefficients, scale)


def grad_norm(grads: Sequence[Array]) -> Array:
    """sqrt(sum of g^2 over all gradients), summed in float64: float64 (). `grads`: float32 of any shape, at least one
    (ValueError otherwise).
    """
    if not grads:
        raise ValueError("grad_norm: there is no gradient: give at least one")
    library, grads = xp(grads[0]), [_contiguous(g) for g in grads]
    for g in grads:
        _check("grad_norm: a gradient", g)
    launches = _launches(GRADIENTS, g=grads)
    partial = library.empty(sum(blocks for blocks, _ in launches), "float64")
    at = 0
    for blocks, structure in launches:
        launch(FILE, "sum_of_squares", blocks, THREADS, structure, partial[at : at + blocks])
        at += blocks
    norm = library.empty((), "float64")
    launch(FILE, "norm_of_sums", 1, 1024, partial, norm, at)
    return norm


def clip_scale(norm: Array, max_norm: float | None) -> Array:
    """min(1, max_norm / (norm + 1e-6)), 1 without a max_norm, nan where the norm is not finite: norm float64 () ->
    float32 ().
    """
    scale = xp(norm).empty((), "float32")
    launch(FILE, "clip", 1, 1, norm, scale, float(max_norm or 0))
    return scale


def _launches(dtype: np.dtype, **arrays: Sequence[Array]) -> list[tuple[int, np.ndarray]]:
    """(blocks, structure) of each launch that together take all arrays; those without elements are left out.

    The sequences are of equal length, and arrays at equal places of equal size.
    """
    most, out = dtype["size"].shape[0], []
    full = [each for each in zip(*arrays.values(), strict=True) if each[0].size]
    for start in range(0, len(full), most):
        some = full[start : start + most]
        sizes = [each[0].size for each in some]
        *first, blocks = accumulate([ceil_div(size, CHUNK) for size in sizes], initial=0)
        structure, n = np.zeros((), dtype), len(some)
        for name, column in zip(arrays, zip(*some, strict=True), strict=True):
            structure[name][:n] = [address(x) for x in column]
        structure["size"][:n], structure["first"][:n], structure["count"] = sizes, first, n
        out.append((blocks, structure))
    return out


def _contiguous(x: Array) -> Array:
    return x if x.flags.c_contiguous else xp(x).ascontiguousarray(x)


def _check(what: str, *arrays: Array) -> None:
    for x in arrays:
        if x.dtype.name != "float32" or x.size != arrays[0].size or not x.flags.c_contiguous:
            raise ValueError(
                f"{what} must be float32, contiguous, of {arrays[0].size} elements, not {x.dtype} of shape {x.shape} "
                f"with strides {x.strides}"
            )
