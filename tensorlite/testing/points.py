"""The point at which a function is checked: its inputs in float64, its values, and its gradients from the rules."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..autograd import Variable, grad
from ..backend import is_array, is_floating, ndarray, to_host
from ..creation import tensor
from ..ops import concatenate, reshape
from ..primitive import identity
from ..tensor import Tensor
from .memory import laid_out

Function = Callable[..., Any]
INCOMING = "the incoming gradient"  # the name of what the gradients are linear in


@dataclass(frozen=True)
class Point:
    """A function of Tensors, and its inputs: `values`, of which the floating Tensors are differentiated."""

    name: str  # of the function
    op: Function
    values: list[Any]
    names: list[str]  # of the values, as messages have them

    @property
    def differentiable(self) -> list[int]:
        return [i for i, x in enumerate(self.values) if differentiable(x)]

    @property
    def device(self) -> str:
        return self.values[self.differentiable[0]].device

    def position(self, key: Any, what: str) -> int:
        """The position of the value that a dict of tolerances calls `key`. ValueError where there is none."""
        known = [short_name(name) for name in self.names]
        if isinstance(key, int) and 0 <= key < len(known):
            return key
        if key not in known:
            raise ValueError(f"check_gradients: {what} is for {key!r}, but the inputs are {', '.join(known)}")
        return known.index(key)

    def leaves(self, values: list[Any] | None = None) -> list[Any]:
        """The values as new Tensors that require a gradient and share the memory of `values`."""
        values = self.values if values is None else values
        return [Tensor(x.data, requires_grad=True) if differentiable(x) else x for x in values]

    def out(self, values: list[Any]) -> Tensor:
        """TypeError unless the result is one Tensor of float64."""
        out = self.op(*values)
        if not isinstance(out, Tensor):
            raise TypeError(f"check_gradients: {self.name}: the op must return one Tensor, not {type(out).__name__}")
        if out.dtype != np.float64:
            raise TypeError(
                f"check_gradients: {self.name}: the op made {out.dtype} of float64: only float64 is precise enough"
            )
        return out

    def moved(self, i: int, x: np.ndarray) -> np.ndarray:
        """The value of the function where value `i` is `x`."""
        there = Tensor(x) if type(x) is ndarray and type(self.values[i].data) is ndarray else None
        if there is None:
            there = tensor(x, device=self.values[i].device)
        return np.array(to_host(self.out([*self.values[:i], there, *self.values[i + 1 :]]).data))

    def sizes(self) -> np.ndarray:
        """The largest |value| of each output at t times the floating inputs, for t of 1 to 1/8, where it is finite."""
        inputs = [i for i in self.differentiable if self.names[i] != INCOMING]
        largest = np.zeros(())
        for t in (1.0, 0.5, 0.25, 0.125):
            there = [Tensor(x.data * t) if i in inputs else x for i, x in enumerate(self.values)]
            try:
                found = np.abs(to_host(self.out(there).data))
            except ValueError:  # the op does not take them
                continue
            largest = np.maximum(largest, np.where(np.isfinite(found), found, 0.0))
        return largest

    def imaginary(self, i: int, x: np.ndarray) -> np.ndarray:
        """The imaginary part of the function of arrays where value `i` is the complex array `x`."""
        arrays = [value.data if isinstance(value, Variable) else value for value in self.values]
        try:
            out = self.op(*arrays[:i], x, *arrays[i + 1 :])
        except (TypeError, ValueError) as error:
            reason = str(error).partition("\n")[0]
            raise ValueError(
                f"check_gradients: {self.name}: no complex step, because the op refuses complex arrays: {reason}"
            ) from error
        return np.imag(out)

    def gradients(self, g: Any, values: list[Any] | None = None) -> dict[int, np.ndarray]:
        """The gradient of sum(g op(values)) from the rules, for each floating value, as {position: gradient}."""
        leaves = self.leaves(values)
        return pulled(leaves, self.op(*leaves), g)

    def slope(self, g: Tensor) -> "Point":
        """The function to check for the next order: (*values, g) -> the gradients of sum(g op(*values)), in a row."""
        return Point(self.name, _slope(self.op), [*self.values, g], [*self.names, INCOMING])


def name_of(op: Function) -> str:
    """What messages call it."""
    return getattr(op, "__name__", None) or getattr(op, "name", None) or type(op).__name__


def differentiable(x: Any) -> bool:
    return isinstance(x, Variable) and is_floating(x.data.dtype)


def pulled(leaves: list[Any], out: Any, g: Any, retain_graph: bool = False) -> dict[int, np.ndarray]:
    by = {i: x for i, x in enumerate(leaves) if differentiable(x)}
    if not out.requires_grad:  # a constant, according to the graph
        return {i: np.zeros(x.shape) for i, x in by.items()}
    pieces = grad(out, list(by.values()), g, retain_graph=retain_graph)
    return {i: to_host(piece.data) for i, piece in zip(by, pieces, strict=True)}


def _slope(op: Function) -> Function:
    def slope(*inputs: Any) -> Any:
        *values, g = inputs
        record = any(isinstance(x, Variable) and x.requires_grad for x in inputs)
        leaves = values if record else [Tensor(x.data, requires_grad=True) if differentiable(x) else x for x in values]
        out = op(*leaves)
        by = [x for x in leaves if differentiable(x)]
        pieces = grad(out, by, g, create_graph=record) if out.requires_grad else [x * 0.0 for x in by]
        return pieces[0] if len(pieces) == 1 else concatenate([reshape(piece, (-1,)) for piece in pieces])

    return slope


# ----- inputs -----------------------------------------------------------------------------------------------------


def point(name: str, op: Function, inputs: Sequence[Any], tensors: Any = None) -> Point:
    """The point of a check: floating inputs as float64 Tensors in the memory layout of what was given; `tensors`, which
    the op reads from elsewhere, as further arguments.
    """
    values = [_float64(x) for x in inputs]
    names = argument_names(op, len(values))
    held = _by_name(name, tensors)
    if held:
        return Point(name, _reading(op, len(values), list(held.values())), [*values, *map(_float64, held.values())],
                     [*names, *held])  # fmt: skip
    return Point(name, op, values, names)


def _float64(x: Any) -> Any:
    """A floating input as a float64 Tensor that does not require a gradient, everything else unchanged."""
    data = x.data if isinstance(x, Variable) else np.array(x) if isinstance(x, list) else x
    if not is_array(data) or not is_floating(data.dtype):
        return x
    return Tensor(laid_out(data.astype(np.float64), data)) if type(data) is ndarray else tensor(data, dtype=np.float64)


def argument_names(op: Function, count: int) -> list[str]:
    """ "argument 0 (x)" for each of `count` arguments; without a name where the op does not tell it."""
    function = getattr(op, "__wrapped__", op)
    try:
        parameters = list(inspect.signature(getattr(function, "forward", function)).parameters.values())
    except (TypeError, ValueError):  # a function written in C
        parameters = []
    names: list[str] = []
    for p in parameters:
        if p.kind is p.VAR_POSITIONAL:
            names += [f"{p.name}[{i}]" for i in range(count - len(names))]
        elif p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD):
            names.append(p.name)
    return [f"argument {i} ({names[i]})" if i < len(names) else f"argument {i}" for i in range(count)]


def short_name(name: str) -> str:
    """What a caller calls it: "x" of "argument 0 (x)", "weight" of "tensor weight"."""
    return name.partition("(")[2][:-1] if name.endswith(")") else name.rpartition(" ")[2]


def _by_name(name: str, tensors: Any) -> dict[str, Tensor]:
    if tensors is None:
        return {}
    named = tensors if isinstance(tensors, Mapping) else {str(i): x for i, x in enumerate(tensors)}
    for key, x in named.items():
        if not differentiable(x):
            raise TypeError(
                f"check_gradients: {name}: tensors must be floating Tensors that the op reads, not {type(x).__name__} "
                f"({key})"
            )
    return {f"tensor {key}": x for key, x in named.items()}


def _reading(op: Function, count: int, held: list[Any]) -> Function:
    """`op` as a function of its arguments and of the Tensors that it reads: during a call these are the others."""

    def reading(*values: Any) -> Any:
        with standing_for(held, [identity(x) for x in values[count:]]):
            return op(*values[:count])

    return reading


@contextmanager
def standing_for(tensors: Sequence[Any], others: Sequence[Any]) -> Iterator[None]:
    """`tensors` have the data and the place in the graph of `others`, as if they were these; afterwards their own."""
    parts = ("data", "_requires_grad", "node", "_version")
    own = [[getattr(x, part) for part in parts] for x in tensors]
    try:
        for x, other in zip(tensors, others, strict=True):
            for part in parts:
                setattr(x, part, getattr(other, part))
        yield
    finally:
        for x, state in zip(tensors, own, strict=True):
            for part, was in zip(parts, state, strict=True):
                setattr(x, part, was)


@contextmanager
def holding_float64(tensors: Sequence[Any]) -> Iterator[None]:
    """The floating ones of these Tensors are float64; afterwards as before."""
    floating = [x for x in tensors if differentiable(x)]
    with standing_for(floating, [x.detach().astype(np.float64) for x in floating]):
        yield
