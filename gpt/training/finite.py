"""Checks that weights and gradients are finite."""

import tensorlite as tl
from tensorlite import nn


def is_finite(model: nn.Module) -> bool:
    """True if all weights are finite."""
    return all(tl.isfinite(p).all().item() for p in model.parameters())


def first_not_finite(model: nn.Module) -> str:
    """The first parameter with a value or gradient that is not finite; "the loss" if there is none."""
    for name, p in model.named_parameters():
        for what, tensor in (("the weight", p), ("the gradient of", p.grad)):
            if tensor is not None and not tl.isfinite(tensor).all().item():
                return f"{what} {name}"
    return "the loss"
