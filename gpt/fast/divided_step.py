"""Training steps of small models on a CPU: each thread computes the gradient of its own sequences of a batch."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import tensorlite as tl
from tensorlite import Tensor, nn
from tensorlite.accelerate import parallel
from tensorlite.devices import machine

from ..training.loop import Step, plain_step
from ..training.session import Session
from ..training.step import train_step
from ..training.task import Task
from .share import Share, largest_dropout

MOST_PARAMETERS = 1 << 21  # each thread has gradients of its own, and adding them takes longer in larger models
WORTH_DIVIDING = 5_000_000  # nanoseconds of a step's products: threads that compute less wait for the interpreter


def make_step(s: Session, say: Callable[[str], None]) -> Step:
    """The session's step, divided where that is faster (`is_divided`), which `say` then reports."""
    rows, threads = s.config.batch_size, machine.threads()
    if not is_divided(s.model, rows, rows * s.model.config.context_length):
        return plain_step(s)
    say(f"threads    each of the {threads} computes {rows // threads} of the {rows} sequences of a batch")
    return partial(train_step, s.task, s.model, s.optimizer, clip=s.config.clip, gradients=accumulate)


def is_divided(model: nn.Module, batch_size: int, tokens: int) -> bool:
    """Whether each thread gets its part of a batch of `tokens`: for small models without dropout, whose masks are drawn
    for the whole batch, on CPUs with a number of threads that divides the batch.
    """
    parameters = list(model.parameters())
    size = sum(p.size for p in parameters)
    return (
        machine.threads() > 1
        and batch_size % machine.threads() == 0
        and size <= MOST_PARAMETERS
        and machine.product_time(3 * tokens * size) >= WORTH_DIVIDING
        and parameters[0].device == "cpu"
        and not largest_dropout(model)
    )


def accumulate(task: Task, model: nn.Module, batches: Sequence[Any], counts: Sequence[int]) -> Tensor:
    """`training.step.accumulate` with the sequences of each batch divided over the threads."""
    mean, parts, total = tl.zeros((), tl.float64), machine.threads(), sum(counts)
    for batch in batches:
        divided = [Share(range(1), i, parts).rows(batch) for i in range(parts)]
        weights = [task.targets(rows) / max(1, total) for rows in divided]
        terms = [partial(loss_of, task, model, rows, w) for rows, w in zip(divided, weights, strict=True) if w]
        for loss in parallel.backward(terms):
            mean = mean + loss
    return mean


def loss_of(task: Task, model: nn.Module, rows: Any, weight: float) -> Tensor:
    """The part of the step's loss that is due to these rows."""
    return task.loss(model, rows) * weight
