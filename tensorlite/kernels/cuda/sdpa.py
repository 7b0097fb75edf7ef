"""Attention by cuDNN, forward and backward, without its scores in memory ("scaled dot product attention").

cuDNN gets a graph, which describes the op on tensors by their shapes and strides and is built once for each kind of
call; a call passes pointers. So queries, keys and values are read where they are, whichever of the axes of heads and
positions comes first in memory, and results get the same layout: joining heads is a view. The backward is the
deterministic one: the same bits in every run, for 2 bytes of workspace for each score.

It takes bfloat16, without mask or dropout, with heads of a multiple of 8 channels, at most 128; `why_not` names any
further obstacle. Building a graph takes a part of a second, so shapes that change with each call should be computed in
another way.
"""

import functools
import importlib
import threading
from typing import Any, NamedTuple

import numpy as np

from ...backend import Array, float32, xp
from .launch import address, first_line, why_unusable

DETERMINISTIC = True
WIDEST = 128  # channels of a head
_lock = threading.Lock()  # a handle has one stream at a time
_handles: dict[int, Any] = {}  # device -> cuDNN's handle
_graphs: dict[tuple[Any, ...], "_Graph | str"] = {}  # what was built, or why it could not be


@functools.cache
def missing() -> str:
    """The reason why cuDNN cannot be used, and the remedy; "" if it can."""
    return why_unusable("cudnn", "backend_version", "nvidia-cudnn-frontend", "cuDNN", "nvidia-cudnn-cu13")


def why_not(q: Array, k: Array, v: Array, *, is_causal: bool, scale: float) -> str:
    """The reason why cuDNN does not support the forward of q (B, H, T, D) over k, v (B, H, S, D); "" if it does."""
    if any(x.dtype.name != "bfloat16" for x in (q, k, v)):
        return "cuDNN's attention is for bfloat16"
    if q.ndim != 4 or q.shape[:2] != k.shape[:2] or k.shape[:-1] != v.shape[:-1] or q.shape[-1] != k.shape[-1]:
        return f"queries {q.shape}, keys {k.shape} and values {v.shape} are not (B, H, T, D) and twice (B, H, S, D)"
    if any(D % 8 or D > WIDEST for D in (q.shape[-1], v.shape[-1])) or 0 in q.shape or 0 in v.shape:
        return f"heads must have a multiple of 8 channels, at most {WIDEST}, not {q.shape[-1]} and {v.shape[-1]}"
    if is_causal and q.shape[-2] > k.shape[-2]:
        return "some queries see no key"
    if xp(q) is np:
        return "NumPy's arrays are not on a GPU"
    if missing():
        return missing()
    if not all(map(is_readable, (q, k, v))):
        return "rows of 16 bytes are wanted, at multiples of 16 bytes"
    built = _graph(xp(q), "forward", (q, k, v), is_causal, scale)
    return built if isinstance(built, str) else ""


def why_not_backward(
    g: Array, q: Array, k: Array, v: Array, out: Array, into: tuple[Array, ...], *, is_causal: bool, scale: float
) -> str:
    """The same for the backward of what cuDNN computed forward, with results laid out as the arrays `into`."""
    built = _graph(xp(q), "backward", (q, k, v, out, _readable(g), *into), is_causal, scale)
    return built if isinstance(built, str) else ""


def declined() -> list[str]:
    """The graphs that cuDNN has declined to build so far, a sentence each."""
    return sorted({reason for reason in _graphs.values() if isinstance(reason, str)})


def forward(q: Array, k: Array, v: Array, *, is_causal: bool, scale: float) -> tuple[Array, Array]:
    """softmax(scale q k^T) v, (B, H, T, D) laid out as q, and stats = log(sum(exp(scores))), float32 (B, H, T, 1).

    `why_not` must have returned "" for the same arguments (RuntimeError otherwise).
    """
    library = xp(q)
    graph = _graph(library, "forward", (q, k, v), is_causal, scale)
    out, stats = empty_in_layout_of(q, v.shape[-1]), library.empty((*q.shape[:-1], 1), float32)
    _execute(library, graph, (q, k, v, out, stats))
    return out, stats


def backward(
    g: Array, q: Array, k: Array, v: Array, out: Array, stats: Array, into: tuple[Array, ...],
    *, is_causal: bool, scale: float,
) -> None:  # fmt: skip
    """Write dq, dk and dv into the three arrays `into`; `out` and `stats` are `forward`'s results, g has the shape of
    out. `why_not_backward` must have returned "" for the same arguments.
    """
    library, g = xp(q), _readable(g)
    graph = _graph(library, "backward", (q, k, v, out, g, *into), is_causal, scale)
    _execute(library, graph, (q, k, v, out, stats, g, *into))


def empty_like(*arrays: Array) -> tuple[Array, ...]:
    """New arrays with the shapes and layouts of these, for `backward` to write into."""
    return tuple([empty_in_layout_of(x, x.shape[-1]) for x in arrays])


# ----- memory layouts ---------------------------------------------------------------------------------------------


class Geometry(NamedTuple):
    """The description of an array in cuDNN's graph: its shape, and its strides in elements."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]


def empty_in_layout_of(x: Array, D: int) -> Array:
    """A new array (B, H, T, D) whose axes lie in memory as those of x, so that split heads are joined as a view."""
    B, H, T, _ = x.shape
    if x.strides[1] < x.strides[2]:
        return xp(x).empty((B, T, H, D), x.dtype).swapaxes(1, 2)  # (B, T, H, D) -> (B, H, T, D)
    return xp(x).empty((B, H, T, D), x.dtype)


def geometry(shape: tuple[int, ...], strides: tuple[int, ...], itemsize: int) -> Geometry:
    """That of an array with strides in bytes. An axis of length 1 may have any stride; it gets a regular one."""
    steps = [s // itemsize for s in strides]
    whole = max(n * s for n, s in zip(shape, steps, strict=True))
    regular = [whole if n == 1 else s for n, s in zip(shape[:-1], steps[:-1], strict=True)]
    return Geometry(shape, (*regular, 1))


def is_readable(x: Array) -> bool:
    """Whether cuDNN can read it: channels contiguous, all other strides positive multiples of 16 bytes, aligned."""
    *steps, last = x.strides
    if last != x.itemsize or any(n > 1 and (s <= 0 or s % 16) for n, s in zip(x.shape, steps, strict=False)):
        return False
    return address(x) % 16 == 0


def _readable(g: Array) -> Array:
    return g if is_readable(g) else xp(g).ascontiguousarray(g)


# ----- cuDNN ------------------------------------------------------------------------------------------------------


class _Graph(NamedTuple):
    graph: Any
    workspace: int  # bytes


def _graph(library: Any, kind: str, arrays: tuple[Array, ...], is_causal: bool, scale: float) -> "_Graph | str":
    """The graph for arrays of these layouts, or why there is none.

    It is built when it is first asked for, which must not happen while a CUDA graph is recorded: run the step once
    before recording it.
    """
    device = library.cuda.runtime.getDevice()
    key = (device, kind, *[(x.shape, x.strides) for x in arrays], is_causal, scale, DETERMINISTIC)
    built = _graphs.get(key)
    if built is None:
        cudnn = importlib.import_module("cudnn")
        parts = [geometry(x.shape, x.strides, x.itemsize) for x in arrays]
        with _lock:
            try:
                graph = (describe_forward if kind == "forward" else describe_backward)(
                    parts, is_causal, scale, handle=_handle(cudnn, device)
                )
                graph.build([cudnn.heur_mode.A, cudnn.heur_mode.FALLBACK])
                built = _Graph(graph, graph.get_workspace_size())
            except (cudnn.cudnnGraphNotSupportedError, RuntimeError) as error:
                built = f"cuDNN declined the {kind} of {parts[0].shape} over {parts[1].shape}: {first_line(error)}"
        _graphs[key] = built
    return built


def _handle(cudnn: Any, device: int) -> Any:
    if device not in _handles:
        _handles[device] = cudnn.create_handle()
    return _handles[device]


def describe_forward(parts: list[Geometry], is_causal: bool, scale: float, **options: Any) -> Any:
    """cuDNN's graph of `forward` for the geometries of q, k, v. Tensors are numbered as `forward` passes its arrays."""
    cudnn, graph, types = _new(options)
    q, k, v = (_tensor(graph, x, types[0], uid) for uid, x in enumerate(parts, start=1))
    out, stats = graph.sdpa(
        q=q, k=k, v=v, attn_scale=scale, generate_stats=True, **_mask(cudnn, parts[0], parts[1], is_causal)
    )
    _result(out, _result_like(parts[0], parts[2].shape[-1]), types[0], 4)
    _result(stats, _stats(parts[0]), types[1], 5)
    return graph


def describe_backward(parts: list[Geometry], is_causal: bool, scale: float, **options: Any) -> Any:
    """cuDNN's graph of `backward` for the geometries of q, k, v, out, g and the three results."""
    cudnn, graph, types = _new(options)
    q, k, v, out = (_tensor(graph, x, types[0], uid) for uid, x in enumerate(parts[:4], start=1))
    stats, g = _tensor(graph, _stats(parts[0]), types[1], 5), _tensor(graph, parts[4], types[0], 6)
    gradients = graph.sdpa_backward(
        q=q, k=k, v=v, o=out, dO=g, stats=stats, attn_scale=scale, use_deterministic_algorithm=DETERMINISTIC,
        **_mask(cudnn, parts[0], parts[1], is_causal),
    )  # fmt: skip
    for uid, gradient, x in zip((7, 8, 9), gradients, parts[5:], strict=True):
        _result(gradient, x, types[0], uid)
    return graph


def _new(options: dict[str, Any]) -> tuple[Any, Any, tuple[Any, Any]]:
    cudnn = importlib.import_module("cudnn")
    types = cudnn.data_type.BFLOAT16, cudnn.data_type.FLOAT
    graph = cudnn.pygraph(io_data_type=types[0], intermediate_data_type=types[1], compute_data_type=types[1], **options)
    return cudnn, graph, types


def _mask(cudnn: Any, q: Geometry, k: Geometry, is_causal: bool) -> dict[str, Any]:
    """The causal mask: query t, the t-th of the last T of S positions, sees none after its own. One query sees all."""
    T, S = q.shape[2], k.shape[2]
    if not is_causal or T == 1:
        return {}
    corner = cudnn.diagonal_alignment.TOP_LEFT if T == S else cudnn.diagonal_alignment.BOTTOM_RIGHT
    return {"diagonal_alignment": corner, "diagonal_band_right_bound": 0}


def _result_like(x: Geometry, D: int) -> Geometry:
    """The geometry of what `empty_in_layout_of` makes of an array with geometry x."""
    B, H, T, _ = x.shape
    if x.strides[1] < x.strides[2]:
        return Geometry((B, H, T, D), (T * H * D, D, H * D, 1))
    return Geometry((B, H, T, D), (H * T * D, T * D, D, 1))


def _stats(q: Geometry) -> Geometry:
    """The geometry of `stats`, (B, H, T, 1)."""
    B, H, T, _ = q.shape
    return Geometry((B, H, T, 1), (H * T, T, 1, 1))


def _tensor(graph: Any, x: Geometry, dtype: Any, uid: int) -> Any:
    return graph.tensor(dim=list(x.shape), stride=list(x.strides), data_type=dtype, uid=uid, name=f"tensor {uid}")


def _result(tensor: Any, x: Geometry, dtype: Any, uid: int) -> None:
    tensor.set_output(True).set_dim(list(x.shape)).set_stride(list(x.strides)).set_data_type(dtype).set_uid(uid)


def _execute(library: Any, graph: "_Graph | str", arrays: tuple[Array, ...]) -> None:
    """Run the graph on CuPy's current stream; `arrays` are in the order of its tensors' numbers."""
    if isinstance(graph, str):
        raise RuntimeError(f"{graph}: ask why_not() first")
    cudnn = importlib.import_module("cudnn")
    workspace = library.empty(max(1, graph.workspace), np.uint8)
    pointers = {uid: int(x.data.ptr) for uid, x in enumerate(arrays, start=1)}
    with _lock:
        handle = _handle(cudnn, library.cuda.runtime.getDevice())
        cudnn.set_stream(handle, int(library.cuda.get_current_stream().ptr))
        graph.graph.execute(pointers, workspace=int(workspace.data.ptr), handle=handle)
