"""Memory management for speed: reused arrays, views of adjacent arrays, and copies in the background."""

import math
import threading
from collections.abc import Callable, Sequence
from types import ModuleType

import numpy as np

from ..backend import Array, cupy_module, to_host, xp


class _Scratch(threading.local):
    """Each thread has arrays of its own."""

    def __init__(self) -> None:
        self.arrays: dict[tuple[ModuleType, int, str], Array] = {}


_scratch = _Scratch()


def scratch(slot: int, shape: tuple[int, ...], dtype: np.dtype, library: ModuleType = np) -> Array:
    """Uninitialized memory of `shape` and `dtype` that is used again: this thread's array number `slot`.

    It is kept between calls, because new memory costs a page fault for each page. The next call with the same slot
    returns the same memory: arrays that are needed at the same time have different slots, and none is returned to a
    caller.
    """
    arrays, key, size = _scratch.arrays, (library, slot, dtype.char), math.prod(shape)
    memory = arrays.get(key)
    if memory is None or memory.size < size:
        memory = arrays[key] = library.empty(size, dtype)
    return memory[:size].reshape(shape)


def adjacent_view(arrays: Sequence[Array]) -> Array | None:
    """`arrays` concatenated along the first axis as a view; None unless they are adjacent in one block of memory."""
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


def concatenated(*arrays: Array) -> Array:
    """`arrays` concatenated along the first axis: a view where they are adjacent in memory, otherwise a copy."""
    view = adjacent_view(arrays)
    return xp(arrays[0]).concatenate(arrays) if view is None else view


def _address(x: Array) -> int:
    """The address of an array's first element."""
    return x.ctypes.data if isinstance(x, np.ndarray) else x.data.ptr


def start_copy_to_host(x: Array) -> Callable[[], np.ndarray]:
    """Start to copy `x` to the host. The returned function waits for this copy alone and returns the NumPy array."""
    library = xp(x)
    if library.__name__ != "cupy":
        return lambda: to_host(x)
    host: np.ndarray = cupy_module("cupyx").empty_pinned(x.shape, x.dtype)
    x.get(out=host, blocking=False)
    event = library.cuda.Event(disable_timing=True)
    event.record()

    def wait() -> np.ndarray:
        event.synchronize()
        return host

    return wait
