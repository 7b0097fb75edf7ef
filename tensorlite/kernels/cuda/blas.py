"""Matrix products on the GPU: cublasLt through nvmath-python, with a plan for each kind of product.

A plan is made once for each combination of shapes, strides, dtypes and bias: cublasLt's descriptions of the matrices,
and the algorithm that it chose for them. A call with a plan only passes pointers, on CuPy's current stream, so a CUDA
graph can record it. cublasLt knows column-major matrices only, and a row-major C = A B is the column-major C^T = B^T
A^T: the operands change places, transposed ones become plain ones, and the bias runs down the columns of the result, as
cublasLt expects it.

Operands are float32 or bfloat16; sums are float32, under "tf32" of products of operands with 10 bits of fraction. Where
nvmath or cublasLt is missing, `missing()` gives the reason and CuPy's own products are used: with the same results, but
slower, and not in a CUDA graph.
"""

import functools
import importlib
import math
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ...backend import Array, float32, xp
from ..precision import matmul_dtype
from .launch import why_unusable

CUBLASLT = "nvmath.bindings.cublasLt"
WORKSPACE = 32 << 20  # bytes that an algorithm may use: what NVIDIA advises on Hopper
MAX_PLANS = 4096  # of a device; when there are more, all are made again
COMPUTE_32F, COMPUTE_32F_FAST_TF32 = 68, 77  # cublasComputeType_t; nvmath's own ComputeType counts otherwise
TYPES = {"float32": 0, "bfloat16": 14}  # cudaDataType_t
NOT_INITIALIZED, ALLOC_FAILED, INVALID_VALUE, NOT_SUPPORTED = 1, 3, 7, 15  # of cublasStatus_t
_ZERO_ONE = np.array([0, 1], float32)  # beta, and alpha where it is 1, as cublasLt reads them from the host
_lock = threading.Lock()  # a plan holds the bias' pointer between two calls of cublasLt
_devices: dict[int, "_Device"] = {}


@functools.cache
def missing() -> str:
    """The reason why cublasLt cannot be used, and the remedy; "" if it can."""
    return why_unusable(CUBLASLT, "get_version", "nvmath-python", "cublasLt", "'tensorlite[cuda]'")


def version() -> int:
    """cublasLt's version number, where it can be used."""
    return int(importlib.import_module(CUBLASLT).get_version())


# ----- the product ------------------------------------------------------------------------------------------------


def matmul(
    a: Array,
    b: Array,
    *,
    out_dtype: Any = None,
    bias: Array | None = None,
    out: Array | None = None,
    alpha: Array | None = None,
    accumulate: bool = False,
) -> Array:
    """alpha a @ b + bias, and + out where `accumulate`: a (..., M, K), b (..., K, N) with equal leading axes.

    `out` (..., M, N) is written to and returned; it is row-major, with or without gaps between rows. Its dtype, or
    `out_dtype`, is that of the operands (the default), float32 or bfloat16. bias (N), in the dtype of the result.
    alpha: one float32 on the device, None for 1. The sum is rounded once, at the end (for some odd shapes in bfloat16
    before the bias too, as measured on an H200). A transposed operand costs nothing; one in which no axis has unit
    stride is copied. TypeError for other dtypes, ValueError for shapes or layouts that do not fit, RuntimeError where
    cublasLt refuses the product or fails.
    """
    library, shape = xp(a), _result_shape(a, b, bias, alpha)
    dtype = out.dtype if out is not None else np.dtype(a.dtype if out_dtype is None else out_dtype)
    if dtype.name not in TYPES:
        raise TypeError(f"matmul: the result must be float32 or bfloat16, not {dtype.name}")
    if bias is not None and bias.dtype != dtype:
        raise TypeError(f"matmul: the bias must have the dtype of the result, {dtype.name}, not {bias.dtype.name}")
    if out is None:
        if accumulate:
            raise ValueError("matmul: accumulate adds to `out`, and none was given")
        out = library.empty(shape, dtype)
    elif out.shape != shape or (out.size and not _is_result(layout(out.shape, out.strides, out.itemsize))):
        raise ValueError(
            f"matmul: out must be a row-major {shape}, not {out.shape} with strides {out.strides} in bytes"
        )
    if out.size == 0:
        return out
    if a.shape[-1] == 0:
        return _empty_sum(out, bias, accumulate)
    if library is np or missing():
        return _by_library(library, a, b, out, bias, alpha, accumulate)
    if dtype != a.dtype and dtype != float32:  # cublasLt gives no bfloat16 for float32 operands
        bias = None if bias is None else bias.astype(float32)
        product = _by_cublas(library, a, b, library.empty(shape, float32), bias, alpha, False)
        out[...] = product + out if accumulate else product
        return out
    return _by_cublas(library, a, b, out, bias, alpha, accumulate)


def _result_shape(a: Array, b: Array, bias: Array | None, alpha: Array | None) -> tuple[int, ...]:
    """The shape of the product. TypeError or ValueError where the arguments do not fit."""
    if a.dtype != b.dtype or a.dtype.name not in TYPES:
        raise TypeError(
            f"matmul: both operands must be float32 or both bfloat16, not {a.dtype.name} and {b.dtype.name}"
        )
    if a.ndim < 2 or a.shape[:-2] != b.shape[:-2] or a.shape[-1] != b.shape[-2]:
        raise ValueError(f"matmul: (..., M, K) @ (..., K, N) with equal leading axes, not {a.shape} @ {b.shape}")
    if bias is not None and bias.shape != b.shape[-1:]:
        raise ValueError(f"matmul: the bias must have shape {b.shape[-1:]}, not {bias.shape}")
    if alpha is not None and (alpha.size != 1 or alpha.dtype != float32):
        raise ValueError(f"matmul: alpha must be one float32, not {alpha.dtype.name} of shape {alpha.shape}")
    return (*a.shape[:-1], b.shape[-1])


def _empty_sum(out: Array, bias: Array | None, accumulate: bool) -> Array:
    """The product for K = 0."""
    if not accumulate:
        out.fill(0)
    if bias is not None:
        out += bias
    return out


def _by_library(
    library: Any, a: Array, b: Array, out: Array, bias: Array | None, alpha: Array | None, accumulate: bool
) -> Array:
    """The product by the array library: for NumPy's arrays, and where cublasLt is missing."""
    if library is np or a.ndim > 2 or out.dtype != a.dtype:  # CuPy multiplies bfloat16 in two dimensions only
        a, b = a.astype(float32, copy=False), b.astype(float32, copy=False)
    product = library.matmul(a, b)
    if alpha is not None:
        product = product * alpha.reshape(())  # one element -> ()
    if bias is not None:
        product = product + bias
    out[...] = product + out if accumulate else product
    return out


# ----- memory layouts ---------------------------------------------------------------------------------------------


class Layout(NamedTuple):
    """A stack of row-major matrices X described as cublasLt does: column-major, `rows` by `columns` each."""

    is_transposed: bool  # the column-major matrix in memory is X, and X^T is needed; otherwise it is X^T
    rows: int
    columns: int
    leading: int  # elements from one column to the next
    batches: int
    step: int  # elements from one matrix to the next


@functools.lru_cache(1 << 14)
def layout(shape: tuple[int, ...], strides: tuple[int, ...], itemsize: int) -> Layout | None:
    """The layout of an array (..., R, C) with strides in bytes; None where cublasLt has none, and it must be copied.

    One of the last two axes must have unit stride, and it must be possible to join the leading axes as a view.
    """
    if any(s % itemsize or s < 0 for s in strides):
        return None
    *lead, down, along = [s // itemsize for s in strides]
    R, C = shape[-2:]
    step, span = 0, -1
    for n, s in zip(reversed(shape[:-2]), reversed(lead), strict=True):
        if n == 1:
            continue
        if span not in (-1, s):
            return None
        step, span = s if span == -1 else step, s * n
    batches = math.prod(shape[:-2])
    if (along == 1 or C == 1) and (down >= C or R == 1):
        return Layout(False, C, R, down if R > 1 else C, batches, step)
    if (down == 1 or R == 1) and along >= R:
        return Layout(True, R, C, along, batches, step)
    return None


def _is_result(out: Layout | None) -> bool:
    """Whether a product can be written there: row-major, matrices that do not overlap."""
    return out is not None and not out.is_transposed and (out.batches <= 1 or out.step >= out.leading * out.columns)


# ----- cublasLt ---------------------------------------------------------------------------------------------------


class NoAlgorithm(Exception):
    """cublasLt has none for a kind of product, without an error."""


class _Plan:
    """cublasLt's descriptions for one kind of product, and the algorithm that it chose."""

    def __init__(
        self, lt: Any, handle: int, a: Layout, b: Layout, out: Layout, types: tuple[int, int], compute: int,
        by_device: bool, bias: int, alignments: tuple[int, int, int],
    ):  # fmt: skip
        self.lt, (operand, result) = lt, types
        desc = self.description = lt.matmul_desc_create(compute, TYPES["float32"])
        of = lt.MatmulDescAttribute
        self._set(lt.matmul_desc_set_attribute, lt.get_matmul_desc_attribute_dtype, desc, {
            of.TRANSA: int(b.is_transposed),
            of.TRANSB: int(a.is_transposed),
            of.POINTER_MODE: int(lt.PointerMode.DEVICE if by_device else lt.PointerMode.HOST),
            of.EPILOGUE: int(lt.Epilogue.BIAS if bias else lt.Epilogue.DEFAULT),
        })  # fmt: skip
        self.bias = np.array([bias], np.int64)  # cublasLt reads the attribute through a pointer
        if bias:
            self.point_bias(bias)  # the choice of the algorithm depends on its alignment
        self.matrices: list[Any] = []
        self.algorithm = lt.MatmulHeuristicResult(1)  # must live as long as the plan: calls point into it
        try:
            for x, t in ((b, operand), (a, operand), (out, result)):
                self.matrices.append(self._matrix(x, t))
            self._choose(handle, alignments)
        except BaseException:
            self.destroy()
            raise

    def _set(
        self, setter: Callable[..., Any], dtype_of: Callable[[Any], Any], target: int, values: dict[Any, int]
    ) -> None:
        """Set attributes of cublasLt's object `target`."""
        for attribute, value in values.items():
            memory = np.array([value], dtype_of(attribute))
            setter(target, attribute, memory.ctypes.data, memory.itemsize)

    def _matrix(self, x: Layout, type_: int) -> Any:
        """cublasLt's description of a matrix, or of a stack of them."""
        lt, of = self.lt, self.lt.MatrixLayoutAttribute
        matrix = lt.matrix_layout_create(type_, x.rows, x.columns, x.leading)
        if x.batches > 1:
            values = {of.BATCH_COUNT: x.batches, of.STRIDED_BATCH_OFFSET: x.step}
            self._set(lt.matrix_layout_set_attribute, lt.get_matrix_layout_attribute_dtype, matrix, values)
        return matrix

    def _choose(self, handle: int, alignments: tuple[int, int, int]) -> None:
        """Ask cublasLt's heuristic for an algorithm. NoAlgorithm where it has none."""
        lt, of, count = self.lt, self.lt.MatmulPreferenceAttribute, np.zeros(1, np.int32)
        at_a, at_b, at_out = alignments
        preference = lt.matmul_preference_create()
        self._set(lt.matmul_preference_set_attribute, lt.get_matmul_preference_attribute_dtype, preference, {
            of.MAX_WORKSPACE_BYTES: WORKSPACE,
            of.MIN_ALIGNMENT_A_BYTES: at_b,
            of.MIN_ALIGNMENT_B_BYTES: at_a,
            of.MIN_ALIGNMENT_C_BYTES: at_out,
            of.MIN_ALIGNMENT_D_BYTES: at_out,
        })  # fmt: skip
        first, second, result = self.matrices
        try:
            lt.matmul_algo_get_heuristic(
                handle, self.description, first, second, result, result, preference, 1, self.algorithm.ptr,
                count.ctypes.data,
            )  # fmt: skip
        finally:
            lt.matmul_preference_destroy(preference)
        if count[0] == 0:
            raise NoAlgorithm("no algorithm")

    def point_bias(self, pointer: int) -> None:
        """Set the address of the bias, which is part of the plan and not of a call."""
        self.bias[0] = pointer
        attribute = self.lt.MatmulDescAttribute.BIAS_POINTER
        self.lt.matmul_desc_set_attribute(self.description, attribute, self.bias.ctypes.data, 8)

    def destroy(self) -> None:
        """Free what cublasLt holds for the plan."""
        self.lt.matmul_desc_destroy(self.description)
        for matrix in self.matrices:
            self.lt.matrix_layout_destroy(matrix)


class _Device:
    """State shared by the products of one GPU: cublasLt's handle, the plans, a workspace for each stream.

    It and the workspace of a stream must exist before a CUDA graph is recorded: run the step once on the same stream.
    """

    def __init__(self, library: Any):
        self.lt = importlib.import_module(CUBLASLT)
        self.handle = self.lt.create()
        self.beta = library.asarray(_ZERO_ONE)  # on the device, for an alpha that is there
        self.plans: dict[tuple[Any, ...], _Plan] = {}
        self.workspaces: dict[int, Array] = {}  # stream -> memory: two streams may multiply at once

    def plan(self, key: tuple[Any, ...]) -> _Plan:
        """Make and keep the plan for `key`, the last eight arguments of `_Plan`."""
        if len(self.plans) >= MAX_PLANS:
            for plan in self.plans.values():
                plan.destroy()
            self.plans.clear()
        plan = self.plans[key] = _Plan(self.lt, self.handle, *key)
        return plan


def _by_cublas(
    library: Any, a: Array, b: Array, out: Array, bias: Array | None, alpha: Array | None, accumulate: bool
) -> Array:
    """The product by cublasLt on CuPy's current stream."""
    at, bt = layout(a.shape, a.strides, a.itemsize), layout(b.shape, b.strides, b.itemsize)
    if at is None:
        a = library.ascontiguousarray(a)
        at = layout(a.shape, a.strides, a.itemsize)
    if bt is None:
        b = library.ascontiguousarray(b)
        bt = layout(b.shape, b.strides, b.itemsize)
    if bias is not None and not bias.flags.c_contiguous:
        bias = library.ascontiguousarray(bias)
    types = TYPES[a.dtype.name], TYPES[out.dtype.name]
    tf32 = types[0] == TYPES["float32"] and matmul_dtype() == "tf32"
    a_ptr, b_ptr, out_ptr = a.data.ptr, b.data.ptr, out.data.ptr
    bias_ptr = 0 if bias is None else bias.data.ptr
    key = (
        at, bt, layout(out.shape, out.strides, out.itemsize), types, COMPUTE_32F_FAST_TF32 if tf32 else COMPUTE_32F,
        alpha is not None, bias_ptr and _aligned(bias_ptr), (_aligned(a_ptr), _aligned(b_ptr), _aligned(out_ptr)),
    )  # fmt: skip
    current, stream = library.cuda.runtime.getDevice(), library.cuda.get_current_stream().ptr
    try:
        with _lock:
            device = _devices.get(current)
            if device is None:
                device = _devices[current] = _Device(library)
            plan = device.plans.get(key) or device.plan(key)
            workspace = device.workspaces.get(stream)
            if workspace is None:
                workspace = device.workspaces[stream] = library.empty(WORKSPACE, np.uint8)
            if bias_ptr:
                plan.point_bias(bias_ptr)
            # cublasLt reads alpha and beta either both from the device or both from the host
            alpha_ptr = _ZERO_ONE.ctypes.data + 4 if alpha is None else alpha.data.ptr
            beta_ptr = (_ZERO_ONE.ctypes.data if alpha is None else device.beta.data.ptr) + 4 * accumulate
            first, second, result = plan.matrices
            device.lt.matmul(
                device.handle, plan.description, alpha_ptr, b_ptr, first, a_ptr, second, beta_ptr, out_ptr, result,
                out_ptr, result, plan.algorithm.ptr, workspace.data.ptr, WORKSPACE, stream,
            )  # fmt: skip
    except Exception as error:
        if not isinstance(error, (NoAlgorithm, getattr(importlib.import_module(CUBLASLT), "cuBLASLtError", ()))):
            raise
        raise RuntimeError(_refusal(error, a, b, out, bias)) from None
    return out


def _refusal(error: Exception, a: Array, b: Array, out: Array, bias: Array | None) -> str:
    """A sentence for a product that cublasLt has refused, or failed at: which, why, and what to do."""
    status = getattr(error, "status", NOT_SUPPORTED)
    if status in (NOT_INITIALIZED, ALLOC_FAILED):
        advice = "the GPU's memory may be full: use a smaller batch, or end other programs on the GPU"
    elif status in (INVALID_VALUE, NOT_SUPPORTED):
        advice = "other sizes or another dtype may work, and without nvmath-python CuPy computes the products"
    else:
        advice = "an earlier error of the GPU may be the cause: start the program again, and report it if it comes back"
    dtypes = a.dtype.name if out.dtype == a.dtype else f"{a.dtype.name}, in {out.dtype.name}"
    what = f"{a.shape} @ {b.shape} of {dtypes}{'' if bias is None else ', with a bias'}"
    return f"cublasLt refused the product {what}: {str(error).partition('.')[0]}: {advice}"


def _aligned(pointer: int) -> int:
    """The largest power of two, at most 256, of which the address is a multiple."""
    return (pointer | 256) & -(pointer | 256)
