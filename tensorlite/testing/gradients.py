"""Derivatives of functions of Tensors beside differences of their values: `check_gradients` and its relatives."""

from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any

import numpy as np

from ..random import stream
from ..tensor import Tensor
from .compare import Settings, compare
from .invariants import FirstCall, check_invariants, gradients_twice
from .kinks import check_sides, check_ties
from .points import Point, holding_float64, name_of, point
from .report import Report, Undecided


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

    `op` takes Tensors and returns one Tensor of any shape. `inputs` are arrays, lists or Tensors: floating ones become
    float64, with the strides, the order and the read-only flag that they were given, and are differentiated; all
    others, numbers too, are passed on unchanged. `tensors`, a sequence or a dict {name: Tensor}, are Tensors that `op`
    reads from elsewhere (a closure, a Module): they are float64 during the check and are differentiated too.

    - `order` n: the derivatives of the gradient are checked too, by the inputs and by the incoming gradient, and so on.
    - `method` "complex" takes the first derivatives by a complex step, where rounding does not cancel. `op` has to be
      analytic and to accept complex arrays; ValueError where it does not.
    - `fast`: one random direction of each input instead of all of its elements.
    - `step`: the distance to begin with, relative to max(1, |x|). Where the estimate of the error says that it is too
      large or too small, others are tried.
    - `rtol`, `atol`: numbers, or dicts {name or position: number} for some of the inputs.
    - `seed` decides the incoming gradient.

    An element may differ by rtol |expected| + atol min(1, the largest |expected|), and by the rounding error of the
    difference: at least 64 epsilon |g| max |op(t x)| / step, t = 1, 1/2, 1/4, 1/8, since a value that is small beside
    those on the way to 0 is a difference of larger ones and has their rounding error. Then the op must also give the
    same bits twice, leave inputs unchanged, have a gradient that is linear in the incoming one and that another call
    does not change, accept the same Tensor as two arguments, and give in float32 what it gives in float64. An op that
    refuses float32 inputs is not compared there, which the report says; a rule that fails for them is a failure.

    CheckFailed, an AssertionError, says which property does not hold, where, and by how much; Undecided says why
    differences cannot tell: a kink, or values that are rounded inside `op`, to float32 for example. TypeError or
    ValueError if nothing would be checked: no floating input with elements, a result without elements or that does not
    require a gradient, an order below 1, an infinite tolerance.
    """
    _check_settings(order, step, method)
    name = name_of(op)
    here, report = point(name, op, inputs, tensors), Report(name)
    limits = _limits(rtol, atol, here)
    first = _first_call(here, inputs)
    generator, unclear = np.random.default_rng(seed), []
    for n in range(1, order + 1):
        shape = first.out.shape if n == 1 else here.out(here.values).shape
        g = Tensor(generator.standard_normal(shape)).to(here.device)
        gradients = gradients_twice(first, g, report) if n == 1 else here.gradients(g)
        for i, got in gradients.items():
            settings = Settings(step, *limits.get(i, limits[-1]), fast, method, seed)
            if got.size and (reason := compare(here, i, n, g, got, settings, report)):
                unclear.append(reason)
        if n == 1:
            check_invariants(first, g, gradients, report)
        here = here.slope(g)
    if unclear:
        raise Undecided(f"check_gradients: {name}: {unclear[0]}", report)
    return report


def check_module(module: Any, *inputs: Any, forward: Callable[..., Any] | None = None, **options: Any) -> Report:
    """`check_gradients` of `module(*inputs)` by the floating inputs and by every parameter that requires a gradient.

    `forward` replaces the call: a function of the inputs that uses the module and returns one Tensor, such as a loss.
    Parameters and buffers are float64 during the check and as before afterwards. Random numbers of the default
    generator, such as those of dropout, are the same in every call. `options` are those of check_gradients; tolerances
    of parameters are given by their names.
    """
    if not hasattr(module, "named_parameters"):
        raise TypeError(f"check_module: give a Module, not {type(module).__name__}; check_gradients checks functions")
    function = module.forward if forward is None else forward
    call = module if forward is None else forward

    generator = stream(None)
    mark = generator.mark()

    def op(*values: Any) -> Any:
        generator.back_to(mark)
        return call(*values)

    op.__name__ = type(module).__name__ if forward is None else getattr(forward, "__name__", type(module).__name__)
    op.__wrapped__ = function  # type: ignore[attr-defined]  # whose arguments have names
    parameters = {name: x for name, x in module.named_parameters() if x.requires_grad}
    parts = [x for part in module.modules() for x in vars(part).values() if isinstance(x, Tensor)]
    try:
        with holding_float64([x for x in parts if not any(x is p for p in parameters.values())]):
            return check_gradients(op, *inputs, tensors={**options.pop("tensors", {}), **parameters}, **options)
    finally:
        generator.back_to(mark)


def check_kinks(op: Callable[..., Any], *inputs: Any, atol: float = 1e-9, seed: int = 0) -> Report:
    """Check a derivative at points where the function has a kink, such as ties of a maximum or `abs` at 0.

    At a kink the derivative by an element differs to the left and to the right. Any value between the two is accepted,
    as every subgradient of a convex function is; where both are the same, only that. Elements beside which the
    function jumps or is not finite are skipped, which the report says. The same holds for the derivative along
    directions that move equal elements, of all arguments, together: the sum of the gradient over them. Arguments and
    errors are those of check_gradients; the differences are exact for piecewise linear functions of `kinky` values.
    """
    name = name_of(op)
    here, report = point(name, op, inputs), Report(name)
    first = _first_call(here, inputs)
    g = Tensor(np.random.default_rng(seed).standard_normal(first.out.shape)).to(here.device)
    gradients = here.gradients(g)
    for i, got in gradients.items():
        if got.size:
            check_sides(here, i, g, got, Settings(atol=atol, seed=seed), report)
    check_ties(here, g, gradients, Settings(atol=atol, seed=seed), report)
    return report


# ----- arguments --------------------------------------------------------------------------------------------------


def _check_settings(order: int, step: float, method: str) -> None:
    if isinstance(order, bool) or not isinstance(order, int | np.integer) or order < 1:
        raise ValueError(f"check_gradients: order must be a positive integer, not {order!r:.80}")
    if not _is_number(step) or not 0 < step < np.inf:
        raise ValueError(f"check_gradients: step must be a finite number, positive, not {step!r:.80}")
    if method not in ("differences", "complex"):
        raise ValueError(f"check_gradients: method must be 'differences' or 'complex', not {method!r:.80}")


def _is_number(x: Any) -> bool:
    return isinstance(x, Real)


def _limits(rtol: Any, atol: Any, here: Point) -> dict[int, tuple[float, float]]:
    """(rtol, atol) for each value; under -1 for all others, such as the incoming gradient."""
    limits = {i: [1e-6, 1e-7] for i in range(-1, len(here.values))}
    for k, (what, given) in enumerate((("rtol", rtol), ("atol", atol))):
        for key, value in (given if isinstance(given, Mapping) else {None: given}).items():
            if not _is_number(value) or not 0 <= value < np.inf:
                raise ValueError(f"check_gradients: {what} must be a finite number, at least 0, not {value!r:.80}")
            for i in limits if key is None else [here.position(key, what)]:
                limits[i][k] = float(value)
    return {i: (pair[0], pair[1]) for i, pair in limits.items()}


def _first_call(here: Point, inputs: Any) -> FirstCall:
    """The first call of the op. ValueError if there is nothing to check."""
    nothing = f"check_gradients: {here.name}: nothing to check:"
    floating = [here.values[i] for i in here.differentiable]
    if not floating:
        number = next((x for x in inputs if isinstance(x, float)), None)
        said = f"; {number!r} is a number, which is passed on as it is: give np.array({number!r})" if number else ""
        raise ValueError(f"{nothing} give at least one floating array or Tensor{said}")
    if not any(x.size for x in floating):
        raise ValueError(f"{nothing} the floating inputs have no elements")
    first = FirstCall(here)
    out = first.out
    if not out.size:
        raise ValueError(f"{nothing} the result has no elements, its shape is {out.shape}")
    if not np.isfinite(out.numpy()).any():
        raise ValueError(f"{nothing} no element of the result is finite")
    if not out.requires_grad:
        raise ValueError(
            f"{nothing} the result does not require a gradient; the op detaches its inputs, computes without recording "
            "(.data, .numpy(), no_grad) or does not use them"
        )
    return first
