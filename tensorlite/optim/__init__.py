"""Optimizers: SGD, Adam and AdamW; the norm of a gradient; learning rates as functions of the step.

One idea: an optimizer moves its parameters into one flat array per group and lays what it remembers beside it. On the
CPU an update is a pass over all three in blocks that stay in the cache; on a GPU it is one kernel, and nothing of it is
looked at: not even whether the gradients are finite. Each parameter's `.data` becomes a view of its part. Gradients are
never written to: clipping is a factor, `step(grad_scale=...)`.

Copy or pickle an optimizer together with its model, `copy.deepcopy((model, optimizer))`: the copies train on as the
originals would, and neither pair changes the other. Copied alone, an optimizer has copies of the parameters, which
belong to no model; at its first step it warns if none of them has a gradient. `copy.copy` gives the same optimizer by
another name.

What it refuses: a parameter given twice, one that does not require a gradient, and stepping after a parameter's
`.data` was replaced (`Module.to`, a second optimizer): its values would silently no longer be the ones updated.
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
