"""Runs the CUDA kernels on a CPU: the same .cu files, compiled by g++ against cuda_emulation.h.

`run` replaces `launch._run`, so that the Python of kernels/cuda runs unchanged on NumPy arrays. While a kernel runs,
each array lies between guard bytes: reads beyond an end give nan, writes there are an error. An index beyond an array
of the kernel itself, local or shared, ends the process. An array of one element of a structured dtype is passed by
value, as in CuPy (which refuses numpy.void). Pointers inside it point to the arrays themselves, so no array may be both
in a structure and among the arguments of one launch.
"""

import ctypes
import functools
import hashlib
import importlib
import math
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pytest

from tensorlite.kernels.cuda import launch

HEADER = Path(__file__).with_name("cuda_emulation.h")
GUARD = 256  # bytes; a multiple of it is also the alignment that CuPy's memory has at least
NAN = 0xFF  # as every byte: nan in each floating dtype


class Argument(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("dtype", ctypes.c_char_p),
        ("size", ctypes.c_longlong),
        ("pointer", ctypes.c_int),
    )


def missing() -> str:
    """Why kernels cannot be emulated here; empty where they can."""
    if os.name != "posix":
        return "the emulated kernels are shared libraries of Unix"
    return "" if shutil.which("g++") else "there is no g++ here to compile the kernels for the CPU"


@pytest.fixture
def emulated(monkeypatch):
    """Kernels run on the CPU, and NumPy arrays count as the GPU's. What `numpy.empty` makes is full of nan."""
    if missing():
        pytest.skip(missing())
    monkeypatch.setattr(launch, "_run", run)
    monkeypatch.setattr(np, "empty", _poisoned)
    for module in kernel_modules():
        monkeypatch.setattr(module, "on_gpu", lambda x: type(x) is np.ndarray)


def kernel_modules() -> list:
    """The modules of kernels/cuda that ask whether an array is a GPU's."""
    names = [f"tensorlite.kernels.cuda.{path.stem}" for path in launch.FOLDER.glob("[a-z]*.py")]
    return [module for module in map(importlib.import_module, names) if hasattr(module, "on_gpu")]


def _poisoned(shape, dtype=np.float64) -> np.ndarray:
    if np.dtype(dtype).itemsize == 0:  # NumPy's own, in broadcast_shapes
        return np.zeros(shape, dtype)
    memory = np.full(math.prod(np.atleast_1d(shape).tolist()) * np.dtype(dtype).itemsize, NAN, np.uint8)
    return memory.view(dtype).reshape(shape)


def run(file: str, kernel: str, grid: tuple[int, ...], threads: int, args: list) -> None:
    """launch._run on the CPU. RuntimeError for what a GPU would refuse, or would get wrong without an error."""
    if not Path(file).is_absolute() and kernel not in instantiations(file):  # absolute: a test's own
        raise RuntimeError(f"{kernel} is not among {Path(file).stem}.INSTANTIATIONS: nothing compiles it for a GPU")
    copies = _Copies()
    values = [copies.argument(x) for x in args]
    given = (Argument * len(values))(*values)
    message = _compiled(file, kernel)((ctypes.c_uint * 3)(*(*grid, 1, 1)[:3]), threads, given, len(values))
    if message:
        raise RuntimeError(f"{file}: {kernel}: {message.decode()}")
    copies.write_back(f"{file}: {kernel}")


def instantiations(file: str) -> tuple[str, ...]:
    """The kernels of a .cu file that its module launches, as the module lists them."""
    return importlib.import_module(f"tensorlite.kernels.cuda.{Path(file).stem}").INSTANTIATIONS


class _Copies:
    """Guarded copies of the memory of the arrays that a kernel is given."""

    def __init__(self) -> None:
        self.owners: dict[int, tuple] = {}  # address -> (owner of the memory, guarded copy, start, size)
        self.alive: list = []

    def argument(self, x) -> Argument:
        if isinstance(x, np.void) or (x.dtype.fields is not None and x.size != 1):
            raise TypeError("CuPy takes a structure as an array of shape () or (1,) only")
        if x.dtype.fields is not None or not isinstance(x, np.ndarray):
            null = isinstance(x, np.uint64) and x == 0
            return self._pass(np.array(x).reshape(1), b"null" if null else x.dtype.name.encode(), 0)
        return self._pass(np.array([self._address(x)], np.uint64), x.dtype.name.encode(), 1)

    def _pass(self, value: np.ndarray, dtype: bytes, pointer: int) -> Argument:
        self.alive.append(value)
        return Argument(value.ctypes.data, dtype, value.nbytes, pointer)

    def _address(self, x: np.ndarray) -> int:
        owner = x
        while isinstance(owner.base, np.ndarray):
            owner = owner.base
        low, high = np.lib.array_utils.byte_bounds(owner)
        if owner.size == 0:
            high = low
        if low not in self.owners:
            memory = np.full(high - low + 3 * GUARD, NAN, np.uint8)
            start = GUARD + -(memory.ctypes.data + GUARD) % GUARD
            ctypes.memmove(memory.ctypes.data + start, low, high - low)
            self.owners[low] = owner, memory, start, high - low
        _, memory, start, _ = self.owners[low]
        return memory.ctypes.data + start + x.ctypes.data - low

    def write_back(self, where: str) -> None:
        for low, (owner, memory, start, size) in self.owners.items():
            if (memory[:start] != NAN).any() or (memory[start + size :] != NAN).any():
                raise RuntimeError(f"{where}: wrote outside of an array {owner.dtype}{list(owner.shape)}")
            if owner.flags.writeable:
                ctypes.memmove(low, memory.ctypes.data + start, size)


def _compiled(file: str, kernel: str):
    """The kernel as a function of this process."""
    kernels = (kernel,) if Path(file).is_absolute() else instantiations(file)
    return functools.partial(_library(file, kernels), kernels.index(kernel))


@functools.cache
def _library(file: str, kernels: tuple[str, ...]):
    """All kernels of a file as one function of the kernel's number; compiled code is kept in the temporary folder."""
    cases = "\n".join(
        f"case {i}: return emulation::launch(&{kernel}, dim3{{grid[0], grid[1], grid[2]}}, threads, given, count);"
        for i, kernel in enumerate(kernels)
    )
    code = f"""#include "{HEADER}"
#include "{launch.FOLDER / file}"
extern "C" const char* run(int which, const unsigned* grid, int threads, const emulation::Argument* given, int count) {{
    switch (which) {{
{cases}
    }}
    return "no such kernel";
}}
"""
    command = ["g++", "-O1", "-std=c++17", "-shared", "-fPIC", "-w", "-fno-strict-aliasing", "-U_FORTIFY_SOURCE"]
    command += ["-fsanitize=bounds", "-fsanitize-undefined-trap-on-error"]
    parts = [code, *command, HEADER.read_text(), *[p.read_text() for p in sorted(launch.FOLDER.glob("*.cu*"))]]
    folder = Path(tempfile.gettempdir()) / f"tensorlite-emulated-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    library = folder / f"{hashlib.sha256('|'.join(parts).encode()).hexdigest()[:32]}.so"
    if not library.exists():
        with tempfile.TemporaryDirectory(dir=folder) as work:  # renamed when done: another process may do the same
            source, built = Path(work, "kernel.cpp"), Path(work, "kernel.so")
            source.write_text(code)
            done = subprocess.run([*command, source, "-o", built], capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(f"{file}: {kernels[0]} does not compile for the CPU:\n{done.stderr[:4000]}")
            built.replace(library)
    function = ctypes.CDLL(str(library)).run
    function.restype = ctypes.c_char_p
    return function
