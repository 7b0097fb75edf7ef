"""Copies of arrays that lie in memory as others do: strides, order, read-only flag."""

import numpy as np

MOST_GAPS = 64  # a buffer has at most so many elements for each of the array's


def laid_out(values: np.ndarray, like: np.ndarray) -> np.ndarray:
    """A copy of `values` with the strides and the read-only flag of `like`, an array of the same shape.

    Where `like` shows one place of memory several times (stride 0, overlapping windows), so does the copy, if the
    values allow it. The gaps between elements are nan. A view of a buffer that is far larger than it is made compact.
    """
    copy = _strided(values, like)
    copy.flags.writeable = like.flags.writeable
    return copy


def _strided(values: np.ndarray, like: np.ndarray) -> np.ndarray:
    if like.flags.c_contiguous or not values.size:
        return np.array(values, order="C")
    if like.flags.f_contiguous:
        return np.array(values, order="F")
    strides = [stride // like.itemsize for stride in like.strides]  # in elements
    reach = [(n - 1) * stride for n, stride in zip(values.shape, strides, strict=True)]
    first = -sum(r for r in reach if r < 0)
    length = first + sum(r for r in reach if r > 0) + 1
    if length > MOST_GAPS * values.size:
        return np.array(values, order="C")
    buffer = np.full(length, np.nan if values.dtype.kind == "f" else 0, values.dtype)
    size = values.itemsize
    view = np.ndarray(values.shape, values.dtype, buffer, first * size, [stride * size for stride in strides])
    view[...] = values
    return view if np.array_equal(view, values, equal_nan=values.dtype.kind == "f") else np.array(values, order="C")


def layout_text(x: np.ndarray) -> str:
    """How an array lies in memory, for messages: "C order", "strides (-16, 8) bytes, read-only"."""
    if x.flags.c_contiguous:
        text = "C order"
    elif x.flags.f_contiguous:
        text = "Fortran order"
    else:
        text = f"strides {x.strides} bytes"
    return text if x.flags.writeable else f"{text}, read-only"
