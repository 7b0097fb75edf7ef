"""The property of an op that another device gives the same values, and that the host never waits for one."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from hypothesis import reject

from .. import backend, formulas, functional
from ..autograd import grad
from ..creation import full_like
from ..tensor import Tensor
from .properties import require, require_equal
from .rows import Row, arrays_of
from .strategies import smooth
from .strict import strict


def device(row: Row, data: Any, seed: int) -> None:
    """On another device: the same values and derivatives to order 2, and the host never waits for a value."""
    with strict_device():
        on_device(row, data, "strict", np.float64)


@contextmanager
def strict_device() -> Iterator[None]:
    """The device "strict" exists, with the CPU's random masks: NumPy arrays that refuse to be read by accident."""
    devices, mask = dict(backend.DEVICES), functional.keep_mask
    backend.DEVICES["strict"] = lambda: strict
    functional.keep_mask = formulas.keep_mask
    try:
        yield
    finally:
        backend.DEVICES.clear()
        backend.DEVICES.update(devices)
        functional.keep_mask = mask


def on_device(row: Row, data: Any, name: str, dtype: Any) -> None:
    """Values, gradients and derivatives of them on the device `name` beside those on the CPU, in `dtype`."""
    shapes, meta = data.draw(arrays_of(row))
    xs = data.draw(smooth(*shapes, **row.domain))
    if _needs_values(meta.get("index")):
        reject()
    waits = strict.waits
    far = _derivatives(row, *_moved((xs, meta), name, dtype))
    require(row, strict.waits == waits, f"the host waited {strict.waits - waits} times for a value of the device")
    near = _derivatives(row, *_moved((xs, meta), "cpu", dtype))
    tolerance = 1e-9 if dtype is np.float64 else 2e-4
    for x, y in zip(far, near, strict=True):
        require(row, x.device.partition(":")[0] == name, f"a result is on {x.device}, not on {name}")
        require(row, x.dtype == y.dtype, f"a result is {x.dtype} on {name} and {y.dtype} on the CPU")
        require_equal(row, f"result on {name}", x.numpy(), y.numpy(), rtol=tolerance, atol=tolerance)


def _derivatives(row: Row, xs: Any, meta: dict[str, Any]) -> list[Any]:
    tensors = [Tensor(x, requires_grad=True) for x in xs]
    out = row.op(*tensors, **meta)
    if row.gradient is None:
        return [out]
    g = full_like(out.detach(), 2.0)
    gradients = grad(out, tensors, g, retain_graph=True)
    recorded = grad(out, tensors, g, create_graph=True)
    along: Any = sum((p * p).sum() for p in recorded)
    second = grad(along, tensors, retain_graph=True) if along.requires_grad else []
    out.backward(g)
    return [out, *gradients, *recorded, *second, *[x.grad for x in tensors]]


def _moved(x: Any, name: str, dtype: Any) -> Any:
    """Arrays on a device, in tuples and dicts too; floating ones as `dtype`."""
    if isinstance(x, np.ndarray):
        return backend.to_device(x.astype(dtype) if x.dtype.kind == "f" else x, name)
    if isinstance(x, dict):
        return {key: _moved(part, name, dtype) for key, part in x.items()}
    return tuple([_moved(part, name, dtype) for part in x]) if isinstance(x, tuple) else x


def _needs_values(index: Any) -> bool:
    """A boolean index, whose result has a shape that the values decide: no library can do that without a wait."""
    parts = index if isinstance(index, tuple) else (index,)
    return any(isinstance(part, np.ndarray | list) and np.asarray(part).dtype == bool for part in parts)
