"""The checks of parameters and options: each error names the optimizer, the parameter and the fix."""

import math
from collections.abc import Iterable, Mapping
from numbers import Real
from typing import Any

from ..nn import Module
from ..tensor import Tensor


def as_list(what: str, params: Any) -> list[Any]:
    """`params` as a list: Tensors, or groups of them."""
    if isinstance(params, Module):
        raise TypeError(f"{what}: give the parameters of the module, model.parameters()")
    if isinstance(params, Tensor):
        raise TypeError(f"{what}: params must be a list of Tensors, not one Tensor")
    if isinstance(params, Mapping):
        raise TypeError(f"{what}: give a list of Tensors, not a dict: list(d.values()), or [d] for one group")
    if isinstance(params, str) or not isinstance(params, Iterable):
        raise TypeError(f"{what}: give a list of Tensors, not {type(params).__name__}")
    return list(params)


def make_groups(optimizer: str, params: Iterable[Any], options: dict[str, Any]) -> list[dict[str, Any]]:
    """The groups that `params` stands for, each with a value for every option: a list of Tensors is one group.

    TypeError or ValueError for what is neither, for an option that the optimizer does not have and for empty groups.
    """
    entries = as_list(optimizer, params)
    if not any(isinstance(entry, Mapping) for entry in entries):
        entries = [{"params": entries}]
    groups = []
    for entry in entries:
        if not isinstance(entry, Mapping) or "params" not in entry:
            raise TypeError(f"{optimizer}: every group must be a dict with 'params', not {entry!r:.80}")
        if unknown := entry.keys() - options.keys() - {"params"}:
            raise ValueError(
                f"{optimizer}: a group has no option {min(unknown)!r}; the options are {', '.join(options)}"
            )
        groups.append({**options, **entry, "params": as_list(optimizer, entry["params"])})
        if not groups[-1]["params"]:
            raise ValueError(f"{optimizer}: no parameters to optimize (an iterator that was already used up?)")
    return groups


def check_params(optimizer: str, params: list[Tensor]) -> None:
    """ValueError for a parameter that does not require a gradient, and the errors of `check_leaves`."""
    for i, p in enumerate(params):
        if isinstance(p, Tensor) and not p.requires_grad:
            raise ValueError(
                f"{optimizer}: parameter {i} of shape {p.shape} does not require a gradient: give leaves that require "
                "one, [p for p in model.parameters() if p.requires_grad]"
            )
    check_leaves(optimizer, params)


def check_leaves(what: str, params: list[Tensor]) -> None:
    """Errors for what is not a leaf Tensor, and for one that is given twice."""
    seen = set()
    for i, p in enumerate(params):
        if not isinstance(p, Tensor):
            raise TypeError(f"{what}: parameter {i} must be a Tensor, not {type(p).__name__}")
        if not p.is_leaf:
            raise ValueError(
                f"{what}: parameter {i} of shape {p.shape} was computed by an op: give leaves that require a gradient, "
                "[p for p in model.parameters() if p.requires_grad]"
            )
        if id(p) in seen:
            raise ValueError(
                f"{what}: parameter {i} of shape {p.shape} is given twice and would count twice: give each once "
                "(Module.parameters() does, tied ones too)"
            )
        seen.add(id(p))


def norm_params(params: Iterable[Any]) -> list[Tensor]:
    """The Tensors whose gradients a norm is taken of: those of groups too, and frozen ones, which add nothing."""
    found: list[Tensor] = []
    for entry in as_list("grad_norm", params):
        found += as_list("grad_norm", entry["params"]) if isinstance(entry, Mapping) and "params" in entry else [entry]
    if not found:
        raise ValueError("grad_norm: no parameters (an iterator that was already used up?)")
    check_leaves("grad_norm", found)
    if not any(p.requires_grad or p.grad is not None for p in found):
        raise ValueError("grad_norm: none of the parameters requires a gradient: give those of the model")
    return found


def check_number(name: str, value: float, below: float = math.inf) -> None:
    """`value` is a number in [0, below)."""
    if not isinstance(value, Real) or not 0 <= value < below:
        limit = "finite" if below == math.inf else f"below {below}"
        raise ValueError(f"{name} must be a number of at least 0 and {limit}, not {value!r}")
