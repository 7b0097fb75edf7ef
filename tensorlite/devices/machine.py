"""What is asked of the machine: its memory and its BLAS as a training step wants them, large ops in parts on threads.

One idea: **one pool of threads, ours**. BLAS runs on one thread in each of them, a large op is split where its rows
allow it, and a small one never is.
"""

import ctypes
import functools
import math
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
    _asked.add("memory")
    try:
        libc = ctypes.CDLL("libc.so.6") if sys.platform == "linux" else None
    except OSError:
        libc = None
    if libc is None or not hasattr(libc, "mallopt"):
        return "not glibc: the system's own allocator is left as it is"
    m_trim_threshold, m_top_pad, m_mmap_max = -1, -2, -4
    done = [libc.mallopt(m_mmap_max, 0), libc.mallopt(m_trim_threshold, -1), libc.mallopt(m_top_pad, 64 << 20)]
    return "glibc keeps freed memory" if all(done) else "glibc refused mallopt"


_asked: set[str] = set()  # "memory" and "threads": which of them the program has asked for


def prepare_training() -> list[str]:
    """What a program's first optimizer of parameters on the CPU does, once: `set_threads(default_threads())` and
    `keep_freed_memory()`; says what was done.

    So a loop written by hand is as fast as `gpt train`. Importing the library changes nothing. Whatever the program has
    called itself before is left as it is, and what it calls later holds. Both change the whole process: NumPy's own
    matrix products run on one thread then. The environment variable TENSORLITE_PREPARE=0 leaves the process alone, and
    OPENBLAS_NUM_THREADS or OMP_NUM_THREADS set the number of threads.
    """
    if os.environ.get("TENSORLITE_PREPARE") == "0":
        return []
    done = [] if "threads" in _asked else [set_threads(default_threads())]
    done += [] if "memory" in _asked else [keep_freed_memory()]
    return done


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


def instructions() -> str:
    """The extensions of the CPU's instruction set that NumPy's loops use here, such as "X86_V3 X86_V4"."""
    return " ".join(np.show_config(mode="dicts")["SIMD Extensions"].get("found", []))


def _openblas() -> ctypes.CDLL | None:
    """The OpenBLAS that came with NumPy's wheel and is loaded already."""
    package = Path(np.__file__).parent
    for path in (*package.parent.glob("numpy.libs/*openblas*"), *package.glob(".dylibs/*openblas*")):
        library = ctypes.CDLL(str(path))
        if hasattr(library, "scipy_openblas_get_corename64_"):
            return library
    return None


# ----- threads ------------------------------------------------------------------------------------------------------

THREAD_VARIABLES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS")  # the first that is set counts
_threads = 1
_workers: list[Worker] = []  # all that ever were wanted, beside the thread that asks
HAND_OVER = 45_000  # nanoseconds until another thread begins, in a training step
WORTH_SPLITTING = 300_000  # nanoseconds of work: beside it a hand-over costs little


def default_threads() -> int:
    """The user's OPENBLAS_NUM_THREADS or OMP_NUM_THREADS; else `usable_cores()`.

    It depends on settings alone and never on how busy the machine is: another number of threads adds up in another
    order, and the same command would give other last bits.
    """
    for name in THREAD_VARIABLES:
        if (given := _number_in(os.environ.get(name, ""))) is not None:
            return given
    return usable_cores()


def given_threads() -> str | None:
    """The environment variable that sets the number of threads; None where none does."""
    return next((name for name in THREAD_VARIABLES if _number_in(os.environ.get(name, "")) is not None), None)


def _number_in(text: str) -> int | None:
    """The number of threads that a variable asks for: of OMP_NUM_THREADS=4,2 (nested regions) the first one."""
    first = text.partition(",")[0].strip()
    return int(first) if first.isdecimal() and int(first) > 0 else None


def usable_cores() -> int:
    """How many cores this process may use: of its affinity mask, and as many as its CPU quota pays for; at least 1."""
    if hasattr(os, "process_cpu_count"):  # from Python 3.13 on
        cores = os.process_cpu_count() or 1
    else:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, int(min(cores, cpu_quota())))


def cpu_quota(root: Path = Path("/")) -> float:
    """The cores' worth of time that a container grants (Linux control groups, version 1 and 2); inf without a limit."""
    membership = root / "proc/self/cgroup"
    if not membership.exists():
        return math.inf
    quota = math.inf
    for line in membership.read_text(encoding="utf-8").splitlines():
        _, controllers, path = line.split(":", 2)  # "0::/path" is version 2, "4:cpu,cpuacct:/path" version 1
        if controllers and "cpu" not in controllers.split(","):
            continue
        for mount in ("cpu", "cpu,cpuacct", "cpuacct,cpu") if controllers else ("", "unified"):
            top = root / "sys/fs/cgroup" / mount
            folder = top / path.lstrip("/")
            inside = [parent for parent in folder.parents if parent.is_relative_to(top)]  # their limits hold as well
            quota = min(quota, *map(_quota_of, (folder, *inside)))
    return quota


def _quota_of(folder: Path) -> float:
    """The limit of one control group: time over period, or inf."""
    if (limit := folder / "cpu.max").exists():  # "150000 100000" or "max 100000"
        time, period = limit.read_text(encoding="utf-8").split()
    elif (limit := folder / "cpu.cfs_quota_us").exists():  # -1: no limit
        time, period = limit.read_text(encoding="utf-8"), (folder / "cpu.cfs_period_us").read_text(encoding="utf-8")
    else:
        return math.inf
    return math.inf if time == "max" or int(time) < 0 else int(time) / int(period)


MOST_THREADS = 1024


def threads() -> int:
    """The number of threads that large CPU kernels run on: what `set_threads` was last given, and 1 before."""
    return _threads


def set_threads(threads: int) -> str:
    """Run the large CPU kernels on so many threads from now on, BLAS on one in each; says what was done.

    OpenBLAS' own threads wait for each other without sleeping: where another program wants a core, a small step then
    takes ten times as long. Ours sleep. A BLAS other than that of NumPy's wheels is left alone, with its own threads.
    ValueError for fewer than one or more than MOST_THREADS, RuntimeError where the system starts no further one.

    The same number gives the same bits again. Another number adds up parts in another order: over 200 steps of a small
    GPT, with one thread and with two, losses were 2e-7 apart (relative), weights 7e-7 of their tensor's largest.
    """
    global _threads
    if not 1 <= threads <= MOST_THREADS:
        raise ValueError(f"threads must be an integer from 1 to {MOST_THREADS:,}, got {threads!r}")
    library = _openblas()
    if library is None:
        name = blas()["name"]  # Accelerate, in NumPy's wheels for macOS, or another one's own
        variable = "VECLIB_MAXIMUM_THREADS" if "accelerate" in name.lower() else "OMP_NUM_THREADS"
        return f"BLAS ({name}) keeps its own threads, which only the environment sets: {variable}"
    library.scipy_openblas_set_num_threads64_(1)
    _asked.add("threads")
    try:
        _workers.extend(Worker() for _ in range(threads - 1 - len(_workers)))
    except RuntimeError:
        raise RuntimeError(f"the system starts no {threads:,} threads: set a smaller number of threads") from None
    _threads = threads
    return f"{threads} thread{'s' if threads > 1 else ''} for large ops, BLAS on one in each"


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
    threads = _threads
    if threads == 1 or nanoseconds < WORTH_SPLITTING or n < threads:
        return [function(slice(0, n))]
    if len(_workers) < threads - 1:  # a forked copy of the process
        _workers.extend(Worker() for _ in range(threads - 1 - len(_workers)))
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


if hasattr(
    os, "register_at_fork"
):  # a copy of this process has none of its threads: it starts its own when it needs them
    os.register_at_fork(after_in_child=_workers.clear)
