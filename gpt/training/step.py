"""One training step: compute the gradient of the mean loss of the batches, clip it, and update the weights.

No value is read on the host: whether loss and norm are finite is decided on their device. So the host never waits for a
GPU here, and gpt/fast can record the whole step in a CUDA graph.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import tensorlite as tl
from tensorlite import Tensor, nn, optim

from .task import Task

Accumulate = Callable[[Task, Any, Sequence[Any], Sequence[int]], Tensor]


def train_step(
    task: Task,
    model: nn.Module,
    optimizer: optim.AdamW,
    batches: Sequence[Any],
    counts: Sequence[int],
    clip: float,
    gradients: Accumulate | None = None,
) -> Tensor:
    """Update the weights; return the loss and the norm of its gradient, before it is clipped, as float64 (2,).

    `counts` are the numbers of targets of the batches, and `clip` is the largest norm of the gradient; 0: no limit.
    `gradients` is a function like `accumulate`, which is the default.
    Where loss or norm is not finite nothing is updated, neither the weights nor the optimizer's averages.
    """
    optimizer.zero_grad()
    loss = (gradients or accumulate)(task, model, batches, counts)
    norm = optimizer.global_norm()
    scale = optim.clip_scale(norm, clip or math.inf)
    optimizer.step(grad_scale=scale + 0 * loss)  # nan skips the update, also where only the loss is infinite
    return tl.concatenate([loss.reshape(1), norm.reshape(1)])


def accumulate(task: Task, model: nn.Module, batches: Sequence[Any], counts: Sequence[int]) -> Tensor:
    """Add the gradient of the mean loss over all targets of all batches to `.grad`; return that loss, float64 ().

    Each batch is weighted by its number of targets, so that several batches give the gradient of one large batch, also
    where they differ in that number. Each draws dropout from its own part of the step's random numbers.
    """
    mean = tl.zeros((), tl.float64, next(model.parameters()).device)
    for i, (batch, count) in enumerate(zip(batches, counts, strict=True)):
        tl.default_generator.jump(i)
        if count:
            loss = task.loss(model, batch) * (count / sum(counts))
            loss.backward()
            mean = mean + loss.detach()
    return mean
