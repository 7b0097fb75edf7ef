"""Matrix products in bfloat16 on CPUs that have instructions for it: oneDNN's GEMM, by ctypes.

One idea: only the operands are small. They are rounded to bfloat16 (float32's range with 8 bits of precision, as
torch's autocast does), sums and results are float32, and so are weights, gradients and everything else. A product
takes about half the time; its error is that of the rounding, 2**-9 an operand. bfloat16 is kept as its bits, uint16.

The library is the wheel onednn-cpu-gomp (oneDNN 3.2, Linux on x86-64): `pip install 'tensorlite[bf16]'`. Rounding is
its documented reorder; dnnl_gemm_bf16bf16f32 it exports without documenting it, so this module is optional, off until
`precision.set_matmul_dtype` is called, and stays off, saying why, where library or the CPU's avx512_bf16 is missing.
"""

import ctypes
import functools
import os
import threading
from collections.abc import Callable
from ctypes import byref, c_char, c_float, c_int, c_int64, c_size_t, c_void_p
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

import numpy as np

from ...devices.machine import in_parts
from ...devices.memory import scratch
from ..precision import matmul_dtype

CPU_INFO = Path("/proc/cpuinfo")  # Linux alone has it, and so has the wheel
WHEEL, _LIBRARY = "onednn-cpu-gomp", "libdnnl.so.3"
_F32, _BF16, _CPU, _IN_ORDER, _FROM, _TO = 3, 2, 1, 1, 1, 17  # constants of oneDNN's C interface, version 3


# ----- whether it is here -----------------------------------------------------------------------------------------


def missing() -> str:
    """Why there are no bfloat16 products here, and what to do about it; '' where there are."""
    return _missing(CPU_INFO, WHEEL)


@functools.cache
def _missing(info: Path, wheel: str) -> str:
    if not info.exists() or "avx512_bf16" not in info.read_text(encoding="utf-8", errors="replace").split():
        return "this CPU does not multiply bfloat16 (/proc/cpuinfo names no avx512_bf16)"
    try:
        _dnnl()
    except PackageNotFoundError:
        return "oneDNN is not installed: pip install 'tensorlite[bf16]'"
    except OSError as error:
        return f"oneDNN cannot be loaded: {error}"
    return ""


# ----- products ---------------------------------------------------------------------------------------------------


def pays(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether a (M, K) @ b (K, N) is to be computed in bfloat16: it is on, both are float32, and it is faster so.

    Rounding (M + N) K elements takes as long as multiplying some 30 K (M + N) pairs saves, and the calls 25 us. It may
    be on for the sake of a GPU, and this CPU not have it.
    """
    if matmul_dtype() != "bfloat16" or a.dtype.char != "f" or b.dtype.char != "f":
        return False
    (M, K), N = a.shape, b.shape[1]
    return M * N * K >= 1 << 22 and M * N >= 32 * (M + N) and not missing()


def operands(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two float32 matrices, rounded, in memory that this thread keeps for them: good until the next call."""
    bits = np.dtype(np.uint16)
    return rounded(a, scratch(0, a.shape, bits)), rounded(b, scratch(1, b.shape, bits))


def arithmetic(a: np.ndarray, b: np.ndarray) -> tuple[Callable, Callable]:
    """(matmul, operand) for the pieces of a product a @ b that a kernel computes in its own threads.

    Where bfloat16 pays for the whole: this module's matmul, and `rounded`, on one thread, which every operand must go
    through, once. Otherwise np.matmul and nothing.
    """
    return (matmul, functools.partial(rounded, split=False)) if pays(a, b) else (np.matmul, lambda x: x)


def rounded(x: np.ndarray, out: np.ndarray | None = None, split: bool = True) -> np.ndarray:
    """The bits of a float32 matrix in bfloat16: to nearest, ties to even, nan stays nan, subnormals become 0.

    (M, N) float32 -> (M, N) uint16, its columns contiguous where those of `x` are, otherwise its rows; over threads
    where `split` (not from within one of them: it would wait for itself).
    With `out`, contiguous uint16 of M * N elements, the result is a view of it.
    """
    x, side, step = _layout(x)
    if side == b"T":
        return rounded(x.T, out, split).T
    out = np.empty(x.shape, np.uint16) if out is None else out.reshape(x.shape)  # (M * N) -> (M, N)
    at_x, at_out, columns = x.ctypes.data, out.ctypes.data, x.shape[1]

    def part(rows: slice) -> None:
        _round(at_x + 4 * rows.start * step, at_out + 2 * rows.start * columns, rows.stop - rows.start, columns, step)

    if x.size and split:
        in_parts(part, len(x), x.size / 8)
    elif x.size:
        part(slice(0, len(x)))
    return out


def matmul(a: np.ndarray, b: np.ndarray, out: np.ndarray) -> np.ndarray:
    """out = a @ b on this thread, as np.matmul: a (M, K) and b (K, N) bits of bfloat16, out (M, N) float32.

    Transposed views cost nothing; what lies in memory otherwise is copied. The rows of `out` must be contiguous.
    """
    (M, K), N = a.shape, b.shape[1]
    fits = b.shape[0] == K and out.shape == (M, N) and out.dtype.char == "f" and a.dtype == b.dtype == np.uint16
    apart = out.size and ((N > 1 and out.strides[1] != 4) or (M > 1 and out.strides[0] < 4 * N))
    if not fits or apart:
        raise ValueError(
            f"onednn.matmul: {a.dtype}{list(a.shape)} @ {b.dtype}{list(b.shape)} into {out.dtype}{list(out.shape)}, "
            f"strides {out.strides}: give uint16 matrices that can be multiplied, and float32 rows for the result"
        )
    if K and M and N:
        (a, side_a, step_a), (b, side_b, step_b), step = _layout(a), _layout(b), max(out.strides[0] // 4, N)
        status = _dnnl().dnnl_gemm_bf16bf16f32(
            side_a, side_b, M, N, K, 1.0, a.ctypes.data, step_a, b.ctypes.data, step_b, 0.0, out.ctypes.data, step
        )
        _check(status)
    else:
        out[...] = 0  # a sum of nothing
    return out


def _layout(x: np.ndarray) -> tuple[np.ndarray, bytes, int]:
    """x as BLAS takes a matrix: itself (or a copy), N for contiguous rows or T for columns, and the step between."""
    (M, N), down, right = x.shape, *(stride // x.itemsize for stride in x.strides)
    if right == 1 and down >= max(N, 1):
        return x, b"N", down
    if down == 1 and right >= max(M, 1):
        return x, b"T", right
    return x.copy(), b"N", max(N, 1)


# ----- the library ------------------------------------------------------------------------------------------------


class _Argument(ctypes.Structure):
    _fields_ = (("which", c_int), ("memory", c_void_p))


@functools.cache
def _dnnl() -> ctypes.CDLL:
    """The library, set to one thread in each of ours. PackageNotFoundError or OSError where it is not to be had."""
    found = [file for file in files(WHEEL) or () if file.name == _LIBRARY]
    if not found:
        raise OSError(f"the package {WHEEL} has no {_LIBRARY}")
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"  # OpenMP reads it once, as it is loaded: the threads are ours
    try:
        library = ctypes.CDLL(str(found[0].locate()))
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before
    library.dnnl_gemm_bf16bf16f32.argtypes = [
        c_char, c_char, c_int64, c_int64, c_int64, c_float, c_void_p, c_int64, c_void_p, c_int64, c_float, c_void_p,
        c_int64,
    ]  # fmt: skip
    return library


def _round(source: int, target: int, rows: int, columns: int, stride: int) -> None:
    """`rows` rows of float32, `stride` elements apart, from one address into bfloat16 without gaps at the other."""
    library, engine, stream = _engine()
    reorder, *descriptions = _reorder(rows, columns, stride, threading.get_ident())
    memory = c_void_p(), c_void_p()
    for each, description, address in zip(memory, descriptions, (source, target), strict=True):
        _check(library.dnnl_memory_create(byref(each), description, engine, c_void_p(address)))
    arguments = (_Argument * 2)(_Argument(_FROM, memory[0]), _Argument(_TO, memory[1]))
    _check(library.dnnl_primitive_execute(reorder, stream, 2, arguments))
    for each in memory:
        library.dnnl_memory_destroy(each)


@functools.cache
def _engine() -> tuple[ctypes.CDLL, c_void_p, c_void_p]:
    library, engine, stream = _dnnl(), c_void_p(), c_void_p()
    _check(library.dnnl_engine_create(byref(engine), _CPU, c_size_t(0)))
    _check(library.dnnl_stream_create(byref(stream), engine, _IN_ORDER))
    return library, engine, stream


@functools.lru_cache(1024)  # oneDNN lets a primitive be used only in the thread that made it
def _reorder(rows: int, columns: int, stride: int, thread: int) -> tuple[c_void_p, c_void_p, c_void_p]:
    """The primitive that rounds such a matrix, and its descriptions of source and target."""
    library, engine, _ = _engine()
    shape, source, target, plan, reorder = (c_int64 * 2)(rows, columns), *(c_void_p() for _ in range(4))
    for description, dtype, row in ((source, _F32, stride), (target, _BF16, columns)):
        strides = (c_int64 * 2)(row, 1)
        _check(library.dnnl_memory_desc_create_with_strides(byref(description), 2, shape, dtype, strides))
    _check(library.dnnl_reorder_primitive_desc_create(byref(plan), source, engine, target, engine, None))
    _check(library.dnnl_primitive_create(byref(reorder), plan))
    library.dnnl_primitive_desc_destroy(plan)
    return reorder, source, target


def _check(status: int) -> None:
    if status:
        raise RuntimeError(f"oneDNN failed with status {status}: go on with float32 (set_matmul_dtype), and report it")
