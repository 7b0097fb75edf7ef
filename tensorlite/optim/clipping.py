"""The global norm of gradients, and the factor that clips them to a largest norm.

    norm = sqrt(sum of g**2 over all gradients)          scale = min(1, max_norm / (norm + 1e-6))

Pascanu, Mikolov and Bengio, "On the difficulty of training recurrent neural networks", 2013; the 1e-6 is PyTorch's.
Gradients are never written to: the scale is given to `optimizer.step(grad_scale=scale)`.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from numbers import Real
from typing import Any, TypeVar

import numpy as np

from ..backend import Array, device_of, to_host, xp
from ..creation import tensor
from ..tensor import Tensor
from .checks import norm_params

BLOCK = 1 << 17  # elements whose squares are added up in the gradient's own dtype

# ----- the formulas -----------------------------------------------------------------------------------------------


def norm_formula(grads: list[Array]) -> Array:
    """sqrt(sum of g**2) over arrays of one device, at least one: float64 (), on that device.

    Inner products of blocks, added up in float64. Where a sum leaves the range of float32, all blocks are computed in
    float64 instead; on a GPU always, because a comparison would wait for the result. So the norm is infinite or nan
    only if a gradient is.
    """
    on_cpu = isinstance(grads[0], np.ndarray)
    total = sum_of_squares(grads, in_float64=not on_cpu)
    if on_cpu and not 1e-20 < total < math.inf:
        total = sum_of_squares(grads, in_float64=True)
    library = xp(total)
    return library.asarray(library.sqrt(total))


def clip_scale_formula(norm: Array, max_norm: float) -> Array:
    """min(1, max_norm / (norm + 1e-6)) for a float64 array (); nan where the norm is not finite."""
    library = xp(norm)
    return library.where(library.isfinite(norm), library.minimum(1.0, max_norm / (norm + 1e-6)), math.nan)


def sum_of_squares(grads: list[Array], in_float64: bool = False) -> Array:
    """The sum of g**2 over arrays of one device: float64 ()."""
    total = xp(grads[0]).zeros((), "float64")
    for block in _blocks(grads):
        x = block.astype("float64") if in_float64 or block.dtype.itemsize < 4 else block
        total = total + x.dot(x)
    return total


def _blocks(grads: list[Array]) -> Iterator[Array]:
    for g in grads:
        flat = g.reshape(-1)
        yield from (flat,) if flat.size <= BLOCK else (flat[i : i + BLOCK] for i in range(0, flat.size, BLOCK))


# The functions in use. tensorlite.accelerate.storage.attach sets others, which use a kernel on a GPU.
compute_norm: Callable[[list[Array]], Array] = norm_formula
compute_clip_scale: Callable[[Array, float], Array] = clip_scale_formula

# ----- the public functions ---------------------------------------------------------------------------------------


def grad_norm(params: Iterable[Any]) -> float:
    """sqrt(sum of g**2) over the gradients of all `params` together, a float; parameters without one count as 0.

    `params`: Tensors or groups, as optimizers take them, and frozen ones too. TypeError or ValueError for a single
    Tensor, a Module, no parameter at all, one that is given twice or computed by an op, and where none requires a
    gradient. On a GPU, this waits for the result: use `global_norm` in a training step.
    """
    by_device: dict[str, list[Array]] = {}
    for g in _gradients(norm_params(params)):
        by_device.setdefault(device_of(g), []).append(g)
    return math.hypot(*[float(to_host(compute_norm(grads))) for grads in by_device.values()])


def global_norm(params: Iterable[Any]) -> Tensor:
    """`grad_norm` as a float64 Tensor () on the device of the gradients: on a GPU, nothing waits for its value.

    All gradients are on one device. Errors as `grad_norm`.
    """
    return global_norm_of(norm_params(params))


def global_norm_of(params: list[Tensor]) -> Tensor:
    """`global_norm` of parameters that were checked before, such as those of an optimizer."""
    grads = _gradients(params)
    return Tensor(compute_norm(grads)) if grads else tensor(0.0, "float64", "cpu")


def _gradients(params: list[Tensor]) -> list[Array]:
    return [g.data for p in params if (g := p.grad) is not None and g.data.size]


Norm = TypeVar("Norm", float, Tensor)


def clip_scale(norm: Norm, max_norm: float) -> Norm:
    """The factor that brings a gradient of length `norm` to at most `max_norm`: min(1, max_norm / (norm + 1e-6)).

    Give it to `step(grad_scale=...)`. For a number: ValueError where it is not finite (scaling cannot repair that
    gradient: skip the step). For a Tensor (from `global_norm`) a Tensor (), nan where the norm is not finite: `step`
    skips itself then. ValueError for a max_norm that is not positive.
    """
    if not isinstance(max_norm, Real) or not max_norm > 0:
        raise ValueError(f"clip_scale: max_norm must be positive, a number, not {max_norm!r:.80}")
    if isinstance(norm, Tensor):
        return Tensor(compute_clip_scale(norm.data, max_norm))
    if not isinstance(norm, Real):
        raise TypeError(f"clip_scale: the norm must be a number or a Tensor, not {norm!r:.80}")
    if not 0 <= norm < math.inf:
        raise ValueError(f"clip_scale: the norm of the gradient is {norm}: skip this step")
    return min(1.0, max_norm / (norm + 1e-6))
