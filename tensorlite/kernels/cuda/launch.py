"""Compiling and launching the kernels of the .cu files: the one place here that knows CuPy.

One idea: a kernel is named by its file and the C++ expression that instantiates it, "norm.cu" and
"layer_norm_forward<float, bf16>". It is compiled when it is first asked for, for the GPU at hand, and CuPy keeps what
was compiled on disk.
"""

import functools
import hashlib
import sys
from pathlib import Path
from typing import Any

import numpy as np

from ...backend import Array

FOLDER = Path(__file__).parent
OPTIONS = ("-std=c++17", f"-I{FOLDER}")
NAMES = {"float32": "float", "float64": "double", "bfloat16": "bf16", "int32": "int", "int64": "long long"}


def on_gpu(x: Any) -> bool:
    """Whether `x` is an array that the kernels can be given."""
    return type(x).__module__.partition(".")[0] == "cupy"


def ctype(x: Array) -> str:
    """What the elements of `x` are called in a kernel's template arguments."""
    return NAMES[x.dtype.name]


def launch(file: str, kernel: str, blocks: int | tuple[int, ...], threads: int, *args: Any) -> None:
    """Run `kernel` of `file` on `blocks` blocks of so many threads. Arrays arrive as pointers to their first element,
    None as a null pointer, Python's ints as `long long`, its floats as `float`, NumPy structures by value.
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


def _run(file: str, kernel: str, grid: tuple[int, ...], threads: int, args: list) -> None:
    cupy = sys.modules["cupy"]  # it made the arrays
    _compiled(file, kernel, cupy.cuda.runtime.getDevice())(grid, (threads,), tuple(args))


@functools.cache
def _sources() -> str:
    """A name for what stands in all files: another one after any change."""
    texts = [path.read_bytes() for path in sorted(FOLDER.glob("*.cu*"))]
    return hashlib.sha256(b"".join(texts)).hexdigest()


@functools.cache
def _compiled(file: str, kernel: str, device: int) -> Any:
    cupy = sys.modules["cupy"]
    code = f'#include "{file}"\n// {_sources()}\n'  # what CuPy finds on disk by the code is of these very sources
    module = cupy.RawModule(code=code, options=OPTIONS, name_expressions=(kernel,))
    return module.get_function(kernel)
