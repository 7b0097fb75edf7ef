"""Compiling and launching the kernels of the .cu files, and how arrays are passed to them. The only user of CuPy here.

A kernel is named by its file and by the C++ expression that instantiates its template: "layers.cu" and
"layer_norm<float, float, 24>". It is compiled for the GPU at hand when it is first launched, and CuPy keeps the
compiled code on disk. The `INSTANTIATIONS` of a module list all kernels that it launches, so that tests can compile
them.
"""

import functools
import hashlib
import importlib
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np

from ...backend import Array, xp

FOLDER = Path(__file__).parent
OPTIONS = ("-std=c++17", f"-I{FOLDER}")
NAMES = {"float32": "float", "float64": "double", "bfloat16": "bf16", "int32": "int", "int64": "long long"}
FLOATS = ("float32", "bfloat16")  # dtypes of activations
INDICES = ("int", "long long")  # C++ types of integers that kernels read
WIDTHS = {"float": 4, "bf16": 8}  # elements in 16 bytes, the largest access to memory
INSTANTIATED_WIDTHS = [(t, n) for t, widest in WIDTHS.items() for n in (1, widest)]

# ----- arrays as kernels take them --------------------------------------------------------------------------------


def on_gpu(x: Any) -> bool:
    """Whether `x` is an array of CuPy."""
    return type(x).__module__.partition(".")[0] == "cupy"


def ctype(x: Array) -> str:
    """The C++ type of the elements of `x`, for a kernel's template arguments."""
    return NAMES[x.dtype.name]


def address(x: Array) -> int:
    """The address of the memory of `x`."""
    return x.ctypes.data if isinstance(x, np.ndarray) else x.data.ptr


def as_rows(x: Array) -> Array:
    """(..., C) -> (N, C), contiguous: a copy where it is not."""
    return xp(x).ascontiguousarray(x).reshape((math.prod(x.shape[:-1]), x.shape[-1]))


def as_indices(x: Array) -> Array:
    """Integers of any shape as a contiguous array (N) of int32 or int64."""
    x = x if x.dtype.name in ("int32", "int64") else x.astype("int64")
    return xp(x).ascontiguousarray(x.reshape(-1))


def width(columns: int, x: Array, *others: Array | None) -> int:
    """The number of elements of rows of `columns` that a thread moves at once: 16 bytes of `x`, or 1 where its rows
    or the memory of one of the arrays do not begin at multiples of 16 bytes.
    """
    n = 16 // x.itemsize
    aligned = columns % n == 0 and all(a is None or address(a) % 16 == 0 for a in (x, *others))
    return n if aligned else 1


def ceil_div(a: int, b: int) -> int:
    """a / b rounded up."""
    return -(-a // b)


def threads_for(packs: int, most: int = 1024) -> int:
    """Threads for a row of so many accesses: whole warps, four accesses for each thread where there are many."""
    return min(most, max(32, ceil_div(packs, 128) * 32))


# ----- launches ---------------------------------------------------------------------------------------------------


def launch(file: str, kernel: str, blocks: int | tuple[int, ...], threads: int, *args: Any) -> None:
    """Run `kernel` of `file` on a grid of `blocks` blocks with `threads` threads each.

    An array arrives as a pointer to its first element, None as a null pointer, a Python int as `long long`, a float as
    `float`, a NumPy structure by value.
    """
    if blocks == 0 or (isinstance(blocks, tuple) and 0 in blocks):
        return
    grid = blocks if isinstance(blocks, tuple) else (blocks,)
    _run(file, kernel, grid, threads, [_argument(x) for x in args])


def _argument(x: Any) -> Any:
    if x is None:
        return np.uint64(0)
    if isinstance(x, bool | int):
        return np.int64(x)
    return np.float32(x) if isinstance(x, float) else x


def _run(file: str, kernel: str, grid: tuple[int, ...], threads: int, args: list[Any]) -> None:
    cupy = sys.modules["cupy"]  # it made the arrays
    _compiled(file, kernel, cupy.cuda.runtime.getDevice())(grid, (threads,), tuple(args))


@functools.cache
def _sources() -> str:
    """A hash of all source files."""
    texts = [path.read_bytes() for path in sorted(FOLDER.glob("*.cu*"))]
    return hashlib.sha256(b"".join(texts)).hexdigest()


@functools.cache
def _compiled(file: str, kernel: str, device: int) -> Any:
    cupy = sys.modules["cupy"]
    code = f'#include "{file}"\n// {_sources()}\n'  # CuPy keeps compiled code by its text: the hash notices any change
    module = cupy.RawModule(code=code, options=OPTIONS, name_expressions=(kernel,))
    return module.get_function(kernel)


# ----- NVIDIA's libraries -----------------------------------------------------------------------------------------


def why_unusable(module: str, version: str, package: str, library: str, fix: str) -> str:
    """Why `library` cannot be called through `module` of the Python package `package`, and what to do about it; ""
    where it can, which calling the module's function `version` shows.
    """
    try:
        getattr(importlib.import_module(module), version)()
    except ImportError as error:
        return f"{package} is not installed ({error}): pip install 'tensorlite[cuda]'"
    except Exception as error:  # the loaders' errors have no common class
        return f"{library} cannot be loaded ({first_line(error)}): pip install {fix}"
    return ""


def first_line(error: Exception) -> str:
    """The first line of an error's message."""
    return str(error).strip().partition("\n")[0]
