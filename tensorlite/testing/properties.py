"""The properties of an op, one function each: of a row, Hypothesis' `data` and a seed.

Each draws inputs for the row and raises CheckFailed where the property does not hold. suite.py runs them.
"""

import math
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import assume, reject
from hypothesis import strategies as st

from ..autograd import grad
from ..primitive import Primitive
from ..tensor import Tensor
from .gradients import check_gradients, check_kinks
from .invariants import same_in_float32
from .report import CheckFailed, Report
from .rows import Row, arrays_of
from .strategies import GAP, kinky, layouts, smooth

ONE_BY_ONE = 16  # elements: with more of them, differences are taken along random directions
Property = Callable[[Row, Any, int], None]


def require(row: Row, holds: bool, sentence: str) -> None:
    if not holds:
        raise CheckFailed(f"check_op: {row}: {sentence}", Report(row.name))


# ----- values and gradients by hand -------------------------------------------------------------------------------


def value(row: Row, data: Any, seed: int) -> None:
    """Value and gradient are those of the formulas, in every memory layout; the value is that of copies in C and in
    Fortran order.
    """
    shapes, meta = data.draw(arrays_of(row))
    xs = data.draw(layouts(smooth(*shapes, **row.domain)))
    out, g, gradients = apply(row, xs, meta, seed)
    for order in "CF":
        again = row.op(*[Tensor(np.array(x, order=order)) for x in xs], **meta)  # type: ignore[call-overload]
        require_equal(row, f"value of copies in {order} order", again.data, out)
    if row.value is not None:
        expected = row.value(*xs, **meta)
        wanted = np.asarray(expected).dtype if row.gradient is None else row.dtype or np.float64
        require(row, out.dtype == wanted, f"the result has dtype {out.dtype}, not {np.dtype(wanted)}")
        require_equal(row, "value", out, expected)
    for i, (got, formula) in enumerate(zip(gradients, by_hand(row, g, xs, meta), strict=False)):
        require_equal(row, f"gradient by argument {i}", got, formula)


def by_hand(row: Row, g: Any, xs: Any, meta: dict[str, Any]) -> Any:
    """The gradients that the row's formula gives, one for each array; none if it has no formula."""
    if not callable(row.gradient):
        return ()
    found = row.gradient(g, *xs, **meta)
    if not isinstance(found, tuple | list) or len(found) != len(xs):
        what = f"{len(found)} of them" if isinstance(found, tuple | list) else type(found).__name__
        raise TypeError(
            f"check_op: {row}: gradient must return a tuple with one for each of {len(xs)} arrays, not {what}"
        )
    return found


def ties(row: Row, data: Any, seed: int) -> None:
    """At ties, zeros and edges too; where `exact`, to the last bit."""
    shapes, meta = data.draw(arrays_of(row))
    xs = data.draw(layouts(kinky(*shapes), broadcast=True))
    out, g, gradients = apply(row, xs, meta, seed)
    if row.value is not None:
        require_equal(row, "value", out, row.value(*xs, **meta), row.exact)
    for i, (got, formula) in enumerate(zip(gradients, by_hand(row, g, xs, meta), strict=False)):
        require_equal(row, f"gradient by argument {i}", got, formula, row.exact)


def apply(row: Row, xs: Any, meta: dict[str, Any], seed: int) -> tuple[np.ndarray, Any, list[np.ndarray]]:
    """(value, incoming gradient, gradients) of one application; what must hold for every op is checked on the way."""
    before, meta_before = [x.copy() for x in xs], pickle.dumps(meta)
    tensors = [Tensor(x, requires_grad=True) for x in xs]
    out = row.op(*tensors, **meta)
    if not isinstance(out, Tensor):
        raise TypeError(f"check_op: {row}: the op must return one Tensor, not {type(out).__name__}")
    require(row, same_bits(row.op(*tensors, **meta).data, out.data), "a second call gives other values")
    if isinstance(row.op, Primitive) or row.device:
        require(row, same_bits(row.op(*xs, **meta), out.data), "the result of arrays is not that of Tensors")
    require(row, isinstance(out.data, np.ndarray), f"the result holds a {type(out.data).__name__}, not an array")
    recorded = row.gradient is not None
    require(row, out.requires_grad == recorded, "the result " + "has no history: it requires no gradient" * recorded
            + "requires a gradient" * (not recorded))  # fmt: skip
    if not recorded:
        return out.data, None, []
    g = incoming(out.shape, seed, out.dtype)
    kept = g.copy()
    gradients = grad(out, tensors, g, retain_graph=True)
    _check_backward(row, out, tensors, gradients, [*xs, g, *meta.values()], g)
    for x, old in zip([*xs, g], [*before, kept], strict=True):
        require(row, same_bits(x, old), "the op or a rule changed an input or the incoming gradient in place")
    require(row, pickle.dumps(meta) == meta_before, "the op or a rule changed a keyword argument in place")
    return out.data, g, [gradient.data for gradient in gradients]


def _check_backward(row: Row, out: Any, tensors: Any, gradients: Any, others: list[Any], g: np.ndarray) -> None:
    """`backward` gives what `grad` gives, adds it up, and in memory of its own."""
    out.backward(g, retain_graph=True)
    for i, (x, gradient) in enumerate(zip(tensors, gradients, strict=True)):
        require(row, x.grad is not None, f"there is no gradient by argument {i}: its rule is None, or the op does not "
                f"use it; if that is meant, give it by keyword: Row(name, lambda x, *, y: op(x, y), ...)")  # fmt: skip
        require(row, same_bits(x.grad.data, gradient.data), "backward gives another gradient than grad")
    out.backward(g)  # adds to what is there
    held = [x.grad.data for x in tensors]
    for i, (x, gradient, array) in enumerate(zip(tensors, gradients, held, strict=True)):
        require(
            row, same_bits(array, gradient.data + gradient.data), "a second backward does not add the gradient again"
        )
        apart = [*held[:i], *others, out.data, *[p.data for p in gradients]]
        shared = any(np.may_share_memory(array, other) for other in apart if isinstance(other, np.ndarray))
        require(row, not shared, f"the gradient by argument {i} shares memory with another array")
        require(row, (gradient.shape, gradient.dtype) == (x.shape, x.dtype),
f"the gradient by argument {i} is {gradient.dtype}{gradient.shape}, its input {x.dtype}{x.shape}")  # fmt: skip


def incoming(shape: Any, seed: int, dtype: Any = np.float64) -> np.ndarray:
    """A random incoming gradient, of multiples of 1/16: sums and products of them are exact."""
    return np.asarray(np.random.default_rng(seed).integers(-48, 49, shape) / 16, dtype)


def same_bits(x: Any, y: Any) -> bool:
    x, y = np.asarray(x), np.asarray(y)
    return (x.dtype, x.shape, x.tobytes()) == (y.dtype, y.shape, y.tobytes())


def require_equal(
    row: Row, what: str, got: Any, expected: Any, exact: bool = False, rtol: float = 1e-9, atol: float = 1e-9
) -> None:
    """CheckFailed with NumPy's table of differences where two arrays are not close, or with `exact` not equal."""
    require(row, got.shape == np.shape(expected), f"the {what} has shape {got.shape}, not {np.shape(expected)}")
    try:
        if exact:
            np.testing.assert_array_equal(got, expected)
        else:
            np.testing.assert_allclose(got, expected, rtol=rtol, atol=atol)
    except AssertionError as error:
        raise CheckFailed(f"check_op: {row}: wrong {what}: {str(error).strip()}", Report(row.name)) from None


# ----- derivatives ------------------------------------------------------------------------------------------------


def drawn_tensors(row: Row, data: Any) -> tuple[list[Tensor], Any]:
    shapes, meta = data.draw(arrays_of(row))
    tensors = [Tensor(x, requires_grad=True) for x in data.draw(smooth(*shapes, **row.domain))]
    return tensors, row.op(*tensors, **meta)


def differences(row: Row, data: Any, seed: int) -> None:
    """Derivatives of order 1 to `row.order` are those that differences of values give."""
    shapes, meta = data.draw(arrays_of(row))
    xs = data.draw(layouts(smooth(*shapes, **row.domain)))
    _check_by(check_gradients, row, xs, meta, order=row.order, seed=seed, step=row.step, rtol=row.rtol, atol=row.atol,
              fast=sum(x.size for x in xs) > ONE_BY_ONE)  # fmt: skip


def kinks(row: Row, data: Any, seed: int) -> None:
    """At ties and zeros in the row's domain the gradient is between the slopes to both sides."""
    shapes, meta = data.draw(arrays_of(row))
    assume(sum(map(math.prod, shapes)) <= ONE_BY_ONE)
    domain = {"avoid": (0.0,)} | row.domain
    if domain.get("gap", GAP) <= GAP:  # of a kink that differences keep away from, and that is looked at here
        domain |= {"avoid": (), "gap": 0.0}
    try:
        xs = data.draw(layouts(kinky(*shapes, **domain)))
    except ValueError:  # no multiple of 1/16 is in the domain
        reject()
    _check_by(check_kinks, row, xs, meta, seed=seed)


def _check_by(check: Callable[..., Report], row: Row, xs: Any, meta: dict[str, Any], **options: Any) -> None:
    """Check the op at the arrays; draws with nothing to check are rejected."""
    with np.errstate(all="ignore"):
        out = row.op(*xs, **meta) if isinstance(row.op, Primitive) else row.op(*map(Tensor, xs), **meta).data
        if not any(x.size for x in xs) or not np.size(out) or not _settled(row, xs, meta, out):
            reject()

        def op(*xs: Any) -> Any:
            return row.op(*xs, **meta)

        op.__name__, op.__wrapped__ = row.name, row.op  # type: ignore[attr-defined]
        check(op, *xs, **options)


def _settled(row: Row, xs: Any, meta: dict[str, Any], out: Any) -> bool:
    """Whether each element of the result is finite or the same infinity at other inputs too, such as a mask's; and some
    are finite.
    """
    finite = np.isfinite(out)
    if finite.all() or not finite.any():
        return bool(finite.all())
    try:
        other = row.op(*[Tensor(x * 2.0**-10) for x in xs], **meta).data
    except ValueError:  # the op does not take them
        return False
    return other.shape == out.shape and bool((finite | (other == out)).all())


def symmetry(row: Row, data: Any, seed: int) -> None:
    """Second derivatives do not depend on the order of the two."""
    xs, out = drawn_tensors(row, data)
    gradients = grad(out, xs, incoming(out.shape, seed), create_graph=True)
    u, v = ([incoming(x.shape, seed + i + 2 * k) for k, x in enumerate(xs)] for i in (1, 2))  # all different

    def hessian(along: Any, against: Any) -> Any:
        total: Any = sum((p * a).sum() for p, a in zip(gradients, along, strict=True))
        second = grad(total, xs, retain_graph=True) if total.requires_grad else []
        return np.array(sum((p.data * a).sum() for p, a in zip(second, against, strict=False)))

    size = max([abs(p.data).max(initial=0) for p in gradients], default=0)
    require_equal(row, "Hessian, which is not symmetric", hessian(u, v), hessian(v, u), atol=1e-9 * max(1, size))


def linearity(row: Row, data: Any, seed: int) -> None:
    """A gradient is linear in the incoming one."""
    xs, out = drawn_tensors(row, data)
    g, h = incoming(out.shape, seed, out.dtype), incoming(out.shape, seed + 1, out.dtype)
    tiny = 2.0**-14
    each = [grad(out, xs, v, retain_graph=True) for v in (g, h, 2 * g - 300 * h, g * tiny)]
    for i, (p, q, both, small) in enumerate(zip(*each, strict=True)):
        size = max(1.0, abs(q.data).max(initial=0))
        require_equal(
            row, f"gradient by argument {i} of 2 g - 300 h", both.data, 2 * p.data - 300 * q.data, atol=1e-7 * size
        )
        require_equal(row, f"gradient by argument {i} of {tiny:.2g} g", small.data / tiny, p.data, atol=1e-9 * size)


def independence(row: Row, data: Any, seed: int) -> None:
    """A gradient does not depend on which other arguments need one."""
    shapes, meta = data.draw(arrays_of(row))
    xs = data.draw(smooth(*shapes, **row.domain))
    needs = data.draw(st.lists(st.booleans(), min_size=len(xs), max_size=len(xs)).filter(any))

    def gradients(needs: list[bool]) -> list[Any]:
        tensors = [Tensor(x, requires_grad=need) for x, need in zip(xs, needs, strict=True)]
        out = row.op(*tensors, **meta)
        out.backward(incoming(out.shape, seed, out.dtype))
        require(row, [x.grad is not None for x in tensors] == list(needs), "a gradient is missing, or not wanted")
        return [x.grad for x in tensors]

    for i, (some, every) in enumerate(zip(gradients(needs), gradients([True] * len(xs)), strict=True)):
        if some is not None:
            require_equal(row, f"gradient by argument {i} where only some need one", some.data, every.data)


def broadcasting(row: Row, data: Any, seed: int) -> None:
    """Arrays that broadcast give what they give when they are repeated first, and their gradients are sums."""
    shapes, meta = data.draw(arrays_of(row))
    xs = data.draw(smooth(*shapes, **row.domain))
    full = [np.array(x) for x in np.broadcast_arrays(*xs)]
    few, many = ([Tensor(x, requires_grad=True) for x in each] for each in (xs, full))
    out, repeated = row.op(*few, **meta), row.op(*many, **meta)
    require_equal(row, "value of arrays that broadcast", out.data, repeated.data)
    if row.gradient is not None:
        g = incoming(out.shape, seed, out.dtype)
        pairs = zip(grad(out, few, g), grad(repeated, many, g), strict=True)
        for i, (got, whole) in enumerate(pairs):
            extra = whole.ndim - got.ndim
            axes = [k for k, n in enumerate(whole.shape) if k < extra or (got.shape[k - extra] == 1 and n != 1)]
            expected = whole.data.sum(axis=tuple(axes), keepdims=True).reshape(got.shape)
            require_equal(row, f"gradient by argument {i}, which broadcasts", got.data, expected)


# ----- precision ------------------------------------------------------------------------------------------------


def float32(row: Row, data: Any, seed: int) -> None:
    """float32 stays float32, in value and gradient, and they are close to those of float64."""
    shapes, meta = data.draw(arrays_of(row))
    small = [x.astype(np.float32) for x in data.draw(layouts(smooth(*shapes, **row.domain)))]
    out, g, gradients = apply(row, small, of_dtype(meta, np.float32), seed)
    found = {x.dtype for x in [out, *gradients]}
    require(row, found == {np.dtype(np.float32)}, f"results of float32 are {', '.join(sorted(map(str, found)))}: "
            "constants must be Python numbers (math.log(2), not np.log(2)) or have the dtype of the input")  # fmt: skip
    _mixed(row, [x.astype(np.float64) if i % 2 == seed % 2 else x for i, x in enumerate(small)], meta, seed)
    if reason := same_in_float32(lambda *xs: row.op(*xs, **of_dtype(meta, xs[0].dtype)), small, g):
        require(row, False, reason)


def _mixed(row: Row, xs: list[np.ndarray], meta: dict[str, Any], seed: int) -> None:
    """Where the op takes arguments of different precision, each gradient has the dtype of its argument."""
    if len({x.dtype for x in xs}) < 2:
        return
    tensors = [Tensor(x, requires_grad=True) for x in xs]
    try:
        out = row.op(*tensors, **meta)
    except (TypeError, ValueError):  # it takes none
        return
    grad(out, tensors, incoming(out.shape, seed, out.dtype))  # raises where a rule gives another dtype


def of_dtype(meta: dict[str, Any], dtype: Any) -> dict[str, Any]:
    """Keyword arguments that are float64 arrays as arrays of `dtype`."""
    return {name: v.astype(dtype) if getattr(v, "dtype", None) == np.float64 else v for name, v in meta.items()}


def narrow(row: Row, data: Any, seed: int) -> None:
    """float16 and bfloat16 are computed in float32 and rounded once: beside the formulas in float64."""
    import ml_dtypes

    dtype = data.draw(st.sampled_from([np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)]))
    shapes, meta = data.draw(arrays_of(row))
    xs = [x.astype(dtype) for x in data.draw(smooth(*shapes, **row.domain))]
    out, g, gradients = apply(row, xs, of_dtype(meta, dtype), seed)
    wide = [x.astype(np.float64) for x in xs]
    expected = np.asarray((row.value or row.op)(*wide, **meta))
    if row.gradient is None:
        require_equal(row, f"value of {dtype}", out, expected, exact=True)
        return
    require(row, {out.dtype} == {np.dtype(row.dtype or dtype)}, f"the result of {dtype} is {out.dtype}")
    formulas = row.gradient(g.astype(np.float64), *wide, **meta) if callable(row.gradient) else []
    for got, exact in zip([out, *gradients[: len(formulas)]], [expected, *formulas], strict=True):
        _within_epsilons(row, got, exact)


def _within_epsilons(row: Row, got: np.ndarray, exact: Any) -> None:
    """Within `row.narrow` epsilons of its dtype, and what float32 loses beside the largest element."""
    import ml_dtypes

    limits: Any = ml_dtypes.finfo(got.dtype)  # type: ignore[no-untyped-call]
    there = np.abs(exact) < float(limits.max)
    got, exact = got.astype(np.float64)[there], np.broadcast_to(exact, got.shape)[there]
    error = np.abs(got - exact)
    unit = float(limits.eps) * np.abs(exact)
    bound = 1.001 * (row.narrow or 0) * unit + 1e-5 * (1 + np.abs(exact).max(initial=0))
    require(row, bool((error <= bound).all()), f"in {limits.dtype} the error is {error.max(initial=0):.3g}, "
            f"{(error / np.maximum(unit, 1e-300)).max(initial=0):.3g} epsilons; {row.narrow} are allowed")  # fmt: skip
