"""Products with Jacobians, and whole Jacobians and Hessians, of functions of Tensors.

For f from n numbers to m, the Jacobian J is the (m, n) matrix of the partial derivatives of the m results. A backward
pass gives one product v^T J (`vjp`), so all of J takes m of them; a gradient takes one, since m is 1.
"""

from collections.abc import Callable, Sequence
from typing import Any

from .autograd import grad
from .backend import xp
from .creation import tensor, zeros_like
from .ops import reshape
from .tensor import Tensor

__all__ = ["hessian", "jacobian", "jvp", "vjp"]

Function = Callable[..., Tensor]


def vjp(f: Function, inputs: Any, v: Any = None) -> tuple[Tensor, Any]:
    """f(*inputs) and the vector-Jacobian product v^T J: the gradient of sum(v * f) in each input.

    `inputs` is a Tensor or a sequence of them; so are the gradients (a list). `v` has the shape of the result; it
    may be omitted only where that has one element. ValueError where the shapes differ.
    """
    xs, out = _evaluate("vjp", f, inputs)
    return out.detach(), _like(inputs, grad(out, xs, v))


def jvp(f: Function, inputs: Any, v: Any) -> tuple[Tensor, Tensor]:
    """f(*inputs) and the Jacobian-vector product J v: how the result changes when the inputs move along `v`.

    `v` has the form of `inputs`: a Tensor or a sequence of them, of the same shapes. The product v^T J is linear in its
    v, and the derivative of u -> u^T J in the direction v is J v: two backward passes. ValueError for other shapes.
    """
    xs, out = _evaluate("jvp", f, inputs)
    directions = _tensors("jvp", v)
    if [x.shape for x in xs] != [d.shape for d in directions]:
        shapes = [[t.shape for t in each] for each in (xs, directions)]
        raise ValueError(f"jvp: v must have the shapes of the inputs, {shapes[0]}, not {shapes[1]}")
    u = zeros_like(out)
    u.requires_grad = True
    products = grad(out, xs, u, create_graph=True)
    total: Any = sum((p * d).sum() for p, d in zip(products, directions, strict=True))
    return out.detach(), grad(total, u)


def jacobian(f: Function, inputs: Any) -> Any:
    """All partial derivatives of f(*inputs): for an input of shape n and a result of shape m, a Tensor (*m, *n).

    `inputs` is a Tensor or a sequence of them; so are the Jacobians (a list). It takes a backward pass for each
    element of the result.
    """
    xs, out = _evaluate("jacobian", f, inputs)
    return _like(inputs, _rows(out, xs))


def hessian(f: Function, x: Tensor) -> Tensor:
    """All second derivatives of a function with one number as its result, at x of shape n: a Tensor (*n, *n).

    It takes a backward pass for each element of x. ValueError where the result has more than one element.
    """
    (x,), out = _evaluate("hessian", f, x)
    if out.size != 1:
        raise ValueError(
            f"hessian: the function must return one number, not shape {out.shape}: sum it, or use jacobian"
        )
    gradient = grad(out.reshape(()), x, create_graph=True)
    return _rows(gradient, [x])[0]


# ----- shared -------------------------------------------------------------------------------------------------------


def _evaluate(name: str, f: Function, inputs: Any) -> tuple[list[Tensor], Tensor]:
    """Copies of the inputs that require a gradient, and the result of `f` on them."""
    xs = []
    for x in _tensors(name, inputs):
        x = x.detach()
        x.requires_grad = True
        xs.append(x)
    out: Any = f(*xs)
    if not isinstance(out, Tensor):
        raise TypeError(f"{name}: the function must return a Tensor, not {type(out).__name__}")
    return xs, out if out.requires_grad else out + 0 * sum(x.sum() for x in xs)


def _tensors(name: str, values: Any) -> list[Tensor]:
    many = values if isinstance(values, Sequence) else [values]
    return [x if isinstance(x, Tensor) else tensor(x) for x in many]


def _like(inputs: Any, found: list[Tensor]) -> Any:
    """The results in the form of the inputs: one, or a list."""
    return found if isinstance(inputs, Sequence) else found[0]


def _rows(out: Tensor, xs: list[Tensor]) -> list[Tensor]:
    """For each x the gradients of the elements of `out`, (*out.shape, *x.shape)."""
    rows: list[list[Any]] = [[] for _ in xs]
    flat = reshape(out, (-1,))
    for i in range(flat.size):
        for row, g in zip(rows, grad(flat[i], xs, retain_graph=True), strict=True):
            row.append(g.data)
    found = []
    for row, x in zip(rows, xs, strict=True):
        lib = xp(x.data)
        stacked = lib.stack(row) if row else lib.zeros((0, *x.shape), x.dtype)  # (m, *n)
        found.append(Tensor(stacked.reshape((*out.shape, *x.shape))))  # (m, *n) -> (*out.shape, *n)
    return found
