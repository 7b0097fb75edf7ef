"""What holds for every op besides its derivatives: the same bits twice, inputs unchanged, a gradient that is linear in
the incoming one, the same Tensor as two arguments, other memory layouts, float32 beside float64.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ..autograd import Variable
from ..backend import ndarray, to_host
from ..tensor import Tensor
from .differences import SUMS
from .memory import layout_text
from .noise import noise
from .points import Point, differentiable, pulled
from .report import CheckFailed, Report

CLOSE = 1e-9  # two ways to compute the same in float64
TINY = 2.0**-14  # times g: a power of 2, which rounds nothing
COARSE = 1e-3  # float32 beside float64
SINGLE = 2.0**-23  # the epsilon of float32
WIDER = 2.0**29  # epsilons of float64 in one of float32
NEAR = 2.0**-5  # relative to an input: a function whose steps are wider is not a rounded one

Gradients = dict[int, np.ndarray]


class FirstCall:
    """The first call of an op, whose result is checked: one Tensor of float64."""

    def __init__(self, point: Point):
        self.point, self.before = point, [_bits(x) for x in point.values]
        self.leaves = point.leaves()
        self.out = point.out(self.leaves)

    def gradients(self, g: Tensor) -> Gradients:
        """The gradient by each floating value; as often as it takes."""
        return pulled(self.leaves, self.out, g, retain_graph=True)


def check_invariants(first: FirstCall, g: Tensor, gradients: Gradients, report: Report) -> None:
    """Check what is compared with `gradients`, the gradients under the incoming gradient `g`: the last four."""
    _linear(first, g, gradients, report)
    _same_tensor_twice(first.point, g, report)
    _layouts(first.point, g, gradients, report)
    _float32(first, g, gradients, report)


def _fail(report: Report, sentence: str) -> None:
    raise CheckFailed(f"check_gradients: {report.name}: {sentence}", report)


# ----- the same twice ---------------------------------------------------------------------------------------------


def gradients_twice(first: FirstCall, g: Tensor, report: Report) -> Gradients:
    """The gradient by each floating value, from the first call, after a call with other inputs, and from a second one:
    the same bits, and no input is changed, nor `g`.
    """
    point = first.point
    names, inputs, before = [*point.names, "the incoming gradient"], [*point.values, g], [*first.before, _bits(g)]

    def unchanged(by: str) -> None:
        for name, x, old in zip(names, inputs, before, strict=True):
            if _bits(x) != old:
                _fail(report, f"{by} changed {name} in place: compute a new array")

    leaves = point.leaves()
    second, outs = point.op(*leaves), _bits(first.out)
    unchanged("the op")
    if outs != _bits(second):
        _fail(report, "a second call with the same inputs gave other values: it is random or keeps a state; give it a "
              "seeded generator, or leave it out with eval()")  # fmt: skip
    by_second = pulled(leaves, second, g)
    _call_with_others(point)
    by_first = first.gradients(g)
    unchanged("a derivative rule")
    if _bits(first.out) != outs:
        _fail(report, "a derivative rule changed the result of the op in place: compute a new array")
    for i, got in by_first.items():
        if _bits(got) != _bits(by_second[i]):
            if _bits(point.gradients(g)[i]) != _bits(by_second[i]):
                _fail(report, f"a second backward pass gave another gradient by {point.names[i]}: a rule keeps a state")
            _fail(report, f"after a call with other inputs the gradient of the first call by {point.names[i]} has "
                  "changed: a rule reads what the last call has kept; save it with the result")  # fmt: skip
    report.checked += ["same bits twice", "inputs unchanged"]
    return by_first


def _call_with_others(point: Point) -> None:
    others = [Tensor(x.data * (1 - 2.0**-10)) if differentiable(x) else x for x in point.values]
    try:
        with np.errstate(all="ignore"):
            point.op(*point.leaves(others))
    except ValueError:  # the op does not take them
        return


def _bits(x: Any) -> Any:
    data = x.data if isinstance(x, Variable) else x
    if hasattr(data, "dtype") and hasattr(data, "shape"):
        data = to_host(data)
        return data.dtype, data.shape, data.tobytes()
    return repr(data)


def _linear(first: FirstCall, g: Tensor, gradients: Gradients, report: Report) -> None:
    """The gradient of 2 g - 300 h is 2 that of g - 300 that of h, which is taken from that of TINY h. (A rule may cut
    off large values, or take small ones for 0.)
    """
    h = Tensor(g.data[::-1] * 1.0 if g.ndim else g.data + 1.0)
    by_h = {i: p / TINY for i, p in first.gradients(h * TINY).items()}
    by_both = first.gradients(g * 2.0 - h * 300.0)
    size = max([1e-3 * float(np.abs(to_host(h.data)).max()), *[float(np.abs(p).max(initial=0)) for p in by_h.values()]])

    def error(got: np.ndarray, wanted: np.ndarray) -> float:
        with np.errstate(all="ignore"):
            return float(np.abs(got - wanted).max(initial=0))

    for i, got in by_both.items():
        if (off := error(got, 2 * gradients[i] - 300 * by_h[i])) > CLOSE * 300 * size:
            sentence = f"the gradient by {first.point.names[i]} is not linear in the incoming one:"
            exact = first.gradients(h)[i]
            if (tiny := error(by_h[i], exact)) > CLOSE * size:
                _fail(report, f"{sentence} of {TINY:.2g} h it is not {TINY:.2g} that of h, the relative error is "
                      f"{tiny / np.abs(exact).max():.3g}")  # fmt: skip
            _fail(report, f"{sentence} of 2 g - 300 h it is not 2 that of g - 300 that of h, the error is {off:.3g}")
    report.checked.append("linear in g")


def _same_tensor_twice(point: Point, g: Tensor, report: Report) -> None:
    """op(x, x): the sum of the gradients by both arguments of op(x, y) at y = x."""
    for i, j in _pairs(point):
        values = list(point.values)
        values[j] = Tensor(values[i].data.copy())  # so that the op cannot tell that they are the same
        leaves = point.leaves(values)
        with np.errstate(all="ignore"):
            out = point.op(*leaves)
            if out.shape != g.shape or not np.isfinite(out.numpy()).all():
                continue
            apart = pulled(leaves, out, g)
            leaves[j] = leaves[i]
            once = point.op(*leaves)
            together = pulled(leaves, once, g)[i]
        pair = f"with the same Tensor as {point.names[i]} and {point.names[j]} the"
        _require_close(report, f"{pair} gradient is not the sum of the two", together, apart[i] + apart[j])
        _require_close(report, f"{pair} value is not that of two equal Tensors", once.numpy(), out.numpy())
        if "same Tensor twice" not in report.checked:
            report.checked.append("same Tensor twice")


def _require_close(report: Report, sentence: str, got: np.ndarray, wanted: np.ndarray) -> None:
    limit = CLOSE * max(1, float(np.abs(wanted).max(initial=0)))
    if not np.allclose(got, wanted, CLOSE, limit, equal_nan=True):
        _fail(report, f"{sentence}, the error is {np.abs(got - wanted).max():.3g}")


def _pairs(point: Point) -> Iterator[tuple[int, int]]:
    """Neighbours among the values of one shape."""
    by_shape: dict[Any, int] = {}
    for j in point.differentiable:
        if (i := by_shape.get(point.values[j].shape)) is not None:
            yield i, j
        by_shape[point.values[j].shape] = j


# ----- other memory, other precision ------------------------------------------------------------------------------


def _layouts(point: Point, g: Tensor, gradients: Gradients, report: Report) -> None:
    """Where an input is not in C order: value and gradient are those of copies in C order."""
    laid = [i for i in point.differentiable if type(x := point.values[i].data) is ndarray and not x.flags.c_contiguous]
    if not laid:
        return
    plain = [Tensor(np.array(x.data, order="C")) if i in laid else x for i, x in enumerate(point.values)]
    name = ", ".join(f"{point.names[i]} has {layout_text(point.values[i].data)}" for i in laid)
    pairs = [("value", point.out(point.values).numpy(), point.out(plain).numpy())]
    pairs += [(f"gradient by {point.names[i]}", gradients[i], p) for i, p in point.gradients(g, plain).items()]
    for what, got, wanted in pairs:
        if not _close(got, wanted, CLOSE):
            _fail(report, f"the {what} depends on the memory layout: {name}, and a copy in C order gives another one, "
                  f"the error is {np.abs(got - wanted).max():.3g}")  # fmt: skip
    report.checked.append("memory layout")


def _close(got: np.ndarray, wanted: np.ndarray, tolerance: float) -> bool:
    with np.errstate(all="ignore"):
        finite = wanted[np.isfinite(wanted)]
        limit = tolerance * max(1e-3, float(np.abs(finite).max(initial=0)))
        return got.shape == wanted.shape and bool(
            ((got == wanted) | (np.abs(got - wanted) <= limit) | ~np.isfinite(wanted)).all()
        )


def _float32(first: FirstCall, g: Tensor, gradients: Gradients, report: Report) -> None:
    """Values and gradients of float32 inputs beside those of float64 inputs; if rounding the inputs makes a difference,
    of the same numbers in float64.
    """
    point = first.point
    small = [_astype(x, np.float32) for x in point.values]
    try:
        forward = _forward(point, small)
    except (TypeError, ValueError) as failed:  # an op that reads float64 arrays of its own, and accepts no mixture
        report.skipped["float32 beside float64"] = str(failed).partition("\n")[0]
        return
    try:
        got = _backward(point, *forward, g)
    except Exception as failed:  # the op takes float32, and training in it would end here
        reason = f"{type(failed).__name__}: {failed}".partition("\n")[0]
        raise CheckFailed(
            f"check_gradients: {report.name}: in float32 the backward pass fails: {reason}", report
        ) from failed
    known = _named(point, to_host(first.out.data), gradients)
    near = got.keys() == known.keys() and all(_near(x, known[name]) for name, x in got.items())
    if not near and (reason := _not_near(point, small, g, got)):
        _fail(report, reason)
    report.checked.append("float32 beside float64")


def same_in_float32(op: Any, xs: Sequence[np.ndarray], g: np.ndarray) -> str:
    """Why value and gradients of float32 arrays are not those of the same numbers in float64; "" if they are."""
    point = Point("", op, list(map(Tensor, xs)), [f"argument {i}" for i in range(len(xs))])
    return _not_near(point, point.values, Tensor(g), _results(point, point.values, Tensor(g)))


def _not_near(point: Point, small: list[Any], g: Tensor, got: dict[str, np.ndarray]) -> str:
    wide = [_astype(x, np.float64) for x in small]
    wanted = _results(point, wide, g)
    shapes = got["value"].shape, wanted["value"].shape
    if shapes[0] != shapes[1]:
        return f"in float32 the value has shape {shapes[0]}, in float64 {shapes[1]}"
    for name, x in got.items():
        if not _near(x, wanted[name]) and not _explained(point, wide, g, name, x, wanted[name]):
            error = np.abs(x - wanted[name]).max()
            return (
                f"in float32 the {name} is not that of float64: the error is {error:.3g}, the largest element "
                f"{np.abs(wanted[name]).max():.3g}"
            )
    return ""


def _astype(x: Any, dtype: Any) -> Any:
    return Tensor(x.data.astype(dtype)) if differentiable(x) else x


def _results(point: Point, values: list[Any], g: Tensor) -> dict[str, np.ndarray]:
    """The value and the gradients, by what messages call them; the value alone where its shape is not that of `g`."""
    return _backward(point, *_forward(point, values), g)


def _forward(point: Point, values: list[Any]) -> tuple[list[Any], Tensor]:
    """The leaves, and the result of the op."""
    leaves = point.leaves(values)
    with np.errstate(all="ignore"):
        return leaves, point.op(*leaves)


def _backward(point: Point, leaves: list[Any], out: Tensor, g: Tensor) -> dict[str, np.ndarray]:
    with np.errstate(all="ignore"):
        gradients = pulled(leaves, out, Tensor(g.data.astype(out.dtype))) if out.shape == g.shape else {}
    return {name: x.astype(np.float64) for name, x in _named(point, to_host(out.data), gradients).items()}


def _named(point: Point, value: np.ndarray, gradients: Gradients) -> dict[str, np.ndarray]:
    return {"value": value} | {f"gradient by {point.names[i]}": p for i, p in gradients.items()}


def _near(got: np.ndarray, wanted: np.ndarray) -> bool:
    """Elements that are not finite in float32 have overflowed; the others are within COARSE."""
    there = np.isfinite(got)
    return _close(got[there], wanted[there], COARSE)


def _largest(point: Point, values: list[Any], g: Tensor, name: str) -> float:
    """The largest |element| of the result on the way from 0 to the inputs, as Point.sizes has it."""
    found = []
    for t in (0.5, 0.25, 0.125):
        there = [Tensor(x.data * t) if differentiable(x) else x for x in values]
        try:
            found.append(np.abs(_results(point, there, g)[name]))
        except ValueError:  # the op does not take them
            continue
    return max([float(x[np.isfinite(x)].max(initial=0)) for x in found], default=0.0)


def _explained(point: Point, values: list[Any], g: Tensor, name: str, got: np.ndarray, wanted: np.ndarray) -> bool:
    """Whether rounding of the inputs and of intermediate results to float32 may have changed that much."""
    random = np.random.default_rng(0)
    along = [random.choice([-1.0, 1.0], x.shape) if differentiable(x) else None for x in values]

    def moved(t: float) -> np.ndarray:
        there = [
            x if d is None else Tensor(x.data + (x.data + (x.data == 0)) * type(x)(d).to(x.device).data * t)
            for x, d in zip(values, along, strict=True)
        ]
        return _results(point, there, g)[name]

    conditioning = np.abs(moved(SINGLE) - wanted)
    rounded = WIDER * noise(moved, SINGLE, NEAR)
    limit = COARSE * np.abs(wanted).max(initial=0) + max(
        100 * conditioning.max(initial=0), 10 * rounded.max(initial=0), SUMS * SINGLE * _largest(point, values, g, name)
    )
    with np.errstate(all="ignore"):
        return bool((~np.isfinite(got) | (np.abs(got - wanted) <= limit)).all())
