"""NumPy's functions on Tensors, by NumPy's protocols (NEP 13 for ufuncs, NEP 18 for other functions).

`np.exp(x)` of a Tensor is `tl.exp(x)`: where tensorlite has the function, it is called and recorded. Otherwise NumPy
computes on the arrays, if no argument requires a gradient or the result never has one (`EXACT`); else a
TypeError says what to write instead, because the gradient would be lost. docs/numpy.md lists the functions.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from . import derived, ops
from .autograd import Variable
from .backend import device_of
from .errors import torch_names

Function = Callable[..., Any]
ALIASES = {  # NumPy's names -> tensorlite's, where they differ
    "subtract": "sub", "multiply": "mul", "divide": "div", "power": "pow", "negative": "neg", "absolute": "abs",
    "rint": "round", "amax": "max", "amin": "min", "around": "round", "concat": "concatenate", "copy": "clone",
    "permute_dims": "transpose", "mod": "remainder",
}  # fmt: skip
SIGNATURES = """
    sum mean prod: x axis dtype out keepdims
    var std: x axis dtype out ddof keepdims
    max min amax amin all any argmax argmin: x axis out keepdims
    cumsum cumprod: x axis dtype out
    sort argsort: x axis kind order
    clip: x low high out
    where: condition x y
    concatenate concat stack: xs axis out
    split: x sections axis
    repeat: x repeats axis
    tile: x reps
    flip squeeze expand_dims: x axis
    roll: x shift axis
    pad: x widths mode value
    transpose permute_dims: x axes
    reshape: x shape order
    swapaxes: x a b
    broadcast_to: x shape
    take_along_axis: x indices axis
    diagonal: x offset axis1 axis2
    tril triu: x k
    outer: x y out
    round around: x decimals out
    copy: x order
    zeros_like ones_like: x dtype order
    norm: x ord axis keepdims
"""  # NumPy's positional arguments under tensorlite's names
DEFAULTS = {"dtype": None, "out": None, "order": "C", "kind": None, "mode": "constant", "decimals": 0, "ord": None}
WORDS = torch_names.RENAMED | {"arr": "x", "array": "x", "m": "x", "ary": "x", "newshape": "shape", "axes": "axes"}
EXACT = {  # results are booleans, integers, shapes, dtypes or text, which have no gradient
    "allclose", "isclose", "array_equal", "array_equiv", "argwhere", "nonzero", "flatnonzero", "count_nonzero",
    "argpartition", "lexsort", "searchsorted", "shape", "ndim", "size", "result_type", "can_cast",
    "min_scalar_type", "iscomplexobj", "isrealobj", "iscomplex", "isreal", "isposinf", "isneginf", "shares_memory",
    "may_share_memory", "array_repr", "array_str", "array2string", "digitize", "isin", "empty_like", "signbit",
    "nanargmax", "nanargmin", "logical_and", "logical_or", "logical_xor", "logical_not", "matrix_rank",
}  # fmt: skip


def _recorded() -> dict[Function, tuple[Function, list[str]]]:
    """NumPy's function -> tensorlite's, and NumPy's positional arguments under tensorlite's names."""
    table = {}
    for line in SIGNATURES.strip().splitlines():
        names, _, parameters = line.partition(":")
        for name in names.split():
            ours = ALIASES.get(name, name)
            theirs = getattr(np.linalg if name == "norm" else np, name)
            table[theirs] = getattr(ops, ours, None) or getattr(derived, ours), parameters.split()
    return table


RECORDED = _recorded()
UFUNCS: dict[np.ufunc, Function] = {  # NumPy's ufunc -> tensorlite's function
    theirs: ours
    for name, theirs in vars(np).items()
    if isinstance(theirs, np.ufunc)
    and (ours := getattr(ops, ALIASES.get(name, name), None) or getattr(derived, name, None)) is not None
}
OPERATORS: dict[np.ufunc, str] = {  # ufuncs that are operators of Tensor, if it has them
    np.bitwise_and: "and", np.bitwise_or: "or", np.bitwise_xor: "xor",
}  # fmt: skip


def array_function(self: Any, func: Function, types: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """NumPy calls this instead of `func` when an argument is a Tensor."""
    name = func.__name__ if func.__module__ == "numpy" else f"{func.__module__}.{func.__name__}".partition(".")[2]
    if func is np.einsum and isinstance(args[0], str) and kwargs.keys() <= {"optimize"}:
        return derived.einsum(*args)
    if func in RECORDED:
        ours, names = RECORDED[func]
        given = dict(zip(names, args, strict=False)) | {WORDS.get(k, k): v for k, v in kwargs.items()}
        given = {
            k: v for k, v in given.items() if k not in DEFAULTS or type(v) is not type(DEFAULTS[k]) or v != DEFAULTS[k]
        }
        if len(args) <= len(names) and given.keys() <= set(names) - DEFAULTS.keys():
            return ours(**given)
    return _by_numpy(func, name, args, kwargs)


def array_ufunc(self: Any, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
    """NumPy calls this instead of a ufunc or an operator of its arrays when an argument is a Tensor."""
    if method == "at" and isinstance(inputs[0], Variable):  # NumPy also writes to read-only arrays
        raise TypeError(
            f"np.{ufunc.__name__}.at would change a Tensor in place: write tl.scatter_add(y, index, shape) for a new "
            "one, or give it an array, x.detach().numpy().copy()"
        )
    if method != "__call__" or kwargs:
        return _by_numpy(ufunc if method == "__call__" else getattr(ufunc, method), ufunc.__name__, inputs, kwargs)
    if (ours := UFUNCS.get(ufunc)) is not None:
        return ours(*inputs)
    if (name := OPERATORS.get(ufunc)) and len(inputs) == 2:
        x, y = inputs
        of, other, side = (x, y, "") if isinstance(x, Variable) else (y, x, "r")
        if (operator := getattr(of, f"__{side}{name}__", None)) is not None:
            return operator(other)
    return _by_numpy(ufunc, ufunc.__name__, inputs, kwargs)


class ArrayUfunc:
    """`__array_ufunc__` of Tensor. NumPy reads it from the class. CuPy reads it from the object; where that is None, it
    leaves `array * Tensor` to Tensor.
    """

    def __get__(self, instance: Any, owner: type) -> Any:
        return array_ufunc if instance is None else None


def _by_numpy(func: Function, name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """NumPy's own result; TypeError if a gradient would be lost."""
    if name not in EXACT and _graded([*args, *kwargs.values()]):
        hint = torch_names.TENSOR.get(name) or (f"tl.{name}" if name in (*ops.__all__, *derived.__all__) else "")
        raise TypeError(
            f"np.{name} would lose the gradient of a Tensor that requires one: write "
            f"{hint + ', or ' if hint else ''}x.detach().numpy()"
        )
    return func(*_arrays(args), **_arrays(kwargs))


def _graded(value: Any) -> bool:
    """Whether `value` is or holds a Tensor that requires a gradient."""
    if isinstance(value, (list, tuple)):
        return any(map(_graded, value))
    return isinstance(value, Variable) and value.requires_grad


def _arrays(value: Any) -> Any:
    """Arguments with read-only arrays in place of Tensors."""
    if isinstance(value, Variable):
        if device_of(value.data) != "cpu":
            raise TypeError(f"a Tensor on {device_of(value.data)} is not copied to the CPU implicitly: write x.numpy()")
        array = value.data.view()
        array.flags.writeable = False  # NumPy's `out=` would change the Tensor
        return array
    if isinstance(value, dict):
        return {key: _arrays(each) for key, each in value.items()}
    return type(value)(map(_arrays, value)) if type(value) in (list, tuple) else value
