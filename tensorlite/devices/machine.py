"""Settings of the process for training on a CPU (memory allocator, BLAS threads), and large ops split over threads.

There is one pool of threads, this module's. BLAS runs single-threaded in each of them; large ops are split along their
rows, small ones are not.
"""

import ctypes
import functools
import math
import os
import sys
from collections.abc import Callable
from contextvars import ContextVar, copy_context
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from .workers import Worker

T = TypeVar("T")

# ----- memory and BLAS ----------------------------------------------------------------------------------------------


def keep_freed_memory() -> str:
    """Make glibc keep freed memory instead of returning it to the system; returns a sentence that says what was done.

    A training step frees and allocates the same large arrays again and again; by default each allocation comes fresh
    from the kernel, with a page fault for each page (1.1 to 1.7 times the step's time). Call it once in a program that
    trains, as `gpt` does; importing tensorlite does not. Without glibc nothing is changed.
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


_asked: set[str] = set()  # "memory", "threads": what the program has set already


def prepare_training() -> list[str]:
    """`set_threads(default_threads())` and `keep_freed_memory()`, once; returns sentences that say what was done.

    The first optimizer of parameters on the CPU calls this, so that a training loop written by hand is as fast as
    `gpt train`; importing tensorlite changes nothing. What the program has set itself before, or sets later, is kept.
    Both settings are those of the whole process: NumPy's own matrix products then run on one thread. The environment
    variable TENSORLITE_PREPARE=0 switches this off, and OPENBLAS_NUM_THREADS or OMP_NUM_THREADS set the number of
    threads.
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
    """NumPy's BLAS: its name and version; for the OpenBLAS of NumPy's wheels also the kernels and threads in use."""
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
    """The OpenBLAS of NumPy's wheel, which is loaded already; None where NumPy uses another BLAS."""
    package = Path(np.__file__).parent
    for path in (*package.parent.glob("numpy.libs/*openblas*"), *package.glob(".dylibs/*openblas*")):
        library = ctypes.CDLL(str(path))
        if hasattr(library, "scipy_openblas_get_corename64_"):
            return library
    return None


# ----- threads ------------------------------------------------------------------------------------------------------

THREAD_VARIABLES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS")  # the first that is set has precedence
_threads = 1
_workers: list[Worker] = []  # the threads of the pool, without the calling one; it never shrinks
HAND_OVER = 45_000  # nanoseconds until another thread starts on its part, in a training step
WORTH_SPLITTING = 300_000  # nanoseconds of work, compared with which a hand-over costs little


def default_threads() -> int:
    """The user's OPENBLAS_NUM_THREADS or OMP_NUM_THREADS; else `usable_cores()`.

    It depends on settings alone, not on how busy the machine is: with another number of threads, sums are added in
    another order, and the same command would give different last bits.
    """
    for name in THREAD_VARIABLES:
        if (given := _number_in(os.environ.get(name, ""))) is not None:
            return given
    return usable_cores()


def given_threads() -> str | None:
    """The name of the environment variable that sets the number of threads; None if none is set."""
    return next((name for name in THREAD_VARIABLES if _number_in(os.environ.get(name, "")) is not None), None)


def _number_in(text: str) -> int | None:
    """The number of threads in a variable's value, None if invalid: of OMP_NUM_THREADS=4,2 (nested) the first."""
    first = text.partition(",")[0].strip()
    return int(first) if first.isdecimal() and int(first) > 0 else None


def usable_cores() -> int:
    """The number of cores this process may use: those of its affinity mask, limited by its CPU quota; at least 1."""
    if hasattr(os, "process_cpu_count"):  # from Python 3.13 on
        cores = os.process_cpu_count() or 1
    else:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, int(min(cores, cpu_quota())))


def cpu_quota(root: Path = Path("/")) -> float:
    """The CPU limit of the container in cores (Linux control groups, version 1 and 2); inf without a limit."""
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
    """The number of threads of large CPU kernels: the last argument of `set_threads`, or 1."""
    return _threads


def set_threads(threads: int) -> str:
    """Set the number of threads of large CPU kernels, with BLAS on one in each; returns a sentence that says so.

    OpenBLAS' own threads wait for each other in a busy loop: if another program uses one of the cores, a small training
    step takes ten times as long. These threads sleep while they wait. A BLAS other than that of NumPy's wheels keeps
    its own threads. ValueError for fewer than 1 or more than MOST_THREADS, RuntimeError if the system starts no more.

    The same number of threads gives the same bits. Another number adds parts in another order: after 200 steps of a
    small GPT with one and with two threads, the losses differed by 2e-7 (relative), the weights by 2e-5 of the largest
    weight of their tensor.
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
        _start_workers(threads - 1)
    except RuntimeError:
        raise RuntimeError(f"the system starts no {threads:,} threads: set a smaller number of threads") from None
    _threads = threads
    return f"{threads} thread{'s' if threads > 1 else ''} for large ops, BLAS on one in each"


@functools.cache
def _multiplications() -> int:
    """Multiplications of a matrix product that one thread does in a nanosecond, roughly: with AVX-512 or without.

    With AVX-512 it is 48 where a unit is 256 bits wide (Zen 4) and 120 where it is 512 (Zen 5).
    """
    return 100 if blas().get("kernels") in ("SkylakeX", "Cooperlake", "SapphireRapids") else 40


def matmul_time(a: np.ndarray, b: np.ndarray) -> float:
    """Roughly how many nanoseconds the product a (M, K) @ b (K, N) takes on one thread."""
    return product_time(a.size * b.shape[1])


def product_time(multiplications: int) -> float:
    """Roughly how many nanoseconds matrix products with so many multiplications take on one thread."""
    return float(multiplications / _multiplications())


_single = ContextVar("single", default=False)  # whether ops stay on their thread: inside in_threads


def splits(n: int, nanoseconds: float) -> bool:
    """Whether `in_parts` splits 0 .. n - 1, which takes one thread so long."""
    return nanoseconds >= WORTH_SPLITTING and n > 1 and _threads > 1 and not _single.get()


def in_parts(function: Callable[[slice], Any], n: int, nanoseconds: float) -> list[Any]:
    """[function(part), ...] for consecutive slices of 0 .. n - 1, in order: one per thread, or one for all of it.

    `nanoseconds`: roughly how long all of it takes on one thread; below WORTH_SPLITTING it is not split. The other
    threads start later, so their parts are smaller. What `function` raises is raised here, after all have ended.
    """
    if not splits(n, nanoseconds):
        return [function(slice(0, n))]
    threads = min(_threads, n)
    _start_workers(threads - 1)
    share = n * (1 - HAND_OVER / nanoseconds if nanoseconds > HAND_OVER else 1) / threads
    begin = stop = n - round(share * (threads - 1))
    tasks = []
    for left in range(threads - 2, -1, -1):
        start, stop = stop, n - round(share * left)
        tasks.append(_workers[left].begin(function, slice(start, stop)))
    try:
        found = [function(slice(0, begin))]
    finally:  # on an error too, no thread works on these arrays after this returns
        for task in tasks:
            task.wait()
    for task in tasks:
        found.append(task.result())
    return found


def in_threads(function: Callable[[int], T], count: int) -> list[T]:
    """[function(0), ..., function(count - 1)], each on a thread of its own, which the ops inside do not leave.

    All see the caller's context variables, such as `no_grad`. What `function` raises is raised here, after all have
    ended.
    """
    contexts = [copy_context() for _ in range(count)]

    def run(part: slice) -> T:
        context = contexts[part.start]
        context.run(_single.set, True)
        return context.run(function, part.start)

    _start_workers(count - 1)
    tasks = [_workers[i - 1].begin(run, slice(i, i + 1)) for i in range(1, count)]
    try:
        found = [run(slice(0, 1))]
    finally:
        for task in tasks:
            task.wait()
    return found + [task.result() for task in tasks]


def _start_workers(count: int) -> None:
    """Start the missing threads: this call needs more, or they were lost in a fork."""
    _workers.extend(Worker() for _ in range(count - len(_workers)))


if hasattr(os, "register_at_fork"):  # a forked process has none of these threads: it starts its own when needed
    os.register_at_fork(after_in_child=_workers.clear)
