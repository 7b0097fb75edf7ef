"""What optimizers refuse, in one sentence each."""

import math
from collections.abc import Iterable, Mapping
from numbers import Real
from typing import Any

from ..nn import Module
from ..tensor import Tensor


def groups_of(optimizer: str, params: Iterable, options: dict[str, Any]) -> list[dict]:
    if isinstance(params, Module):
        raise TypeError(f"{optimizer}: give the parameters of the module, model.parameters()")
    entries = [{"params": params}] if isinstance(params, Tensor) else list(params)
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
        if isinstance(entry["params"], Tensor):
            raise TypeError(f"{optimizer}: params must be a list of Tensors, not one Tensor")
        groups.append({**options, **entry, "params": list(entry["params"])})
        if not groups[-1]["params"]:
            raise ValueError(f"{optimizer}: no parameters to optimize (an iterator that was already used up?)")
    return groups


def check_params(optimizer: str, params: list[Tensor]) -> None:
    seen = set()
    for i, p in enumerate(params):
        if not isinstance(p, Tensor):
            raise TypeError(f"{optimizer}: parameter {i} must be a Tensor, not {type(p).__name__}")
        if not p.requires_grad or not p.is_leaf:
            what = "does not require a gradient" if not p.requires_grad else "was computed by an op"
            raise ValueError(
                f"{optimizer}: parameter {i} of shape {p.shape} {what}: give leaves that require one, "
                "[p for p in model.parameters() if p.requires_grad]"
            )
        if id(p) in seen:
            raise ValueError(
                f"{optimizer}: parameter {i} of shape {p.shape} is given twice and would be updated twice: "
                "give each once (Module.parameters() does, tied ones too)"
            )
        seen.add(id(p))


def check_number(name: str, value: float, below: float = math.inf) -> None:
    """`value` is a number in [0, below)."""
    if not isinstance(value, Real) or not 0 <= value < below:
        limit = "finite" if below == math.inf else f"below {below}"
        raise ValueError(f"{name} must be a number of at least 0 and {limit}, not {value!r}")
