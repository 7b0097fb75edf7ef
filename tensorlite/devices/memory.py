"""Memory that saves time: arrays used again, arrays joined without a copy, and copies made in the background."""

import importlib
import math
import threading
from collections.abc import Callable, Sequence
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
    first, length = arrays[0], 0
    base = first.base if library is np else None
    if library is np and (not isinstance(base, np.ndarray) or not base.flags.c_contiguous):
        return None
    begin = end = _address(first)
    for i, x in enumerate(arrays):  # a plain loop: each attention layer asks in each step
        neighbour = x.base is base if library is np else x.data.mem is first.data.mem  # or by chance
        if not (neighbour and x.flags.c_contiguous and x.dtype == first.dtype and x.shape[1:] == first.shape[1:]):
            return None
        if i and _address(x) != end:
            return None
        end, length = end + x.nbytes, length + len(x)
    shape = (length, *first.shape[1:])
    if library is np:
        return np.ndarray(shape, first.dtype, base, begin - _address(base))  # of whatever dtype it is
    with first.device:
        return library.ndarray(shape, first.dtype, memptr=first.data)


def together(*arrays: Array) -> Array:
    """One array of `arrays` along the first axis: without a copy where `joined` finds none necessary."""
    one = joined(arrays)
    return xp(arrays[0]).concatenate(arrays) if one is None else one


def _address(x: Array) -> int:
    """Where an array's memory begins."""
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
