"""Checks of arguments: axes, shapes, dtypes and arrays. The message of each error says what is allowed."""

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..backend import is_floating


def checked_axis(axis: Any, ndim: int) -> int:
    """`axis` counted from the front, 0 to ndim - 1. TypeError for what is not an integer, IndexError out of range."""
    if type(axis) is not int:
        axis = _integer("axis", axis)
    if not -ndim <= axis < ndim:
        allowed = f"choose from {-ndim} to {ndim - 1}" if ndim else "a 0-d Tensor has no axes"
        raise IndexError(f"axis {axis} is out of range for {ndim} dimensions: {allowed}")
    return axis % ndim


def checked_axes(axis: Any, ndim: int) -> tuple[int, ...]:
    """`axis` (None: all of them; an int; a tuple of ints) as axes counted from the front, each at most once.

    Errors as in `checked_axis`, and ValueError for an axis that is named twice.
    """
    if axis is None:
        return tuple(range(ndim))
    if isinstance(axis, list):
        raise TypeError(f"axis must be an integer, a tuple of integers or None, not {short_repr(axis)} (list)")
    axes = tuple([checked_axis(a, ndim) for a in (axis if isinstance(axis, tuple) else (axis,))])
    if len(set(axes)) < len(axes):
        raise ValueError(f"axis {short_repr(axis)} names an axis twice: give each axis once")
    return axes


def checked_order(axes: Any, ndim: int) -> tuple[int, ...] | None:
    """`axes` as a permutation of all axes (None stays None: the reversed order)."""
    if axes is None:
        return None
    order = checked_axes(tuple(axes) if isinstance(axes, list) else axes, ndim)
    if len(order) != ndim:
        raise ValueError(f"axes {short_repr(axes)} must name each of the {ndim} axes once")
    return order


def checked_shape(shape: Any) -> tuple[int, ...]:
    """`shape` (an int or a sequence of ints) as a tuple. TypeError for what is not an integer, ValueError below 0."""
    sizes = shape if isinstance(shape, Sequence) and not isinstance(shape, str) else (shape,)
    sizes = tuple([n if type(n) is int else _integer("a length in a shape", n) for n in sizes])
    if any(n < 0 for n in sizes):
        raise ValueError(f"a shape is made of non-negative integers, not {short_repr(shape)}")
    return sizes


def checked_dtype(dtype: Any) -> np.dtype:
    """`dtype` as NumPy's dtype object. TypeError unless it is floating, integer or boolean."""
    if isinstance(dtype, int):
        raise TypeError(f"{dtype} is not a dtype: a shape of several lengths is one argument, a tuple")
    try:
        found = np.dtype("None" if dtype is None else dtype)  # to NumPy, None is float64
    except TypeError as error:
        raise TypeError(
            f"{short_repr(dtype)} is not a dtype: give a floating, integer or boolean one, as tl.float32"
        ) from error
    if found.kind not in "iub" and not is_floating(found):
        raise TypeError(f"dtype {found} is not supported: give a floating, integer or boolean one, as tl.float32")
    return found


def checked_requires_grad(value: Any, data: Any) -> bool:
    """`value` as a bool. TypeError unless it is one, and for True where `data` is not floating."""
    if type(value) is not bool and not isinstance(value, np.bool_):
        raise TypeError(f"requires_grad must be True or False, not {short_repr(value)} ({type(value).__name__})")
    if value and not is_floating(data.dtype):
        raise TypeError(f"requires_grad: only floating Tensors have gradients, not {data.dtype}")
    return bool(value)


def check_leaves(name: str, tensors: Sequence[Any]) -> None:
    """TypeError if a Tensor that requires a gradient holds integers or booleans: its `.data` was replaced."""
    for x in tensors:
        if getattr(x, "requires_grad", False) and not is_floating(x.data.dtype):
            raise TypeError(
                f"{name}: a Tensor that requires a gradient holds {x.data.dtype}, because .data was replaced: assign "
                "floats to .data, or set requires_grad = False first"
            )


def unsupported_array_advice(x: Any) -> str:
    """What to write instead of an array of another library, a masked array or a np.matrix; '' for anything else."""
    kind = type(x)
    if isinstance(x, np.ma.MaskedArray):
        return "masked arrays are not supported, their mask would be lost: write x.filled(value)"
    if isinstance(x, np.matrix):
        return "np.matrix is not supported, its operators are not those of arrays: write np.asarray(x)"
    if isinstance(x, (np.ndarray, np.generic)) or not (hasattr(x, "dtype") and hasattr(x, "shape")):
        return ""
    library = kind.__module__.partition(".")[0]
    if library in ("cupy", "tensorlite") or hasattr(kind, "library"):  # as backend.xp knows them
        return ""
    convert = "x.detach().cpu().numpy()" if library == "torch" else "np.asarray(x)"
    return f"a {library} {kind.__name__} is not a tensorlite Tensor or a NumPy array: write tl.tensor({convert})"


_supported_types: set[type] = {np.ndarray}  # types that passed `check_supported`, which are not checked again


def check_supported(name: str, x: Any) -> None:
    """TypeError, in the name of the op `name`, if `x` is an array of a kind that ops do not accept."""
    if type(x) not in _supported_types:
        if advice := unsupported_array_advice(x):
            raise TypeError(f"{name}: {advice}")
        _supported_types.add(type(x))


def short_repr(value: Any, width: int = 80) -> str:
    """repr(value), cut to `width` characters."""
    text = repr(value)
    return text if len(text) <= width else f"{text[: width - 3]}..."


def _integer(what: str, value: Any) -> int:
    try:
        if isinstance(value, (bool, np.bool_)):
            raise TypeError
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{what} must be an integer, not {short_repr(value)} ({type(value).__name__})") from None
