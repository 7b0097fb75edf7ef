"""The planted faults of the bank: each is a right op of bank_ops.py with one mistake in its forward function or a rule.

They are mistakes that people make: those of tests/engine/test_bugs.py, which libraries had, and those of derivations
and of code: a sign, a factor, a term, an axis, a transpose, a case, a buffer. Whether a checker sees one decides
nothing about its place here.
"""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .bank_mistakes import (
    a_number,
    accumulating,
    assumes_c_order,
    cached_by_shape,
    centered_in_place,
    changes_g,
    changes_saved,
    detached_std,
    flattened_otherwise,
    gradient_buffer,
    half_of_order_2,
    in_float32,
    in_memory_order,
    last_duplicate,
    last_input,
    leading_axes_only,
    mean_of_broadcast,
    noisy_rule,
    normalized_without,
    other_dtype,
    output_buffer,
    own_plan,
    scaled_to_largest,
    there_and_back,
    third_pass,
    unseeded_mask,
    vector_tail,
    without_order_3,
    without_signs,
    without_strides,
)  # fmt: skip
from .bank_ops import (
    BY_NAME,
    Op,
    expand,
    gelu_slope,
    normalized_rule,
    onehot,
    others,
    product,
    sigmoid,
    softmax,
    step,
    turned,
)

STRIDES = "strides"  # what a library may not have: arrays with NumPy's strides and bases
CHANGES = "changes in place"  # ... arrays that can be written to
WRONG_SHAPES = "gradients of another shape"  # ... an error for a gradient that has not been summed: PyTorch sums it
LACKS = {"torch": {STRIDES, WRONG_SHAPES}, "jax": {STRIDES, CHANGES}}


@dataclass(frozen=True)
class Fault:
    name: str
    of: str  # the right op
    kind: str
    rules: dict[int, Callable[..., Any] | None] | None = None  # the wrong ones, by position
    forward: Callable[..., Any] | None = None
    made: Callable[[], dict[str, Any]] | None = None  # makes `forward` and `rules`, with state that is shared
    needs: str = ""
    elementwise: bool | None = None

    def op(self) -> Op:
        """The wrong op, with state of its own."""
        right = BY_NAME[self.of]
        parts = {"rules": self.rules, "forward": self.forward} | (self.made() if self.made else {})
        rules = list(right.rules)
        for i, rule in (parts["rules"] or {}).items():
            rules[i] = rule
        return dataclasses.replace(
            right,
            name=self.name,
            forward=parts["forward"] or right.forward,
            rules=tuple(rules),
            elementwise=right.elementwise if self.elementwise is None else self.elementwise,
        )

    def lacking(self, library: str) -> bool:
        """Whether the fault cannot be written in `library`."""
        return self.needs in LACKS.get(library, set())

    def __repr__(self) -> str:
        return self.name


# ----- the faults -------------------------------------------------------------------------------------------------

SIGN, FACTOR, TERM, CASE, CONSTANT = "sign or order", "factor", "dropped term", "wrong in one case", "a constant beside"
SHAPE, MOVED, KINK, STATE, LAYOUT = "shapes and broadcasting", "moved elements", "kinks", "state and memory", "layouts"
DTYPE, LINEAR, ORDER2, SMALL, MATRIX = "dtypes", "not linear in g", "order 2 and 3", "small or hidden", "matrices"


def constant_beside(value):
    return Fault(f"beside {value}: factor", f"beside {value}", CONSTANT, {0: lambda np, g, x: g[:, : x.shape[1]] * x})


# fmt: off
FAULTS = [
    Fault("difference: sign", "difference", SIGN, {1: lambda np, g: g}),
    Fault("reciprocal: sign", "reciprocal", SIGN, {0: lambda np, g, out: g * out * out}),
    Fault("product: arguments exchanged", "product of two", SIGN, {0: lambda np, g, x: g * x, 1: lambda np, g, y: g * y}),
    Fault("angle: arguments exchanged", "angle", SIGN, {0: lambda np, g, y, x: -g * y / (x * x + y * y), 1: lambda np, g, y, x: g * x / (x * x + y * y)}),
    Fault("interpolation: sign of t", "interpolation", SIGN, {2: lambda np, g, x, y: g * (x - y)}),
    Fault("log of a sum: weights exchanged", "log of a sum", SIGN, {0: lambda np, g, y, out: g * np.exp(y - out), 1: lambda np, g, x, out: g * np.exp(x - out)}),
    Fault("sine at 100: sign", "sine at 100", SIGN, {0: lambda np, g, x: -g * np.cos(x)}),
    Fault("square: no 2", "square", FACTOR, {0: lambda np, g, x: g * x}),
    Fault("sine of 50 x: no 50", "sine of 50 x", FACTOR, {0: lambda np, g, x: g * np.cos(50 * x)}),
    Fault("steep logistic: no 40", "steep logistic", FACTOR, {0: lambda np, g, out: g * out * (1 - out)}),
    Fault("exponential of 20 x: no 20", "exponential of 20 x", FACTOR, {0: lambda np, g, out: g * out}),
    Fault("quotient: no square", "quotient", FACTOR, {1: lambda np, g, x, y: -g * x / y}),
    Fault("square root: no 2", "square root", FACTOR, {0: lambda np, g, out: g / out}),
    Fault("logarithm to base 2: no log 2", "logarithm to base 2", FACTOR, {0: lambda np, g, x: g / x}),
    Fault("bell: no x", "bell", FACTOR, {0: lambda np, g, out: -2 * g * out}),
    Fault("cube: exponent", "cube", FACTOR, {0: lambda np, g, x: g * 3 * x**3}),
    Fault("power: exponent", "power", FACTOR, {0: lambda np, g, x, y: g * y * x**y}),
    Fault("power 9: 8", "power 9", FACTOR, {0: lambda np, g, x: 8 * g * x**8}),
    Fault("hypotenuse: not divided", "hypotenuse", FACTOR, {0: lambda np, g, x: g * x}),
    Fault("length: not divided", "length", FACTOR, {0: lambda np, g, x: g * x}),
    Fault("variance: n - 1", "variance", FACTOR, {0: lambda np, g, x: g * 2 * (x - np.mean(x)) / max(1, math.prod(x.shape) - 1)}),
    Fault("mean along: not divided", "mean along", FACTOR, {0: lambda np, g, x, axis, keepdims: expand(np, g, x.shape, axis, keepdims) * 1.0}),
    Fault("mean along: divided by all", "mean along", FACTOR, {0: lambda np, g, x, axis, keepdims: expand(np, g, x.shape, axis, keepdims) / math.prod(x.shape)}),
    Fault("cross-entropy: not divided", "cross-entropy", FACTOR, {0: lambda np, g, x, targets: g * (softmax(np, x) - np.constant(onehot(targets, x.shape[1]), x))}),
    Fault("squared hinge: no 2", "squared hinge", FACTOR, {0: lambda np, g, x: np.where(x < 1, -g * (1 - x), g * 0.0)}),
    Fault("hyperbolic tangent: x for out", "hyperbolic tangent", TERM, {0: lambda np, g, x: g * (1 - x * x)}),
    Fault("logistic: x for out", "logistic", TERM, {0: lambda np, g, x, out: g * out * (1 - x)}),
    Fault("logistic: no g", "logistic", TERM, {0: lambda np, g, out: out * (1 - out) + g * 0.0}),
    Fault("tangent: no square", "tangent", TERM, {0: lambda np, g, out: g * (1 + out)}),
    Fault("swish: one term", "swish", TERM, {0: lambda np, g, x: g * sigmoid(np, x)}),
    Fault("GELU: inner slope without 3", "GELU", TERM, {0: lambda np, g, x: g * (gelu_slope(np, x) - 0.5 * x * (1 - np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)) ** 2) * math.sqrt(2 / math.pi) * 2 * 0.044715 * x**2)}),
    Fault("quadratic form: symmetric", "quadratic form", TERM, {0: lambda np, g, x, y: g * 2 * (y @ x)}),
    Fault("softmax: diagonal only", "softmax", TERM, {0: lambda np, g, out: out * g}),
    Fault("softmax: no diagonal", "softmax", TERM, {0: lambda np, g, out: g - np.sum(g * out, axis=-1, keepdims=True)}),
    Fault("log of softmax: g not summed", "log of softmax", TERM, {0: lambda np, g, out: g - np.exp(out) * g}),
    Fault("normalized rows: no mean of g", "normalized rows", TERM, {0: normalized_without("mean")}),
    Fault("normalized rows: no slope of std", "normalized rows", TERM, {0: normalized_without("slope")}),
    Fault("cross-entropy: target not subtracted", "cross-entropy", TERM, {0: lambda np, g, x: g * softmax(np, x) / x.shape[0]}),
    Fault("running sum: exclusive", "running sum", TERM, {0: lambda np, g, axis: np.sum(g, axis=axis, keepdims=True) - np.cumsum(g, axis=axis)}),
    Fault("power: not differentiable in y", "power", TERM, {1: None}),
    Fault("affine map: no gradient of the bias", "affine map", TERM, {2: None}),
    Fault("weighted squares: no z", "weighted squares", TERM, {3: lambda np, g, x, y: g * (x * x + y * y)}),
    Fault("four products: the last two", "four products", TERM, {6: lambda np, g, h: g * h, 7: lambda np, g, i: g * i}),
    # shapes, broadcasting, axes
    Fault("sum of two: not reduced", "sum of two", SHAPE, {}, elementwise=False, needs=WRONG_SHAPES),
    Fault("product: leading axes only", "product of two", SHAPE, {0: lambda np, g, x, y: leading_axes_only(np, g * y, x.shape), 1: lambda np, g, x, y: leading_axes_only(np, g * x, y.shape)}, elementwise=False),
    Fault("sum of two: mean of what was broadcast", "sum of two", SHAPE, {0: lambda np, g, x: mean_of_broadcast(np, g, x.shape), 1: lambda np, g, y: mean_of_broadcast(np, g, y.shape)}, elementwise=False),
    Fault("broadcast to rows: the first", "broadcast to rows", SHAPE, {0: lambda np, g: g[0]}),
    Fault("broadcast to rows: mean", "broadcast to rows", SHAPE, {0: lambda np, g: np.mean(g, axis=0)}),
    Fault("mask: gradient of y not masked", "chosen by a mask", SHAPE, {1: lambda np, g: g}),
    Fault("mask: inverted for x", "chosen by a mask", SHAPE, {0: lambda np, g, mask: np.where(mask, g * 0.0, g)}),
    Fault("masked with -1e9: not masked", "masked with -1e9", CONSTANT, {0: lambda np, g, x: g * 2 * x}),
    Fault("affine map: bias over the wrong axis", "affine map", SHAPE, {2: lambda np, g: np.sum(g, axis=1)}),
    Fault("sum along: axis not put back", "sum along", SHAPE, {0: lambda np, g, x: np.broadcast_to(g, tuple(x.shape)) * 1.0}),
    Fault("sum along: negative axis", "sum along", SHAPE, {0: own_plan}),
    Fault("mean along: keepdims", "mean along", SHAPE, {0: lambda np, g, x, axis, keepdims: expand(np, g, x.shape, axis, keepdims) / (x.shape[axis] ** (1 + keepdims))}),
    Fault("log of the sum along: over all", "log of the sum along", SHAPE, {0: lambda np, g, x, axis: expand(np, g, x.shape, axis) * np.exp(x) / np.sum(np.exp(x))}),
    Fault("softmax: over the first axis", "softmax", SHAPE, {0: lambda np, g, out: out * (g - np.sum(g * out, axis=0, keepdims=True))}),
    # moved elements, variadic ops
    Fault("transposed: reshaped", "transposed", MOVED, {0: lambda np, g, x: np.reshape(g, tuple(x.shape))}),
    Fault("transposed: as it is", "transposed", MOVED, {0: lambda np, g: g}),
    Fault("flattened: in the other order", "flattened", MOVED, {0: flattened_otherwise}),
    Fault("turned round: as it is", "turned round", MOVED, {0: lambda np, g: g}),
    Fault("rolled: same direction", "rolled", MOVED, {0: lambda np, g: np.roll(g, 1, 0)}),
    Fault("differences: first element", "differences", MOVED, {0: lambda np, g: np.concatenate((g[:1], g[:-1] - g[1:], g[-1:]), axis=0)}),
    Fault("padded: off by one", "padded", MOVED, {0: lambda np, g: g[:, :-2] * 1.0}),
    Fault("rows by number: duplicates", "rows by number", MOVED, {0: lambda np, g, x, rows: np.constant(last_duplicate(rows, x.shape[0]).T, g) @ g}),
    Fault("running sum: not reversed", "running sum", MOVED, {0: lambda np, g, axis: np.cumsum(g, axis=axis)}),
    Fault("lower triangle: not masked", "lower triangle", MOVED, {0: lambda np, g: g}),
    Fault("lower triangle: the upper", "lower triangle", MOVED, {0: lambda np, g: g - np.tril(g)}),
    Fault("rows of all: begin", "rows of all", MOVED, {0: lambda np, g, index, xs: g[(index * xs[index].shape[0]) % g.shape[0] :][: xs[index].shape[0]]}),
    Fault("stack: from the end", "stack", MOVED, {0: lambda np, g, index: g[-1 - index]}),
    Fault("product of all: with itself", "product of all", MOVED, {0: lambda np, g, xs: g * product(xs)}),
    Fault("sum of all: the first only", "sum of all", MOVED, {0: lambda np, g, index: g if index == 0 else g * 0.0}),
    Fault("product of all: the first two", "product of all", MOVED, {0: lambda np, g, index, xs: g * others(xs[: max(2, index + 1)], index)}),
    # matrices
    Fault("matrix product: y not transposed", "matrix product", MATRIX, {0: lambda np, g, y: g @ y}),
    Fault("matrix product: transposed result", "matrix product", MATRIX, {1: lambda np, g, x: turned(g) @ x}),
    Fault("products of a stack: mean", "products of a stack", MATRIX, {1: lambda np, g, x: np.mean(turned(x) @ g, axis=0)}),
    Fault("products of a stack: the first", "products of a stack", MATRIX, {1: lambda np, g, x: (turned(x) @ g)[0]}),
    Fault("outer product: wrong side", "outer product", MATRIX, {1: lambda np, g, x: g @ x}),
    Fault("affine map: weight not transposed", "affine map", MATRIX, {1: lambda np, g, x: turned(x) @ g}),
    # kinks
    Fault("rectifier: sign of out", "rectifier", KINK, {0: lambda np, g, out: g * step(np, out >= 0, out)}),
    Fault("rectifier: nan at 0", "rectifier", KINK, {0: lambda np, g, x: g * 0.5 * (1 + np.detach(x) / np.abs(np.detach(x)))}),
    Fault("absolute value: nan at 0", "absolute value", KINK, {0: lambda np, g, x: g * np.detach(x) / np.abs(np.detach(x))}),
    Fault("leaky rectifier: other slope", "leaky rectifier", KINK, {0: lambda np, g, x: np.where(x > 0, g, 0.01 * g)}),
    Fault("clipped to 1: from below only", "clipped to 1", KINK, {0: lambda np, g, x: g * step(np, x >= -1, x)}),
    Fault("Huber's loss: x everywhere", "Huber's loss", KINK, {0: lambda np, g, x: g * x}),
    Fault("x |x|: no sign", "x |x|", KINK, {0: lambda np, g, x: 2 * g * x}),
    Fault("floor: straight through", "floor", KINK, {0: lambda np, g: g}),
    Fault("larger of two: exchanged", "larger of two", KINK, {0: lambda np, g, x, y: g * step(np, y > x, x - y), 1: lambda np, g, x, y: g * step(np, x > y, x - y)}),
    Fault("larger of two: ties count twice", "larger of two", KINK, {0: lambda np, g, x, y: g * step(np, x >= y, x - y), 1: lambda np, g, x, y: g * step(np, y >= x, x - y)}),
    Fault("largest: ties count twice", "largest", KINK, {0: lambda np, g, x, out: expand(np, g, x.shape, -1) * step(np, x == expand(np, out, x.shape, -1), x)}),
    Fault("largest: of all", "largest", KINK, {0: lambda np, g, x, out: expand(np, g, x.shape, -1) * step(np, x == np.amax(x), x)}),
    Fault("length: nan at 0", "length, with 0 at 0", KINK, {0: lambda np, g, x, out: g * x / out}),
    Fault("product of three columns: divided", "product of three columns", KINK, {0: lambda np, g, x, out: (g * out)[:, None] / x}),
    Fault("x^1.5 or 0: 0 times nan", "x^1.5 or 0", KINK, {0: lambda np, g, x: 1.5 * g * np.sqrt(x) * step(np, x > 0, x)}),
    # one case of many
    Fault("sine: beyond 3", "sine", CASE, {0: lambda np, g, x: g * np.cos(x) * (1 - 0.5 * step(np, np.abs(np.detach(x)) > 3, x))}),
    Fault("exponential: more than 64 elements", "exponential", CASE, {0: lambda np, g, out: g * out * (1 if math.prod(out.shape) <= 64 else 1.5)}),
    Fault("cube: negative x", "cube", CASE, {0: lambda np, g, x: g * 3 * x * np.abs(x)}),
    Fault("identity: rest of a vector", "identity", CASE, {0: vector_tail}),
    Fault("hyperbolic tangent: three axes", "hyperbolic tangent", CASE, {0: lambda np, g, out: g * (1 - out * out) if len(out.shape) < 3 else g * (1 - out)}),
    Fault("power n: n = 2", "power n", CASE, {0: lambda np, g, x: 2 * g * x}),
    Fault("scaled and moved: scale 1", "scaled and moved", CASE, {0: lambda np, g, x: 2 * g * x}),
    Fault("one of two formulas: one rule", "one of two formulas", CASE, {0: lambda np, g, x: g * np.cos(x)}),
    Fault("square: fails without elements", "square", CASE, {0: scaled_to_largest}),
    Fault("sum of squares: a number for 0-d", "sum of squares", CASE, {0: a_number}),
    Fault("softmax: overflow", "softmax", CASE, forward=lambda np, x: np.exp(x) / np.sum(np.exp(x), axis=-1, keepdims=True)),
    Fault("product: the same argument twice", "product of two", CASE, {0: lambda np, g, x, y: g * y if x is not y else g * y * 2}),
    Fault("product: a square of the same argument", "product of two", CASE, forward=lambda np, x, y: x * 2 if x is y else x * y),
    # beside a constant, small, hidden by rounding
    *[constant_beside(value) for value in ("-1e30", "1e15", "finfo.min", "-inf")],
    Fault("times 1e-9: factor", "times 1e-9", SMALL, {0: lambda np, g, x: g * np.cos(x) * 3e-9}),
    Fault("times 1e12: factor", "times 1e12", SMALL, {0: lambda np, g, x: g * 2.01e12 * x}),
    Fault("plus a million: 1 %", "plus a million", SMALL, {0: lambda np, g, x: g * 1.01 * np.cos(x)}),
    Fault("sine: 1.001", "sine", SMALL, {0: lambda np, g, x: g * 1.001 * np.cos(x)}),
    Fault("GELU: 0.8 for sqrt(2/pi)", "GELU", SMALL, {0: lambda np, g, x: g * gelu_slope(np, x, 0.8)}),
    Fault("logarithm to base 2: 0.6931", "logarithm to base 2", SMALL, {0: lambda np, g, x: g / (x * 0.6931)}),
    Fault("square root: epsilon", "square root", SMALL, {0: lambda np, g, out: g / (2 * (out + 1e-4))}),
    Fault("normalized rows: no epsilon", "normalized rows", SMALL, {0: lambda np, g, x: normalized_rule(np, g, x, 0.0)}),
    Fault("reciprocal at 0.02: 0.1 %", "reciprocal at 0.02", SMALL, {0: lambda np, g, x: -1.001 * g / (x * x)}),
    # state and memory
    Fault("bell: cached by shape", "bell", STATE, made=cached_by_shape),
    Fault("exponential: one buffer for results", "exponential", STATE, made=output_buffer, needs=CHANGES),
    Fault("square: one buffer for gradients", "square", STATE, made=gradient_buffer, needs=CHANGES),
    Fault("square: gradients add up", "square", STATE, made=accumulating),
    Fault("sine: the last argument", "sine", STATE, made=last_input),
    Fault("cube: from the third pass on", "cube", STATE, made=third_pass),
    Fault("identity: another mask at each call", "identity", STATE, made=unseeded_mask),
    Fault("sine: noise of 1e-9", "sine", STATE, made=noisy_rule),
    Fault("square: g changed", "square", STATE, {0: changes_g}, needs=CHANGES),
    Fault("square: saved argument changed", "square", STATE, {0: changes_saved}, needs=CHANGES),
    Fault("variance: argument changed", "variance", STATE, forward=centered_in_place, needs=CHANGES),
    Fault("square: argument changed and restored", "square", STATE, forward=there_and_back, needs=CHANGES),
    # layouts
    Fault("sine: in memory order", "sine", LAYOUT, forward=in_memory_order, needs=STRIDES),
    Fault("exponential: negative strides", "exponential", LAYOUT, forward=without_signs, needs=STRIDES),
    Fault("cube: strides of a view", "cube", LAYOUT, forward=without_strides, needs=STRIDES),
    Fault("square: rule in memory order", "square", LAYOUT, {0: assumes_c_order}, needs=STRIDES),
    # dtypes
    Fault("square: float64 of float32", "square", DTYPE, {0: lambda np, g, x: g * np.astype(x, "float64") * 2}),
    Fault("exponential: float32 of float64", "exponential", DTYPE, {0: lambda np, g, out: np.astype(g * out, "float32")}),
    Fault("sine: value rounded to float32", "sine", DTYPE, forward=lambda np, x: np.astype(np.astype(np.sin(x), "float32"), "float64") if "64" in str(x.dtype) else np.sin(x)),
    Fault("exponential: gradient rounded to float32", "exponential", DTYPE, {0: lambda np, g, out: np.astype(np.astype(g * out, "float32"), str(g.dtype).split(".")[-1])}),
    Fault("sine: fast path of float32", "sine", DTYPE, {0: in_float32}),
    Fault("product: dtype of the other", "product of two", DTYPE, {0: other_dtype}),
    Fault("variance: E[x^2] - E[x]^2", "variance", DTYPE, forward=lambda np, x: np.mean(x * x) - np.mean(x) ** 2),
    # not linear in g
    Fault("square: |g|", "square", LINEAR, {0: lambda np, g, x: np.abs(g) * 2 * x}),
    Fault("sine: g clipped to 1", "sine", LINEAR, {0: lambda np, g, x: np.where(g > 1, g * 0.0 + 1, np.where(g < -1, g * 0.0 - 1, g)) * np.cos(x)}),
    Fault("identity: g + 1e-3", "identity", LINEAR, {0: lambda np, g: g + 1e-3}),
    Fault("cube: g squared", "cube", LINEAR, {0: lambda np, g, x: g * g * 3 * x**2}),
    Fault("sum of two: small g is 0", "sum of two", LINEAR, {0: lambda np, g: g * step(np, np.abs(np.detach(g)) > 1e-2, g)}),
    # order 2 and 3
    Fault("cube: x detached", "cube", ORDER2, {0: lambda np, g, x: g * 3 * np.detach(x) * x}),
    Fault("exponential: out detached", "exponential", ORDER2, {0: lambda np, g, out: g * np.detach(out)}),
    Fault("logistic: out detached", "logistic", ORDER2, {0: lambda np, g, out: g * np.detach(out) * (1 - out)}),
    Fault("product: y detached", "product of two", ORDER2, {0: lambda np, g, y: g * np.detach(y)}),
    Fault("quotient: y detached", "quotient", ORDER2, {1: lambda np, g, x, y: -g * x / (y * np.detach(y))}),
    Fault("softmax: sum detached", "softmax", ORDER2, {0: lambda np, g, out: out * (g - np.detach(np.sum(g * out, axis=-1, keepdims=True)))}),
    Fault("normalized rows: std detached", "normalized rows", ORDER2, {0: detached_std}),
    Fault("matrix product: g detached", "matrix product", ORDER2, {0: lambda np, g, y: np.detach(g) @ turned(y)}),
    Fault("x |x|: |x| detached", "x |x|", ORDER2, {0: lambda np, g, x: 2 * g * np.detach(np.abs(x))}),
    Fault("sine: half of the second derivative", "sine", ORDER2, {0: half_of_order_2}),
    Fault("bell: wrong where it is recorded", "bell", ORDER2, {0: lambda np, g, x, out: -2 * g * x * out if not np.recording(g) else -g * x * out}),
    Fault("x y^3: no third derivative", "x y^3", ORDER2, {1: without_order_3}),
]
# fmt: on
