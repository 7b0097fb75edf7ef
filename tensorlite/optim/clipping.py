"""The norm of a gradient, and the factor that clips it."""

import math
from collections.abc import Iterable
from numbers import Real
from typing import Any

from ..accelerate import storage as flat
from ..backend import Array, device_of, to_host, xp
from ..kernels.cuda import optim as update
from ..tensor import Tensor, tensor
from .checks import normed


def grad_norm(params: Iterable[Tensor]) -> float:
    """sqrt(sum of g**2) over the gradients of all `params` together; those without one count as 0.

    `params`: Tensors or groups, as optimizers take them, and frozen ones too. TypeError or ValueError for a single
    Tensor, a Module, none at all, one that is given twice or computed by an op, and where none requires a gradient.

    Inner products of blocks, added up in float64. Where squares leave the range of float32, all is done in float64: the
    result is infinite or nan only if a gradient is. One number per dtype and device comes to the host.
    """
    return _norm(_gradients(normed(params)))


def _norm(grads: list[Array]) -> float:
    total = sum(float(to_host(part)) for part in _sums_of_squares(grads))
    if not 1e-20 < total < math.inf:
        total = sum(float(to_host(part)) for part in _sums_of_squares(grads, widen=True))
    return math.sqrt(total)


def global_norm(params: Iterable[Tensor]) -> Tensor:
    """`grad_norm` as a float64 Tensor () where the gradients are: on a GPU nobody waits for it."""
    grads = _gradients(normed(params))
    if not grads or device_of(grads[0]) == "cpu":
        return tensor(_norm(grads), "float64", "cpu")
    if update.supports(*grads):
        return Tensor(update.grad_norm(grads))
    total = sum(_sums_of_squares(grads, widen=True))
    return Tensor(xp(total).sqrt(total))


def _gradients(params: Iterable[Tensor]) -> list[Array]:
    return [p.grad.data.reshape(-1) for p in params if p.grad is not None and p.size]


def _sums_of_squares(grads: list[Array], widen: bool = False) -> list[Array]:
    """One sum, a 0-d float64 array, for each library and dtype among the gradients."""
    sums: dict[tuple, list[Array]] = {}
    for g in grads:
        for start in range(0, g.size, flat.BLOCK):
            block = g[start : start + flat.BLOCK]
            block = block.astype("float64") if widen or g.dtype.itemsize < 4 else block
            sums.setdefault((xp(g), g.dtype), []).append(block.dot(block))
    return [sum(parts, library.zeros((), "float64")) for (library, _), parts in sums.items()]


def clip_scale(norm: Any, max_norm: float) -> Any:
    """The factor that brings a gradient of length `norm` to at most `max_norm`: min(1, max_norm / (norm + 1e-6)).

    Give it to `step(grad_scale=...)`. For a number: ValueError where it is not finite (scaling cannot repair that
    gradient: skip the step). For a Tensor (from `global_norm`) a Tensor, nan where the norm is not finite: `step` skips
    itself then. ValueError for a max_norm that is not positive.
    """
    if not isinstance(max_norm, Real) or not max_norm > 0:
        raise ValueError(f"clip_scale: max_norm must be positive, a number, not {max_norm!r:.80}")
    if not isinstance(norm, Real | Tensor):
        raise TypeError(f"clip_scale: the norm must be a number or a Tensor, not {norm!r:.80}")
    if isinstance(norm, Tensor) and update.on_gpu(norm.data):
        return Tensor(update.clip_scale(norm.data, None if max_norm == math.inf else max_norm))
    if isinstance(norm, Tensor):
        n, library = norm.data, xp(norm.data)
        return Tensor(library.where(library.isfinite(n), library.minimum(1.0, max_norm / (n + 1e-6)), math.nan))
    if not 0 <= norm < math.inf:
        raise ValueError(f"clip_scale: the norm of the gradient is {norm}: skip this step")
    return min(1.0, max_norm / (norm + 1e-6))
