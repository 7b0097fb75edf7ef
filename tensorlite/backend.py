"""Which array library computes: NumPy on the CPU, CuPy on an NVIDIA GPU. Devices, dtypes, and moves between devices.

One idea: **the data decides**. `xp(x)` is the library that made the array `x`, so that an op is written once and runs
where its arrays are. A device name ("cpu", "cuda", "cuda:1") only decides where *new* arrays are made. CuPy is imported
when the first device "cuda" is requested. devices/ has modules that speed up a computation or describe a machine.
"""

import contextvars
import ctypes
import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
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
        wanted = "give a Tensor, a NumPy or CuPy array, or a number"
        if hasattr(kind, "backward"):  # a Tensor, whose place is not there
            wanted = "where an array is needed, as in x.data = y.data, give the Tensor's .data"
        raise TypeError(f"{kind.__name__} is not an array: {wanted}")
    _LIBRARY[kind] = library
    return library


def is_array(x: object) -> bool:
    """True for arrays of a known library (not for Python numbers)."""
    return type(x) is ndarray or (hasattr(x, "dtype") and hasattr(x, "shape") and not isinstance(x, np.generic))


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
            f"device 'cuda' was requested, but CuPy finds no NVIDIA GPU ({found}): check the driver, or use 'cpu'"
        )
    return cupy


def cupy_module(name: str) -> ModuleType:
    """A module that comes with CuPy, "cupyx" or "cupy.cuda.nccl": for callers that have CuPy from `library_on`."""
    return importlib.import_module(name)


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]


DEVICES = {"cpu": lambda: np, "cuda": _cupy}  # name -> loader of its library
_default_device = contextvars.ContextVar("default_device", default="cpu")


def check_device(device: str) -> tuple[str, int | None]:
    """("cuda", 1) for "cuda:1", ("cuda", None) for "cuda"; ValueError for an invalid device name."""
    if not isinstance(device, str):
        kind = type(device).__name__
        raise TypeError(f"a device is a name, 'cpu', 'cuda' or 'cuda:<index>', not {device!r:.80} ({kind})")
    name, colon, index = device.partition(":")
    if name not in DEVICES or (colon and not (name == "cuda" and index.isascii() and index.isdigit())):
        raise ValueError(f"unknown device {device!r:.80}: choose one of {', '.join(DEVICES)} (or 'cuda:<index>')")
    return name, int(index) if colon else None


def library_on(device: str | None) -> tuple[ModuleType, int | None]:
    """The library of a device (None: the default one) and its number, None for "cpu" and "cuda".

    ValueError for an unknown name or number, RuntimeError where there is no GPU or no CuPy.
    """
    name, index = check_device(_default_device.get() if device is None else device)
    library = DEVICES[name]()
    if index is not None and index >= (count := library.cuda.runtime.getDeviceCount()):
        there = "1 GPU, cuda:0" if count == 1 else f"{count} GPUs, cuda:0 to cuda:{count - 1}"
        raise ValueError(f"there is no device {device!r}: CuPy finds {there}")
    return library, index


def library_of(device: str | None) -> ModuleType:
    """The array library that makes arrays on `device` (None: the default device). Unknown names raise ValueError."""
    return library_on(device)[0]


def create(device: str | None, function: str, *args: Any, **kwargs: Any) -> Array:
    """A new array on `device` (None: the default device), by the function of that name in its library."""
    library, index = library_on(device)
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
    library, index = library_on(device)
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
    library, index = library_on(device)
    if library.__name__ != "cupy":
        return device
    if index is not None:
        library.cuda.Device(index).use()
    return f"cuda:{library.cuda.Device().id}"


def no_gpu() -> str:
    """The reason why no GPU can be used, in one sentence; '' if one can. Without a driver, CuPy is not imported."""
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


def to_device(x: Array, device: str | None) -> Array:
    """`x` on `device`: itself where it is there already ("cuda": on any GPU), otherwise a copy."""
    library, index = library_on(device)
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


# ----- dtypes -----------------------------------------------------------------------------------------------------

float16, float32, float64 = np.dtype("float16"), np.dtype("float32"), np.dtype("float64")
int32, int64, uint8, bool_ = np.dtype("int32"), np.dtype("int64"), np.dtype("uint8"), np.dtype("bool")


def is_floating(dtype: np.dtype) -> bool:
    """True for float16, float32, float64 and ml_dtypes' bfloat16 (whose `kind` is 'V', so `kind == 'f'` misses it)."""
    return dtype.kind == "f" or (dtype.kind == "V" and dtype.name == "bfloat16")


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
