"""Adam's update of many parameters, the norm of their gradients, and clipping, without a look at any value.

One idea: all that changes from step to step lives on the device, the number of steps too: launches can be recorded in
a CUDA graph and replayed. A step whose gradients are not finite is skipped there: `clip_scale` gives nan, and
where the factor of the gradients is not finite, nothing is changed.
"""

from collections.abc import Sequence
from itertools import accumulate

import numpy as np

from ...backend import Array, xp
from .launch import launch, on_gpu
from .losses import address

FILE = "update.cu"
THREADS, CHUNK = 256, 16384  # as in update.cu
CONTROL = ("step", "lr", "weight_decay", "beta1", "beta2", "eps")  # float64, in this order; a step writes to the first


def _structure(count: int, *pointers: str) -> np.dtype:
    return np.dtype([*[(name, np.int64, count) for name in (*pointers, "size", "first")], ("count", np.int64)])


TENSORS, GRADIENTS = _structure(64, "p", "m", "v", "g"), _structure(128, "g")
INSTANTIATIONS = ("advance", "adam", "sum_of_squares", "norm_of_sums", "clip")  # of update.cu: all that is launched


def supports(*arrays: Array) -> bool:
    """float32 on a GPU."""
    return all(on_gpu(x) and x.dtype.name == "float32" for x in arrays)


def adam(
    control: Array, params: Sequence[Array], ms: Sequence[Array], vs: Sequence[Array], grads: Sequence[Array],
    scale: Array | None = None, *, decoupled: bool,
) -> None:  # fmt: skip
    """One step of Adam (AdamW where `decoupled`), as optim.Adam.update has it, of parameters that share their settings.

    params, ms and vs are updated in place: contiguous float32, each with its gradient. `control`: float64 (6), see
    CONTROL. The gradients count `scale` times, one float32 on the device; where it is not finite nothing is changed.
    """
    grads = [_contiguous(g) for g in grads]
    for each in zip(params, ms, vs, grads, strict=True):
        _check("adam: a parameter, what is kept beside it and its gradient", *each)
    coefficients = xp(control).empty(8, "float32")
    launch(FILE, "advance", 1, 1, control, coefficients, scale, bool(decoupled))
    for blocks, structure in _structures(TENSORS, p=params, m=ms, v=vs, g=grads):
        launch(FILE, "adam", blocks, THREADS, structure, coefficients, scale)


def grad_norm(grads: Sequence[Array]) -> Array:
    """sqrt(sum of g^2) over all gradients, at least one, float32 of any shape: float64 (), summed in float64."""
    if not grads:
        raise ValueError("grad_norm: there is no gradient: give at least one")
    library, grads = xp(grads[0]), [_contiguous(g) for g in grads]
    for g in grads:
        _check("grad_norm: a gradient", g)
    launches = _structures(GRADIENTS, g=grads)
    partial = library.empty(sum(blocks for blocks, _ in launches), "float64")
    at = 0
    for blocks, structure in launches:
        launch(FILE, "sum_of_squares", blocks, THREADS, structure, partial[at : at + blocks])
        at += blocks
    norm = library.empty((), "float64")
    launch(FILE, "norm_of_sums", 1, 1024, partial, norm, at)
    return norm


def clip_scale(norm: Array, max_norm: float | None) -> Array:
    """float32 (): min(1, max_norm / (norm + 1e-6)), 1 without a max_norm; nan where the norm is not finite."""
    scale = xp(norm).empty((), "float32")
    launch(FILE, "clip", 1, 1, norm, scale, float(max_norm or 0))
    return scale


def _structures(dtype: np.dtype, **arrays: Sequence[Array]) -> list[tuple[int, np.ndarray]]:
    """(blocks, structure) of each launch for arrays alike in number and sizes; what has no element is left out."""
    most, out = dtype["size"].shape[0], []
    full = [each for each in zip(*arrays.values(), strict=True) if each[0].size]
    for start in range(0, len(full), most):
        some = full[start : start + most]
        sizes = [each[0].size for each in some]
        *first, blocks = accumulate([-(-size // CHUNK) for size in sizes], initial=0)
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
