"""Optimizers (SGD, Adam, AdamW), the global norm of gradients, and learning-rate schedules as functions of the step.

Gradients are never written to: clipping is a factor, `step(grad_scale=clip_scale(norm, max_norm))`.

For speed, an optimizer moves its parameters into one flat array per group; each parameter's `.data` becomes a view of
its part (see `tensorlite.accelerate.storage`). It is therefore an error to step after a parameter's `.data` was
replaced (by `Module.to`, or by a second optimizer), as the update would not reach the new values. A parameter that is
given twice, or does not require a gradient, is an error too.

Copy or pickle an optimizer together with its model, `copy.deepcopy((model, optimizer))`: the copies continue training
like the originals, and neither pair changes the other. An optimizer that is copied alone has copies of the parameters,
which belong to no model; its first step warns if none of them has a gradient. After `copy.copy`, both names refer to
the same state.
"""

from ..errors.suggestions import module_getattr
from .clipping import clip_scale, global_norm, grad_norm
from .optimizers import SGD, Adam, AdamW, Optimizer, decay_groups
from .schedules import constant, warmup_cosine, warmup_linear

__getattr__ = module_getattr("optim")
__all__ = [
    "SGD", "Adam", "AdamW", "Optimizer", "clip_scale", "constant", "decay_groups", "global_norm", "grad_norm",
    "warmup_cosine", "warmup_linear",
]  # fmt: skip
