"""Which array library computes: NumPy on the CPU, CuPy on an NVIDIA GPU.

One idea: **the data decides**. `xp(x)` is the library that made the array `x`, so an op written once runs wherever
its arrays live. A device name ("cpu", "cuda", "cuda:1") only decides where *new* arrays are born. Everything that
differs between the libraries stands here, and this is the one module outside `kernels/` that imports CuPy: lazily,
so that a CPU user never pays for it.
"""

import contextvars
import ctypes
import importlib
import math
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import pairwise
from types import ModuleType
from typing import Any

import numpy as np

Array = Any  # numpy.ndarray or cupy.ndarray: the two share one interface and no base class
ndarray = np.ndarray
Scalar = np.generic  # what NumPy's reductions return instead of 0-d arrays

# ----- the library of an array ------------------------------------------------------------------------------------

_LIBRARY: dict[type, ModuleType] = {np.ndarray: np, float: np, int: np, bool: np}


def xp(x: Array) -> ModuleType:
    """The array library of `x`: `numpy` for its arrays and for Python scalars, `cupy` for CuPy's arrays."""
    return _LIBRARY.get(type(x)) or _find_library(type(x))


def _find_library(kind: type) -> ModuleType:
    if issubclass(kind, (np.ndarray, np.generic)):
        library = np
    elif kind.__module__.partition(".")[0] == "cupy":
        library = sys.modules["cupy"]
    elif hasattr(kind, "library"):  # another array library names itself so (the tests' strict stand-in does)
        library = kind.library
    else:
        raise TypeError(f"{kind.__name__} is not an array: give a Tensor, a NumPy or CuPy array, or a number")
    _LIBRARY[kind] = library
    return library


def is_array(x: object) -> bool:
    """True for arrays of a known library (not for Python numbers)."""
    return hasattr(x, "dtype") and hasattr(x, "shape") and not isinstance(x, np.generic)


ADDERS: dict[str, Callable[..., Array | None]] = {}  # of a library: x + y by a kernel of ours, None where none supports


def add(x: Array, y: Array, out: Array | None = None) -> Array:
    """x + y; `out` may be x, which is then added to in place."""
    if type(x) is not np.ndarray and (adder := ADDERS.get(xp(x).__name__)) is not None:
        result = adder(x, y, out)
        if result is not None:
            return result
    if out is None:
        return x + y
    out += y
    return out


# ----- devices ----------------------------------------------------------------------------------------------------


def _cupy() -> ModuleType:
    try:
        cupy = importlib.import_module("cupy")
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError) and error.name == "cupy":
            raise RuntimeError(
                "device 'cuda' needs CuPy, which is not installed: pip install 'tensorlite[cuda]'"
            ) from error
        raise RuntimeError(f"device 'cuda' needs CuPy, which cannot be imported: {_first_line(error)}") from error
    if not cupy.is_available():  # importing succeeds without a driver; the first array would fail
        try:
            found = f"{cupy.cuda.runtime.getDeviceCount()} of them"
        except RuntimeError as error:
            found = _first_line(error)  # no driver, one too old, or none visible
        raise RuntimeError(
            f"device 'cuda' was asked for, but CuPy finds no NVIDIA GPU ({found}): see to the driver, or use 'cpu'"
        )
    return cupy


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]


DEVICES = {"cpu": lambda: np, "cuda": _cupy}  # name -> loader of its library
_default_device = contextvars.ContextVar("default_device", default="cpu")


def check_device(device: str) -> tuple[str, int | None]:
    """("cuda", 1) for "cuda:1", ("cuda", None) for "cuda"; a ValueError for what is no device's name anywhere."""
    if not isinstance(device, str):
        kind = type(device).__name__
        raise TypeError(f"a device is a name, 'cpu', 'cuda' or 'cuda:<index>', not {device!r:.80} ({kind})")
    name, colon, index = device.partition(":")
    if name not in DEVICES or (colon and not (name == "cuda" and index.isascii() and index.isdigit())):
        raise ValueError(f"unknown device {device!r:.80}: choose one of {', '.join(DEVICES)} (or 'cuda:<index>')")
    return name, int(index) if colon else None


def _place(device: str | None) -> tuple[ModuleType, int | None]:
    """Library and number of a device (None: the default one) that is there; ValueError or RuntimeError if it is not."""
    name, index = check_device(_default_device.get() if device is None else device)
    library = DEVICES[name]()
    if index is not None and index >= (count := library.cuda.runtime.getDeviceCount()):
        there = "1 GPU, cuda:0" if count == 1 else f"{count} GPUs, cuda:0 to cuda:{count - 1}"
        raise ValueError(f"there is no device {device!r}: CuPy finds {there}")
    return library, index


def library_of(device: str | None) -> ModuleType:
    """The array library that makes arrays on `device` (None: the default device). Unknown names raise ValueError."""
    return _place(device)[0]


def create(device: str | None, function: str, *args: Any, **kwargs: Any) -> Array:
    """A new array on `device` (None: the default device), by the function of that name in its library."""
    library, index = _place(device)
    if index is None:
        return getattr(library, function)(*args, **kwargs)
    with library.cuda.Device(index):
        return getattr(library, function)(*args, **kwargs)


def device_of(x: Array) -> str:
    """'cpu', or 'cuda:<index>' for a CuPy array."""
    library = xp(x)
    if library is np:
        return "cpu"
    return f"cuda:{x.device.id}" if library.__name__ == "cupy" else library.__name__


@contextmanager
def default_device(device: str) -> Iterator[None]:
    """New arrays are born on `device` inside the `with`. It never moves or reinterprets existing ones.

    CuPy computes on its current GPU, which "cuda" means: "cuda:1" is the current one inside.
    """
    library, index = _place(device)
    token = _default_device.set(device)
    try:
        with nullcontext() if index is None else library.cuda.Device(index):
            yield
    finally:
        _default_device.reset(token)


def use_device(device: str) -> str:
    """Decide where a program computes: the full name ("cpu", "cuda:0") of `device`, whose GPU is current from now on.

    "auto" is the GPU if one answers, else the CPU (`no_gpu` says why). A device that is not there is a RuntimeError or
    a ValueError.
    """
    if device == "auto":
        device = "cpu" if no_gpu() else "cuda"
    library, index = _place(device)
    if library.__name__ != "cupy":
        return device
    if index is not None:
        library.cuda.Device(index).use()
    return f"cuda:{library.cuda.Device().id}"


def no_gpu() -> str:
    """Why no GPU answers, in one sentence; '' if one does. Without a driver, CuPy is not even looked for."""
    if not driver_found():
        return "there is no NVIDIA driver on this machine"
    try:
        _cupy()
    except RuntimeError as error:
        return str(error)
    return ""


def driver_found() -> bool:
    """Whether the library of NVIDIA's driver is here: a quick question, where importing CuPy takes a second."""
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    return True


def about_device(device: str) -> dict[str, str]:
    """What is known of a device: its name, and for a GPU its compute capability and the versions of what drives it."""
    library, index = _place(device)
    if library.__name__ != "cupy":
        return {"device": device}
    runtime, gpu = library.cuda.runtime, library.cuda.Device(index)
    capability = gpu.compute_capability  # "90"
    versions = {"CUDA runtime": runtime.runtimeGetVersion(), "CUDA driver": runtime.driverGetVersion()}  # 13000: 13.0
    return {
        "device": runtime.getDeviceProperties(gpu.id)["name"].decode(),
        "compute capability": f"{capability[:-1]}.{capability[-1]}",
        "CuPy": library.__version__,
        **{name: f"{number // 1000}.{number % 1000 // 10}" for name, number in versions.items()},
    }


def memory(device: str) -> tuple[int, int] | None:
    """Bytes free and bytes there are: of a GPU's memory, else of the machine's; None where the system does not say."""
    library, index = _place(device)
    if library.__name__ == "cupy":
        with library.cuda.Device(index):
            free, total = library.cuda.runtime.memGetInfo()
            return free + library.get_default_memory_pool().free_bytes(), total  # what CuPy keeps can be used again
    if not hasattr(os, "sysconf"):  # Windows
        return None
    free = "SC_AVPHYS_PAGES" if "SC_AVPHYS_PAGES" in os.sysconf_names else "SC_PHYS_PAGES"  # macOS counts all alone
    return os.sysconf(free) * os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def out_of_memory(error: BaseException) -> str:
    """For the error of a GPU whose memory is full: how much was asked for and how much is free; '' for any other."""
    asked = re.search(r"Out of memory allocating ([\d,]+) bytes", str(error))
    if not (isinstance(error, MemoryError) and asked) and "cudaErrorMemoryAllocation" not in str(error):
        return ""
    size = f"{int(asked[1].replace(',', '')) / 2**30:,.2f} GiB were asked for" if asked else "more was asked for"
    try:
        free, total = memory("cuda") or (0, 0)
    except RuntimeError:  # nothing more can be learnt from it
        return f"the GPU is out of memory: {size}"
    return f"the GPU is out of memory: {size}, {free / 2**30:,.2f} of its {total / 2**30:,.2f} GiB are free"


def to_device(x: Array, device: str | None) -> Array:
    """`x` on `device`: itself where it is there already ("cuda": on any GPU), otherwise a copy."""
    library, index = _place(device)
    if library is xp(x):
        if index is None or x.device.id == index:
            return x
        with library.cuda.Device(index):
            return x.copy()
    if library is np:
        return np.asarray(to_host(x))
    x = x if xp(x) is np else to_host(x)
    if index is None:
        return library.asarray(x)
    with library.cuda.Device(index):
        return library.asarray(x)


def to_host(x: Array) -> np.ndarray:
    """`x` as a NumPy array: the one place where data leaves a GPU, and so the one that waits for it."""
    return x if isinstance(x, np.ndarray) else x.get() if hasattr(x, "get") else np.asarray(x)


def begin_to_host(x: Array) -> Callable[[], np.ndarray]:
    """Begin to bring `x` to the host: a function that gives it there, and waits for nothing that was begun later."""
    library = xp(x)
    if library.__name__ != "cupy":
        return lambda: to_host(x)
    there = importlib.import_module("cupyx").empty_pinned(x.shape, x.dtype)
    x.get(out=there, blocking=False)
    event = library.cuda.Event(disable_timing=True)
    event.record()

    def wait() -> np.ndarray:
        event.synchronize()
        return there

    return wait


def joined(arrays: Sequence[Array]) -> Array | None:
    """Arrays as one, joined along the first axis and without a copy; None where they do not lie in memory so."""
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
    """Arrays as one, joined along the first axis: as they lie where they lie so, otherwise a copy."""
    one = joined(arrays)
    return xp(arrays[0]).concatenate(arrays) if one is None else one


def _address(x: Array) -> int:
    """Where an array's memory begins."""
    return x.ctypes.data if isinstance(x, np.ndarray) else x.data.ptr


# ----- dtypes -----------------------------------------------------------------------------------------------------

float16, float32, float64 = np.dtype("float16"), np.dtype("float32"), np.dtype("float64")
int32, int64, uint8, bool_ = np.dtype("int32"), np.dtype("int64"), np.dtype("uint8"), np.dtype("bool")


def is_floating(dtype: np.dtype) -> bool:
    """True for float16, float32, float64 and ml_dtypes' bfloat16 (whose `kind` is 'V', so `kind == 'f'` misses it)."""
    return dtype.kind == "f" or dtype.name == "bfloat16"


def bfloat16() -> np.dtype:
    """The bfloat16 dtype, from the ml_dtypes package; without it, one clear ImportError."""
    try:
        return np.dtype(importlib.import_module("ml_dtypes").bfloat16)
    except ImportError as error:
        raise ImportError("bfloat16 needs ml_dtypes: pip install ml_dtypes") from error


def integers(name: str, values: Any) -> np.ndarray:
    """Nested lists of integers as an int64 array; a ValueError or TypeError in one sentence for anything else."""
    try:
        array = np.array(values)
    except ValueError as error:
        raise ValueError(f"{name}: the rows have different lengths: pad them to one length") from error
    if array.size and array.dtype.kind not in "iu":
        raise TypeError(f"{name}: integers are needed, not {array.dtype}, in {values!r:.80}")
    return array.astype(int64)


# ----- memory that is kept ------------------------------------------------------------------------------------------


class _Kept(threading.local):
    """What each thread keeps for itself."""

    def __init__(self) -> None:
        self.arrays: dict[tuple, Array] = {}


_kept = _Kept()


def scratch(slot: int, shape: tuple[int, ...], dtype: np.dtype, library: ModuleType = np) -> Array:
    """This thread's array number `slot`, with anything in it: kept, because fresh memory costs a fault a page.

    Whoever asks for the same slot next gets the same memory: take a number for each array that is in use at once, and
    let none of them outlive the function.
    """
    key, size = (library.__name__, slot, dtype), math.prod(shape)
    memory = _kept.arrays.get(key)
    if memory is None or memory.size < size:
        memory = _kept.arrays[key] = library.empty(size, dtype)
    return memory[:size].reshape(shape)
