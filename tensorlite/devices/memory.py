"""Memory that saves time: arrays used again, arrays joined without a copy, and copies made in the background."""

import importlib
import math
import threading
from collections.abc import Callable, Sequence
from itertools import pairwise
from types import ModuleType
from typing import Any

import numpy as np

from ..backend import Array, to_host, xp


class _Scratch(threading.local):
    """Each thread has arrays of its own."""

    def __init__(self) -> None:
        self.arrays: dict[tuple[str, int, np.dtype[Any]], Array] = {}


_scratch = _Scratch()


def scratch(slot: int, shape: tuple[int, ...], dtype: np.dtype, library: ModuleType = np) -> Array:
    """Uninitialized memory of `shape` and `dtype` that is used again: this thread's array number `slot`.

    It is kept between calls, because fresh memory costs a page fault for each page. The next call with the same slot
    returns the same memory: use another number for each array that is needed at the same time, and return none of them.
    """
    key, size = (library.__name__, slot, dtype), math.prod(shape)
    memory = _scratch.arrays.get(key)
    if memory is None or memory.size < size:
        memory = _scratch.arrays[key] = library.empty(size, dtype)
    return memory[:size].reshape(shape)


def joined(arrays: Sequence[Array]) -> Array | None:
    """One array of `arrays` along the first axis, without a copy; None unless they are neighbours in one allocation."""
    if not arrays or (library := xp(arrays[0])).__name__ not in ("numpy", "cupy"):
        return None
    first = arrays[0]
    alike = all(x.flags.c_contiguous and x.dtype == first.dtype and x.shape[1:] == first.shape[1:] for x in arrays)
    begins = [_address(x) for x in arrays]
    if not alike or any(at + x.nbytes != behind for x, (at, behind) in zip(arrays, pairwise(begins), strict=False)):
        return None
    shape = (sum(map(len, arrays)), *first.shape[1:])
    if library is np:
        base = first.base
        if not isinstance(base, np.ndarray) or not all(x.base is base for x in arrays):
            return None  # neighbours by chance
        if not base.flags.c_contiguous:
            return None
        return np.ndarray(shape, first.dtype, base, begins[0] - _address(base))  # of whatever dtype it is
    if not all(x.data.mem is first.data.mem for x in arrays):
        return None
    with first.device:
        return library.ndarray(shape, first.dtype, memptr=first.data)


def together(*arrays: Array) -> Array:
    """One array of `arrays` along the first axis: without a copy where `joined` finds none necessary."""
    one = joined(arrays)
    return xp(arrays[0]).concatenate(arrays) if one is None else one


def _address(x: Array) -> int:
    """The address of an array's memory."""
    return x.ctypes.data if isinstance(x, np.ndarray) else x.data.ptr


def begin_to_host(x: Array) -> Callable[[], np.ndarray]:
    """Start to copy `x` to the host. The function returned waits for this copy alone and gives the NumPy array."""
    library = xp(x)
    if library.__name__ != "cupy":
        return lambda: to_host(x)
    there: np.ndarray = importlib.import_module("cupyx").empty_pinned(x.shape, x.dtype)
    x.get(out=there, blocking=False)
    event = library.cuda.Event(disable_timing=True)
    event.record()

    def wait() -> np.ndarray:
        event.synchronize()
        return there

    return wait
