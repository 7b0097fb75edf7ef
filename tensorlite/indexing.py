"""Indices `x[...]`: checked, and converted to a canonical form for derivative rules.

An index is a tuple of parts, one per axis; anything else is a single part. A part is an integer, a slice, None (a new
axis), Ellipsis (all axes not named), a boolean, or an array of integers or booleans. Lists and tuples inside the index,
ranges and Tensors become such arrays.
"""

import operator
from types import EllipsisType
from typing import Any

import numpy as np

from .autograd import Variable
from .backend import Array, is_array, to_host, xp
from .errors.checks import short_repr, unsupported_array_advice

_ACCEPTED = {int, slice, type(None), EllipsisType}
_SEQUENCES = (list, tuple, range)
_ALLOWED = "an index is made of integers, slices, None, Ellipsis, and arrays or lists of integers or booleans"


def canonical(index: Any, x: Array, shape: tuple[int, ...] | None = None) -> tuple[Any, ...]:
    """`index` as a tuple of ints, slices, None, Ellipsis, booleans, and arrays of the library of `x`.

    `shape` is that of the indexed array, if it is not `x`. IndexError for anything that is not an index. CuPy does not
    report positions that are out of range in an index array. So for arrays on a GPU the values of the index are checked
    here, except those on the GPU, because reading them would wait for the GPU.
    """
    originals = index if isinstance(index, tuple) else (index,)
    parts = tuple([part if type(part) in _ACCEPTED else _part(part) for part in originals])
    if (library := xp(x)) is np:
        return parts
    if wrong := problem(parts, x.shape if shape is None else shape, wait=False):
        raise IndexError(wrong)
    pairs = zip(originals, parts, strict=True)
    return tuple([library.asarray(part) if isinstance(old, _SEQUENCES) else _plain_slice(part) for old, part in pairs])


def _plain_slice(part: Any) -> Any:
    """A slice whose bounds are Python's integers (CuPy takes no others); any other part as it is."""
    if not isinstance(part, slice):
        return part
    bounds = part.start, part.stop, part.step
    return slice(*[bound if bound is None else operator.index(bound) for bound in bounds])


def _part(part: Any) -> Any:
    """Any other part as an int, a bool, or an array of integers or booleans."""
    if type(part) is not np.ndarray:
        if isinstance(part, Variable):
            part = part.data
        elif advice := unsupported_array_advice(part):
            raise IndexError(f"an index cannot be made of it: {advice}")
        elif isinstance(part, _SEQUENCES):
            part = _from_sequence(part)
        elif isinstance(part, (bool, np.bool_)):
            return bool(part)
        elif not is_array(part):
            return _integer(part)
    if part.dtype.kind not in "iub":
        raise IndexError(f"{_ALLOWED}, not an array of {part.dtype}")
    return part


def _integer(part: Any) -> int:
    try:
        return operator.index(part)  # NumPy's integers
    except TypeError:
        raise IndexError(f"{_ALLOWED}, not {short_repr(part)} ({type(part).__name__})") from None


def _is_index(value: Any) -> bool:
    try:
        operator.index(value)
    except TypeError:
        return False
    return True


def _from_sequence(part: Any) -> np.ndarray:
    try:
        array = np.asarray(part)
    except ValueError as error:
        raise IndexError(
            f"{_ALLOWED}, not the {type(part).__name__} {short_repr(part)}: its rows have different lengths"
        ) from error
    if array.size and array.dtype.kind not in "iub":
        raise IndexError(f"{_ALLOWED}, not {short_repr(part)}")
    return array if array.size else array.astype(int)  # an empty list names no places


def index_error(name: str, error: Exception, index: tuple[Any, ...], shape: tuple[int, ...]) -> IndexError:
    """The error of an array library as an IndexError that says what does not fit and what is allowed."""
    text = problem(index, shape) or str(error)
    return IndexError(text if text.startswith(name) else f"{name}: {text}")


def problem(index: tuple[Any, ...], shape: tuple[int, ...], wait: bool = True) -> str:
    """The reason why a canonical index does not fit an array of `shape`, as one sentence; "" if it fits.

    Without `wait`, the values of arrays on a GPU are not checked.
    """
    taken = sum(_axes_taken(part) for part in index)
    if sum(part is Ellipsis for part in index) > 1:
        return "an index can hold only one Ellipsis"
    if taken > len(shape):
        return f"too many indices: {taken} axes are indexed, and shape {shape} has {len(shape)}"
    axis = 0
    for part in index:
        if part is Ellipsis:
            axis += len(shape) - taken
        elif wrong := _problem_of_part(part, axis, shape, wait):
            return wrong
        else:
            axis += _axes_taken(part)
    return ""


def _axes_taken(part: Any) -> int:
    if part is None or part is Ellipsis or isinstance(part, bool):
        return 0
    return part.ndim if is_array(part) and part.dtype == bool else 1


def _problem_of_part(part: Any, axis: int, shape: tuple[int, ...], wait: bool) -> str:
    if isinstance(part, slice):
        for bound in (part.start, part.stop, part.step):
            if bound is not None and not _is_index(bound):
                return f"the bounds of a slice are integers or None, not {short_repr(bound)} ({type(bound).__name__})"
    if isinstance(part, (slice, bool)) or part is None:
        return ""
    if is_array(part) and part.dtype == bool:
        covered = shape[axis : axis + part.ndim]
        if part.shape == covered:
            return ""
        return f"a boolean index of shape {part.shape} must have the shape {covered} of the axes that it indexes"
    if not wait and is_array(part) and xp(part) is not np:
        return ""
    size = shape[axis]
    places = to_host(part) if is_array(part) else np.array([part], dtype=object)  # an int may be of any size
    wrong = places[(places < -size) | (places >= size)]
    if not wrong.size:
        return ""
    allowed = f"choose from {-size} to {size - 1}" if size else "the axis is empty"
    return f"index {wrong.flat[0]} is out of range for axis {axis} of size {size}: {allowed}"
