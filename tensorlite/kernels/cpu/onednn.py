"""Matrix products in bfloat16 on CPUs that have instructions for it: oneDNN's GEMM, called through ctypes.

Only the operands of a product are bfloat16 (float32's range with 8 bits of precision), as in torch's autocast. Sums,
results, weights, gradients and everything else are float32. A product takes about half the time; its error is that of
rounding, 2**-9 for each operand. NumPy has no bfloat16, so an array of it is uint16 with its bits.

The library is the wheel onednn-cpu-gomp (oneDNN 3.2, Linux on x86-64): `pip install 'tensorlite[bf16]'`. Rounding is
oneDNN's documented reorder. dnnl_gemm_bf16bf16f32 is exported but not documented, so this module is optional: off until
`set_matmul_dtype("bfloat16")` is called, and off where the library or the CPU's avx512_bf16 is missing (`missing`
gives the reason).
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

CPU_INFO = Path("/proc/cpuinfo")  # exists on Linux only, as does the wheel
WHEEL, _LIBRARY = "onednn-cpu-gomp", "libdnnl.so.3"
_lock = threading.Lock()
_F32, _BF16, _CPU, _IN_ORDER, _FROM, _TO = 3, 2, 1, 1, 1, 17  # constants of oneDNN's C interface, version 3


# ----- availability -----------------------------------------------------------------------------------------------


def missing() -> str:
    """The reason why products cannot be computed in bfloat16, and the remedy; "" if they can."""
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


def is_worthwhile(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether to compute a (M, K) @ b (K, N) in bfloat16: it is set, both are float32, and it is faster.

    Rounding (M + N) K elements takes as long as multiplying some 30 K (M + N) pairs saves, and the calls take 25 us.
    bfloat16 may be set for a GPU while this CPU cannot compute in it: hence the last condition.
    """
    if matmul_dtype() != "bfloat16" or a.dtype.char != "f" or b.dtype.char != "f":
        return False
    (M, K), N = a.shape, b.shape[1]
    return M * N * K >= 1 << 22 and M * N >= 32 * (M + N) and not missing()


def to_bf16_scratch(slot: int, x: np.ndarray) -> np.ndarray:
    """A float32 matrix as bfloat16, in this thread's memory number `slot`, which the next call with it overwrites."""
    return to_bf16(x, scratch(slot, x.shape, np.dtype(np.uint16)))


def choose_matmul(a: np.ndarray, b: np.ndarray) -> tuple[Callable[..., np.ndarray], Callable[..., np.ndarray]]:
    """(matmul, operand) for a product a @ b that a kernel computes piece by piece in its own threads.

    `operand` converts a piece of a, b or of another operand for `matmul`: to bfloat16 where that is worthwhile for the
    whole product, otherwise not at all (`matmul` is np.matmul then). Convert each operand once.
    """
    return (matmul, functools.partial(to_bf16, split=False)) if is_worthwhile(a, b) else (np.matmul, lambda x: x)


def to_bf16(x: np.ndarray, out: np.ndarray | None = None, split: bool = True) -> np.ndarray:
    """Round float32 (M, N) to the bits of bfloat16, uint16 (M, N): to nearest, ties to even; nan stays nan,
    subnormals become 0.

    The result's columns are contiguous where those of `x` are, otherwise its rows. `out`: contiguous uint16 of M * N
    elements, of which the result is a view. `split`: over threads; False within one, which would wait for itself.
    """
    x, side, step = _layout(x)
    if side == b"T":
        return to_bf16(x.T, out, split).T
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
    """out = a @ b on this thread: a (M, K) and b (K, N) bits of bfloat16 (uint16), out (M, N) float32, returned.

    Transposed views cost nothing; operands with other strides are copied. The rows of `out` must be contiguous:
    ValueError where shapes, dtypes or strides do not fit.
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
    """A matrix as BLAS takes it: x or a copy, N where its rows are contiguous or T where its columns are, and how many
    elements there are from one row (column) to the next.
    """
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
    """The library, limited to one thread in each of ours. PackageNotFoundError or OSError where there is none."""
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
    """Round `rows` rows of float32 at address `source`, `stride` elements apart, to contiguous bfloat16 at `target`."""
    library, engine, stream = _engine()
    reorder, *descriptions = _reorder(rows, columns, stride, threading.get_ident())
    memory = c_void_p(), c_void_p()
    for each, description, address in zip(memory, descriptions, (source, target), strict=True):
        _check(library.dnnl_memory_create(byref(each), description, engine, c_void_p(address)))
    arguments = (_Argument * 2)(_Argument(_FROM, memory[0]), _Argument(_TO, memory[1]))
    _check(library.dnnl_primitive_execute(reorder, stream, 2, arguments))
    for each in memory:
        library.dnnl_memory_destroy(each)


def _engine() -> tuple[ctypes.CDLL, c_void_p, c_void_p]:
    """The library, and one engine and stream for all threads: a primitive works with those of its own engine only."""
    with _lock:  # without it, threads that call at once for the first time would each make an engine
        return _make_engine()


@functools.cache
def _make_engine() -> tuple[ctypes.CDLL, c_void_p, c_void_p]:
    library, engine, stream = _dnnl(), c_void_p(), c_void_p()
    _check(library.dnnl_engine_create(byref(engine), _CPU, c_size_t(0)))
    _check(library.dnnl_stream_create(byref(stream), engine, _IN_ORDER))
    return library, engine, stream


@functools.lru_cache(1024)  # oneDNN lets a primitive be used only in the thread that made it
def _reorder(rows: int, columns: int, stride: int, thread: int) -> tuple[c_void_p, c_void_p, c_void_p]:
    """oneDNN's primitive that rounds such a matrix, and its descriptions of source and target."""
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
