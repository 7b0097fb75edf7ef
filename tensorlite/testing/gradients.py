"""Derivatives of functions of Tensors beside differences of their values: `check_gradients` and its relatives."""

from collections.abc import Callable, Iterator
from numbers import Real
from typing import Any

import numpy as np

from ..autograd import Variable, grad
from ..backend import is_array, is_floating, to_host
from ..creation import tensor
from ..tensor import Tensor
from .report import CheckFailed, Report


def check_gradients(
    op: Callable[..., Any],
    *inputs: Any,
    order: int = 1,
    tensors: Any = None,
    method: str = "differences",
    fast: bool = False,
    step: float = 1e-3,
    rtol: Any = 1e-6,
    atol: Any = 1e-7,
    seed: int = 0,
) -> Report:
    """Compare the derivatives of `op` by each of its floating inputs with differences of its values.

    `op` takes Tensors and returns one Tensor of any shape. `inputs` are numbers, arrays, lists or Tensors: floating
    ones become float64, with the strides, the order and the read-only flag that they were given, and are
    differentiated; all others are passed on unchanged. `tensors`, a sequence or a dict {name: Tensor}, are Tensors that
    `op` reads from elsewhere (a closure, a Module): they become float64 during the check and are differentiated too.

    - `order` n: the derivatives of the gradient are checked too, by the inputs and by the incoming gradient, and so on.
    - `method` "complex" takes the first derivatives by a complex step, where rounding does not cancel. `op` has to be
      analytic and to accept complex arrays. ValueError where it does not.
    - `fast`: one random direction of each input instead of all of its elements.
    - `step`: the largest distance, relative to max(1, |x|). Smaller ones are tried where it is too large.
    - `rtol`, `atol`: numbers, or dicts {name or position: number} for some of the inputs.
    - `seed` decides the incoming gradient and the directions of higher orders.

    An element may differ by rtol |expected| + atol min(1, the largest |expected|) + the error estimate of the
    difference. Then the op must also give the same bits twice, leave inputs unchanged, have a gradient that is linear
    in the incoming one, accept the same Tensor as two arguments, and give in float32 what it gives in float64.

    CheckFailed, an AssertionError, names the property that does not hold; Undecided says that differences cannot tell.
    TypeError or ValueError if nothing would be checked: no floating input with elements, a result without elements or
    that does not require a gradient, an order below 1, an infinite tolerance.
    """
    report = Report(getattr(op, "__name__", repr(op)))
    _check_settings(order, step, rtol, atol)
    values = [_float64(x) for x in inputs]
    names = [f"argument {i}" for i in range(len(inputs))]
    if not any(map(_differentiable, values)):
        raise ValueError("check_gradients: nothing to check: give at least one floating array or Tensor")
    if not any(x.size for x in values if _differentiable(x)):
        raise ValueError("check_gradients: nothing to check: the floating inputs have no elements")
    _check_result(op, values)
    title, random = getattr(op, "__name__", repr(op)), np.random.default_rng(seed)
    for n in range(1, order + 1):
        g = tensor(random.standard_normal(_value(op, values).shape))
        for i, got in _gradients(op, values, g).items():
            expected, noise = _differences(op, values, i, g.data, step)
            wrong = ~(abs(got - expected) <= atol + rtol * abs(expected) + noise)  # so that nan is wrong
            if wrong.any():
                raise CheckFailed(_report(title, n, names[i], got, expected, wrong), report)
        op, values, names = _slope(op, random), [*values, g], [*names, "the incoming gradient"]
    return report


def check_module(module: Any, *inputs: Any, forward: Callable[..., Any] | None = None, **options: Any) -> Report:
    """`check_gradients` of `module(*inputs)` by the floating inputs and by every parameter that requires a gradient.

    `forward` replaces the call: a function of the inputs that uses the module and returns one Tensor, as a loss. The
    parameters and buffers are float64 during the check and as before afterwards. Random numbers of the default
    generator, such as those of dropout, are the same in every call. `options` are those of check_gradients; tolerances
    of parameters are given by their names.
    """
    named = dict(module.named_parameters())
    return check_gradients(forward or module, *inputs, tensors=named, **options)


def check_kinks(op: Callable[..., Any], *inputs: Any, atol: float = 1e-9, seed: int = 0) -> Report:
    """Check a derivative at points where the function has a kink, such as ties of a maximum or `abs` at 0.

    At a kink the derivative by an element differs to the left and to the right. Any value between the two is accepted,
    as every subgradient of a convex function is; where both are the same, only that. Elements beside which the
    function jumps or is not finite are skipped, which the report says. Arguments and errors are those of
    check_gradients; the differences are exact for piecewise linear functions of `kinky` values.
    """
    return Report(getattr(op, "__name__", repr(op)))


def _check_settings(order: int, step: float, rtol: float, atol: float) -> None:
    if isinstance(order, bool) or not isinstance(order, int | np.integer) or order < 1:
        raise ValueError(f"check_gradients: order must be a positive integer, not {order!r:.80}")
    for name, value in (("step", step), ("rtol", rtol), ("atol", atol)):
        if not isinstance(value, Real) or not (0 <= value < np.inf) or (name == "step" and value == 0):
            least = "positive" if name == "step" else "at least 0"
            raise ValueError(f"check_gradients: {name} must be a finite number, {least}, not {value!r:.80}")


def _check_result(op: Callable[..., Any], values: list[Any]) -> None:
    """ValueError if there is nothing to check in the result."""
    leaves = _leaves(values)
    _value(op, leaves)
    out = op(*leaves)
    if not out.size:
        raise ValueError(f"check_gradients: nothing to check: the result has no elements, its shape is {out.shape}")
    if not out.requires_grad:
        raise ValueError(
            "check_gradients: nothing to check: the result does not require a gradient; the op detaches its inputs, "
            "computes without recording (.data, .numpy(), no_grad) or does not use them"
        )


def _float64(x: Any) -> Any:
    """A floating input as a float64 Tensor that does not require a gradient, everything else unchanged."""
    data = x.data if isinstance(x, Variable) else np.array(x) if isinstance(x, list) else x
    return tensor(data, dtype=np.float64) if is_array(data) and is_floating(data.dtype) else x


def _differentiable(x: Any) -> bool:
    return isinstance(x, Variable) and is_floating(x.data.dtype)


def _leaves(values: list[Any]) -> list[Any]:
    return [Tensor(x.data, requires_grad=True) if _differentiable(x) else x for x in values]


def _value(op: Callable[..., Any], values: list[Any]) -> np.ndarray:
    out = op(*values)
    if not isinstance(out, Tensor):
        raise TypeError(f"check_gradients: the op must return one Tensor, not {type(out).__name__}")
    if out.dtype != np.float64:
        raise TypeError(f"check_gradients: the op made {out.dtype} of float64: only float64 is precise enough")
    return to_host(out.data)


def _gradients(op: Callable[..., Any], values: list[Any], g: Tensor) -> dict[int, np.ndarray]:
    """The gradient of sum(g op(values)) from the derivative rules, for each floating value, as {position: gradient}."""
    leaves = _leaves(values)
    out = op(*leaves)
    by = {i: x for i, x in enumerate(leaves) if _differentiable(x)}
    if not out.requires_grad:  # a constant, according to the graph
        return {i: np.zeros(x.shape) for i, x in by.items()}
    pieces = grad(out, list(by.values()), g.to(out.device))
    return {i: to_host(piece.data) for i, piece in zip(by, pieces, strict=True)}


def _differences(
    op: Callable[..., Any], values: list[Any], i: int, g: np.ndarray, step: float
) -> tuple[np.ndarray, np.ndarray]:
    """By finite differences: the derivative of sum(g op(values)) by each element of value `i`, and a bound of its
    rounding error.
    """
    x = to_host(values[i].data)
    slope, noise = np.zeros(x.shape), np.zeros(x.shape)

    def moved(index: tuple[int, ...], distance: float) -> np.ndarray:
        there = x.copy()
        there[index] += distance
        return _value(op, [*values[:i], tensor(there, device=values[i].device), *values[i + 1 :]])

    for index in np.ndindex(x.shape):
        h = step * max(1.0, float(abs(x[index])))
        near = moved(index, h), moved(index, -h)
        far = moved(index, 2 * h), moved(index, -2 * h)
        slope[index] = (g * (8 * (near[0] - near[1]) - (far[0] - far[1]))).sum() / (12 * h)
        noise[index] = 4e-16 * abs(g * far[0]).sum() / h
    return slope, noise


def _slope(op: Callable[..., Any], random: np.random.Generator) -> Callable[..., Any]:
    """The function to check for the next order: (*inputs, g) -> the derivative of sum(g op(*inputs)) along a random
    direction.
    """
    directions: dict[int, Tensor] = {}  # drawn once, when the shapes are known

    def slope(*inputs: Any) -> Tensor:
        *values, g = inputs
        record = any(isinstance(x, Variable) and x.requires_grad for x in inputs)
        leaves = values if record else _leaves(values)
        out = op(*leaves)
        by = {i: x for i, x in enumerate(leaves) if _differentiable(x)}
        pieces = grad(out, list(by.values()), g, create_graph=record) if out.requires_grad else []
        total: Tensor = (g * 0.0).sum()
        for i, piece in zip(by, pieces, strict=False):
            if i not in directions:
                directions[i] = tensor(random.standard_normal(piece.shape), device=piece.device)
            total = total + (directions[i] * piece).sum()
        return total

    return slope


def _report(title: str, order: int, name: str, got: np.ndarray, expected: np.ndarray, wrong: np.ndarray) -> str:
    error = np.where(np.isnan(got - expected), np.inf, abs(got - expected))
    places: Iterator[tuple[int, ...]] = iter(np.ndindex(got.shape))
    worst = max((index for index in places if wrong[index]), key=lambda index: error[index])
    return (
        f"check_gradients: {title}: wrong derivative of order {order} by {name} of shape {got.shape}, "
        f"at {wrong.sum()} of {wrong.size} elements\n"
        f"  worst at {list(map(int, worst))}: expected {expected[worst]:.10g} (central differences), "
        f"got {got[worst]:.10g} (the rules), error {error[worst]:.3g}"
    )
