"""NVIDIA's Python packages without a GPU: a process in which stand-ins take the place of NVIDIA's C libraries.

`nvmath.bindings.cublasLt` and `cudnn` (nvidia-cudnn-frontend) are the real ones there, with their own enumerations,
signatures and checks; the C libraries below them are those of nvidia_stand_in.cpp. `inside(function, *args)` runs a
function of a test file in that process. `LIBRARY` takes the place of CuPy: its arrays are NumPy's, in the memory that
the stand-ins take for the GPU's.
"""

import ctypes
import functools
import hashlib
import importlib.util
import math
import os
import shutil
import subprocess
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace

import numpy as np

SOURCE = Path(__file__).with_name("nvidia_stand_in.cpp")
NAMES = "libcuda.so.1", "libcudart.so.13", "libcudnn.so.9", "libcublasLt.so.13"
MEMORY = 256 << 20  # bytes
STREAM = 41


def missing(package: str) -> str:
    """Why the stand-ins cannot be used with this package of Python; empty where they can."""
    if os.name != "posix":
        return "the stand-ins are shared libraries of Unix"
    if not shutil.which("g++"):
        return "there is no g++ here to compile the stand-ins"
    return "" if importlib.util.find_spec(package) else f"{package} is not installed"


def inside(function, *args):
    """function(*args) in the process with the stand-ins, which all tests share; an exception of it is raised here."""
    return _process().submit(function, *args).result(timeout=300)


@functools.cache
def _process() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=_load, initargs=(_built(),))


def _built() -> list[str]:
    """The compiled stand-ins: a file for each library, found by its name once it is loaded."""
    command = ["g++", "-O1", "-std=c++17", "-shared", "-fPIC"]
    digest = hashlib.sha256("|".join([SOURCE.read_text(), *command]).encode()).hexdigest()[:32]
    folder = Path(tempfile.gettempdir()) / f"tensorlite-emulated-{os.getuid()}" / digest
    if not folder.exists():
        folder.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as work:  # another process may do the same
            made = Path(work, "made")
            made.mkdir()
            for name in NAMES:
                one = [*command, f"-D{name.partition('.')[0]}", f"-Wl,-soname,{name}"]
                subprocess.run([*one, SOURCE, "-o", made / name], check=True)
            try:
                made.replace(folder)
            except OSError:
                if not folder.exists():
                    raise
    return [str(folder / name) for name in NAMES]


def _load(paths: list[str]) -> None:
    """In the new process: load the stand-ins before anything asks for the libraries."""
    for path in paths:
        LOADED[Path(path).name] = ctypes.CDLL(path)
    lt = LOADED["libcublasLt.so.13"]
    lt.stand_in_memory.restype, lt.stand_in_memory.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    lt.stand_in_error.restype = ctypes.c_char_p
    for library in LOADED.values():
        library.stand_in_stream.restype = ctypes.c_long
    _Memory.start = _Memory.next = lt.stand_in_memory(MEMORY)


# ----- in the process with the stand-ins --------------------------------------------------------------------------

LOADED: dict[str, ctypes.CDLL] = {}  # name -> library


def last_error() -> str:
    """What the stand-in of cublasLt has refused last."""
    return LOADED["libcublasLt.so.13"].stand_in_error().decode()


class _Memory:
    """The GPU's memory, which is given out once and never freed."""

    start = next = 0

    @classmethod
    def take(cls, size: int) -> int:
        if cls.next + size + 512 > cls.start + MEMORY:
            raise MemoryError("the stand-in's memory is given out: make MEMORY larger")
        address, cls.next = cls.next, cls.next + -(-size // 256) * 256 + 256
        return address


class OnGpu(np.ndarray):
    """NumPy's array with the address where CuPy's has it."""

    @property
    def data(self):
        return SimpleNamespace(ptr=self.ctypes.data)

    def astype(self, dtype):
        return on_gpu(np.asarray(self).astype(dtype))


def empty(shape, dtype) -> OnGpu:
    """A new array at a multiple of 256 bytes, full of nan."""
    size = math.prod(shape if isinstance(shape, tuple | list) else (shape,)) * np.dtype(dtype).itemsize
    memory = (ctypes.c_uint8 * size).from_address(_Memory.take(size))
    array = np.frombuffer(memory, np.uint8)
    array[:] = 0xFF
    return array.view(dtype).reshape(shape).view(OnGpu)


def on_gpu(x) -> OnGpu:
    """A copy of x with the axes in the order of its strides in memory."""
    order = np.argsort([-s for s in x.strides], kind="stable")
    view = empty(tuple(x.shape[i] for i in order), x.dtype).transpose(np.argsort(order))
    view[...] = x
    return view


LIBRARY = SimpleNamespace(
    __name__="stand-in",
    asarray=on_gpu,
    ascontiguousarray=lambda x: on_gpu(np.ascontiguousarray(x)),
    empty=empty,
    cuda=SimpleNamespace(
        runtime=SimpleNamespace(getDevice=lambda: 0), get_current_stream=lambda: SimpleNamespace(ptr=STREAM)
    ),
)
