"""What is asked of the machine: its memory and its BLAS as a training step wants them, large ops in parts on threads.

One idea: **one pool of threads, ours**. BLAS runs on one thread in each of them, a large op is split where its rows
allow it, and a small one never is.
"""

import ctypes
import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from .workers import Worker

# ----- memory and BLAS ----------------------------------------------------------------------------------------------


def keep_freed_memory() -> str:
    """Ask glibc to keep freed memory instead of returning it page by page, and say what was done.

    A training step frees and takes the same large arrays again and again; by default each comes fresh from the
    kernel, page fault by page fault (1.1 to 1.7 times the step's time). Call it once in a program that trains, as
    `gpt` does; a library has no business doing it on import. Elsewhere than on glibc nothing is changed.
    """
    try:
        libc = ctypes.CDLL("libc.so.6") if sys.platform == "linux" else None
    except OSError:
        libc = None
    if libc is None or not hasattr(libc, "mallopt"):
        return "not glibc: the system's own allocator is left as it is"
    m_trim_threshold, m_top_pad, m_mmap_max = -1, -2, -4
    done = [libc.mallopt(m_mmap_max, 0), libc.mallopt(m_trim_threshold, -1), libc.mallopt(m_top_pad, 64 << 20)]
    return "glibc keeps freed memory" if all(done) else "glibc refused mallopt"


def blas_environment() -> list[str]:
    """One sentence for each environment variable that makes NumPy's BLAS slower than this CPU allows."""
    core = os.environ.get("OPENBLAS_CORETYPE")
    warnings = []
    if core:
        warnings.append(
            f"OPENBLAS_CORETYPE={core} forces OpenBLAS' kernels for that CPU: unset it, unless you meant it"
        )
    if os.environ.get("OPENBLAS_L2_SIZE"):
        warnings.append(
            "OPENBLAS_L2_SIZE overrides the cache size that OpenBLAS measures: unset it, unless you meant it"
        )
    return warnings


def blas() -> dict[str, str]:
    """NumPy's BLAS: name and version, and for the OpenBLAS of NumPy's own wheels the kernels and threads in use."""
    built_with = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    about = {"name": str(built_with["name"]), "version": str(built_with["version"])}
    if (library := _openblas()) is not None:
        library.scipy_openblas_get_corename64_.restype = ctypes.c_char_p
        about["kernels"] = library.scipy_openblas_get_corename64_().decode()
        about["threads"] = str(library.scipy_openblas_get_num_threads64_())
    return about


def _openblas() -> ctypes.CDLL | None:
    """The OpenBLAS that came with NumPy's wheel and is loaded already."""
    package = Path(np.__file__).parent
    for path in (*package.parent.glob("numpy.libs/*openblas*"), *package.glob(".dylibs/*openblas*")):
        library = ctypes.CDLL(str(path))
        if hasattr(library, "scipy_openblas_get_corename64_"):
            return library
    return None


# ----- threads ------------------------------------------------------------------------------------------------------

_threads = 1
_workers: list[Worker] = []  # all that ever were wanted, beside the thread that asks
HAND_OVER = 45_000  # nanoseconds until another thread begins, in a training step
WORTH_SPLITTING = 300_000  # nanoseconds of work: beside it a hand-over costs little


def default_threads() -> int:
    """The user's OPENBLAS_NUM_THREADS or OMP_NUM_THREADS; else the cores, or 1 where other programs use them."""
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
        if os.environ.get(name, "").isdigit():
            return max(1, int(os.environ[name]))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    busy = hasattr(os, "getloadavg") and os.getloadavg()[0] > cores / 2
    return 1 if busy else cores  # a thread without a core of its own is one that the others wait for


def set_threads(threads: int) -> str:
    """Run the large CPU kernels on so many threads from now on, BLAS on one in each; says what was done.

    OpenBLAS' own threads wait for each other without sleeping: where another program wants a core, a small step then
    takes ten times as long. Ours sleep. A BLAS other than that of NumPy's wheels is left alone, with its own threads.
    """
    global _threads
    library = _openblas()
    if library is None:
        name = blas()["name"]  # Accelerate, in NumPy's wheels for macOS, or another one's own
        variable = "VECLIB_MAXIMUM_THREADS" if "accelerate" in name.lower() else "OMP_NUM_THREADS"
        return f"BLAS ({name}) keeps its own threads, which only the environment sets: {variable}"
    library.scipy_openblas_set_num_threads64_(1)
    _threads = threads
    _workers.extend(Worker() for _ in range(threads - 1 - len(_workers)))
    return f"{threads} thread{'s' * (threads != 1)} for large ops, BLAS on one in each"


@functools.cache
def _multiplications() -> int:
    """How many of a matrix product one thread does in a nanosecond, about: with AVX-512 or without."""
    return 100 if blas().get("kernels") in ("SkylakeX", "Cooperlake", "SapphireRapids") else 40


def matmul_time(a: np.ndarray, b: np.ndarray) -> float:
    """About how many nanoseconds a (M, K) @ b (K, N) takes one thread."""
    return a.size * b.shape[1] / _multiplications()


def in_parts(function: Callable[[slice], Any], n: int, nanoseconds: float) -> list:
    """[function(part)] for parts of 0 .. n - 1, one a thread if all of it takes long enough to be worth it.

    The other threads begin later, so their parts are smaller.
    """
    threads = min(_threads, len(_workers) + 1)
    if threads == 1 or nanoseconds < WORTH_SPLITTING or n < threads:
        return [function(slice(0, n))]
    share = n * (1 - HAND_OVER / nanoseconds if nanoseconds > HAND_OVER else 1) / threads
    begin = stop = n - round(share * (threads - 1))
    tasks = []
    for left in range(threads - 2, -1, -1):
        start, stop = stop, n - round(share * left)
        tasks.append(_workers[left].begin(function, slice(start, stop)))
    try:
        found = [function(slice(0, begin))]
    finally:  # whatever happened here, nobody else works on these arrays any more
        for task in tasks:
            task.wait()
    for task in tasks:
        found.append(task.result())
    return found


if hasattr(os, "register_at_fork"):  # a copy of this process has none of its threads
    os.register_at_fork(after_in_child=_workers.clear)
