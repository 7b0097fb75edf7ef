"""Checks of the arguments of `backward` and `grad`, and of values assigned to `.grad`."""

from collections.abc import Iterable
from typing import Any

from ..backend import Array, device_of


def check_output(data: Array, requires_grad: bool, gradient: Array | None) -> None:
    """RuntimeError if no backward pass can start here; ValueError for a `gradient` of another shape or dtype."""
    if not requires_grad:
        raise RuntimeError(
            "backward: this Tensor was not computed from one that requires a gradient: "
            "create the inputs with requires_grad=True, and compute it outside no_grad()"
        )
    if gradient is None:
        if data.size != 1:
            raise RuntimeError(f"backward: a gradient is needed for shape {data.shape}: only one element defaults to 1")
    elif gradient.shape != data.shape or gradient.dtype != data.dtype:
        raise ValueError(
            f"backward: the gradient must have the output's shape {data.shape} and dtype {data.dtype}, "
            f"not {gradient.shape} and {gradient.dtype}"
        )


def checked_inputs(output: Any, inputs: Any, variable: type[Any]) -> list[Any]:
    """The inputs of `grad` as a list. TypeError unless they and the output are of the class `variable`; RuntimeError
    for an input that does not require a gradient.
    """
    if not isinstance(inputs, (variable, Iterable)):
        raise TypeError(f"grad: inputs must be a Tensor or a sequence of Tensors, not {type(inputs).__name__}")
    found = [inputs] if isinstance(inputs, variable) else list(inputs)
    for i, x in enumerate(found):
        if not isinstance(x, variable):
            raise TypeError(f"grad: input {i} must be a Tensor, not {type(x).__name__}")
        if not x.requires_grad:
            raise RuntimeError(f"grad: input {i} does not require a gradient: create it with requires_grad=True")
    if not isinstance(output, variable):
        many = ": for several, give their sum" if isinstance(output, (list, tuple)) else ""
        raise TypeError(f"grad: the output must be one Tensor, not {type(output).__name__}{many}")
    return found


def check_assigned(value: Array, data: Array) -> None:
    """ValueError unless `value`, to be assigned to `.grad`, has the shape, dtype and device of the Tensor's `data`."""
    if _kind(value) != _kind(data):
        shape, dtype, device = _kind(data)
        raise ValueError(
            f"grad: assign a Tensor of the same shape {shape}, dtype {dtype} and device {device}, "
            f"not {', '.join(map(str, _kind(value)))}"
        )


def check_sum(piece: Array, total: Array) -> None:
    """ValueError if `.grad` has another shape than the gradient that is to be added to it."""
    if total.shape != piece.shape:
        raise ValueError(
            f"backward: the gradient has shape {piece.shape}, but .grad has {total.shape}: .data was replaced by an "
            "array of another shape; set x.grad = None first"
        )


def _kind(x: Array) -> tuple[Any, ...]:
    return x.shape, x.dtype, device_of(x)
