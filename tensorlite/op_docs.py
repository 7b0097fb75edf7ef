"""The docstrings and signatures of the primitives in ops.py: what `help(tl.tanh)` and `inspect.signature` show.

Each op has its text in DOCS. `document` adds what holds for all ops of a kind, and the source text of the derivative
rules. In a rule `g` is the incoming gradient and `out` the result.
"""

import inspect
import linecache
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .typing import ArrayLike, Axis, Operand

if TYPE_CHECKING:
    from .primitive import Primitive

_REDUCTION = "`axis` is an int, a tuple of ints, or None for all axes; with `keepdims` they stay, with length 1."
_ONE_AXIS = "`axis` is an int, or None for the flattened array; with `keepdims` it stays, with length 1."
_COMPARISON = "The result is boolean."
_BITS = "For integers and booleans (TypeError otherwise)."

DOCS = {
    # arithmetic
    "add": "x + y.",
    "sub": "x - y.",
    "mul": "x * y.",
    "div": "x / y. Integers are divided as float32.",
    "floor_divide": "x // y: the largest integer that is not above x / y, in the dtype of the arguments. Its "
    "derivative is 0.",
    "remainder": "x % y = x - y floor(x / y), which has the sign of y. Derivatives: 1 in x and -floor(x / y) in y.",
    "neg": "-x.",
    "abs": "The absolute value |x|. Its derivative at 0 is 0.",
    "square": "x**2.",
    "sqrt": "The square root. Of a negative number it is nan; the derivative at 0 is inf.",
    "rsqrt": "1 / sqrt(x).",
    "reciprocal": "1 / x.",
    # elementary functions
    "exp": "The exponential e**x.",
    "expm1": "e**x - 1, accurate for small x, where exp(x) - 1 loses digits.",
    "log": "The natural logarithm. Of 0 it is -inf, of a negative number nan.",
    "log1p": "log(1 + x), accurate for small x.",
    "log2": "The logarithm to base 2. Of 0 it is -inf, of a negative number nan.",
    "sin": "The sine of x in radians.",
    "cos": "The cosine of x in radians.",
    "tanh": "The hyperbolic tangent (e**x - e**-x) / (e**x + e**-x), between -1 and 1.",
    "sigmoid": "The logistic function 1 / (1 + e**-x), between 0 and 1; it does not overflow.",
    "softplus": "log(1 + e**x), a smooth form of max(x, 0); it does not overflow.",
    "erf": "The error function 2 / sqrt(pi) times the integral of exp(-t**2) for t from 0 to x.",
    # choices
    "maximum": "The larger of x and y; nan where one of them is nan. A tie shares the gradient equally.",
    "minimum": "The smaller of x and y; nan where one of them is nan. A tie shares the gradient equally.",
    "where": "x where `condition` (boolean) is true, otherwise y. No gradient goes to the value that was not chosen, "
    "not even nan.",
    # piecewise constant
    "sign": "-1, 0 or 1: the sign of x.",
    "floor": "The largest integer that is not above x, in the dtype of x.",
    "ceil": "The smallest integer that is not below x, in the dtype of x.",
    "round": "The nearest integer, in the dtype of x; halves go to the even one.",
    "zeros_like": "Zeros of the shape and dtype of x.",
    "ones_like": "Ones of the shape and dtype of x.",
    # comparisons and logic
    "equal": f"x == y. {_COMPARISON}",
    "not_equal": f"x != y. {_COMPARISON}",
    "less": f"x < y. {_COMPARISON}",
    "less_equal": f"x <= y. {_COMPARISON}",
    "greater": f"x > y. {_COMPARISON}",
    "greater_equal": f"x >= y. {_COMPARISON}",
    "logical_and": f"Whether both x and y are true (not 0). {_COMPARISON}",
    "logical_or": f"Whether x or y or both are true (not 0). {_COMPARISON}",
    "logical_xor": f"Whether exactly one of x and y is true (not 0). {_COMPARISON}",
    "logical_not": f"Whether x is false (0). {_COMPARISON}",
    "bitwise_and": f"x & y. {_BITS}",
    "bitwise_or": f"x | y. {_BITS}",
    "bitwise_xor": f"x ^ y. {_BITS}",
    "invert": f"~x. {_BITS}",
    "isnan": f"Where x is nan. {_COMPARISON}",
    "isinf": f"Where x is inf or -inf. {_COMPARISON}",
    "isfinite": f"Where x is neither inf, -inf nor nan. {_COMPARISON}",
    # reductions
    "sum": f"The sum over `axis`; of no elements it is 0. Booleans and integers are summed in 64 bits.\n\n{_REDUCTION}",
    "max": f"The maximum over `axis`; nan if a nan is among the elements. Ties share the gradient equally. ValueError "
    f"for a maximum of no elements.\n\n{_REDUCTION}",
    "min": f"The minimum over `axis`; nan if a nan is among the elements. Ties share the gradient equally. ValueError "
    f"for a minimum of no elements.\n\n{_REDUCTION}",
    "logsumexp": f"log(sum(exp(x))) over `axis`, without overflow. Of elements -inf it is -inf.\n\n{_REDUCTION}",
    "argmax": f"The index of the maximum along `axis`, int64: the first of equals.\n\n{_ONE_AXIS}",
    "argmin": f"The index of the minimum along `axis`, int64: the first of equals.\n\n{_ONE_AXIS}",
    "all": f"Whether all elements over `axis` are true (not 0). {_COMPARISON}\n\n{_REDUCTION}",
    "any": f"Whether any element over `axis` is true (not 0). {_COMPARISON}\n\n{_REDUCTION}",
    "argsort": "The indices, int64, that put x in ascending order along `axis` (None: of the flattened array); equal "
    "elements keep their order.",
    # shapes, products, copies
    "tril": "The lower triangle of a matrix or a stack of matrices (..., M, N): zeros above diagonal `k`. ValueError "
    "for fewer than two axes.",
    "triu": "The upper triangle of a matrix or a stack of matrices (..., M, N): zeros below diagonal `k`. ValueError "
    "for fewer than two axes.",
    "matmul": "The matrix product x @ y: (..., M, K) and (..., K, N) -> (..., M, N). Leading axes broadcast. A vector "
    "stands for a row on the left and a column on the right, and its axis is removed. ValueError for shapes that do "
    "not fit and for numbers (0 axes).",
    "clone": "A copy of x in memory of its own; the gradient flows through.",
}

_TYPES: dict[str, Any] = {"axis": Axis, "keepdims": bool, "k": int}
_POSITIONAL = ("axis", "keepdims", "k")  # metadata that may also be given by position, as in NumPy


def document(op: "Primitive") -> None:
    """Give `op` its docstring and its signature with types. Ops that begin with _ are not public and get none."""
    name = op.__name__
    if name.startswith("_"):
        return
    op.__doc__ = "\n\n".join([DOCS[name], *_common(op), _derivatives(op)])
    takes = Operand if op.broadcasts else ArrayLike
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [inspect.Parameter(each, kind, annotation=takes) for each in op.arguments]
    types = _TYPES | ({"axis": int | None} if name.startswith("arg") else {})  # argmax, argmin, argsort
    parameters += [
        inspect.Parameter(each, kind, default=default, annotation=types[each]) for each, default in op.keywords.items()
    ]
    op.__signature__ = inspect.Signature(parameters, return_annotation="Tensor")


def _common(op: "Primitive") -> list[str]:
    if not op.broadcasts:
        return []
    return [
        "Elementwise." if op.arity == 1 else "Elementwise; the arguments broadcast against each other, as in NumPy."
    ]


def _derivatives(op: "Primitive") -> str:
    """The derivative rules, as in the table."""
    texts = {name: rule and source(rule) for name, rule in zip(op.arguments, op.rules, strict=True)}
    if not any(texts.values()):
        return "Not differentiable."
    lines = [f"    by {name}: {text}" if text else f"    by {name}: not differentiable" for name, text in texts.items()]
    return "\n".join(["Derivative:", *lines])


def source(rule: Callable[..., Any]) -> str:
    """The text of what a rule returns, found by the positions that the compiler noted; '' without a source file."""
    code = rule.__code__
    places = [place for place in map(_place, code.co_positions()) if place is not None]
    lines = linecache.getlines(code.co_filename)
    if not places or not lines:
        return ""
    (first, begin), (last, end) = min(start for start, _ in places), max(stop for _, stop in places)
    lines = lines[first - 1 : last]
    lines[-1] = lines[-1][:end]  # the table is ASCII: columns, which count bytes, are characters
    lines[0] = lines[0][begin:]
    return " ".join(" ".join(lines).split())


def _place(position: tuple[int | None, ...]) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """The start and end of an instruction's expression, (line, column) each; None where the compiler recorded none."""
    first, last, begin, end = position
    if first is None or last is None or begin is None or not end:  # the instruction that enters a function has end 0
        return None
    return (first, begin), (last, end)
