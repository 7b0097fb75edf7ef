"""Training steps of small models on a CPU: each thread computes the gradient of its own sequences of a batch."""

import math
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
    """The session's step, whose batches are divided where that is faster (`least_tokens`), which `say` then reports."""
    rows, threads, least = s.config.batch_size, machine.threads(), least_tokens(s.model, s.config.batch_size)
    if rows * s.model.config.context_length < least:
        return plain_step(s)
    at_least = "" if s.task.unit == "tokens" else f" of {math.ceil(least):,} tokens or more"  # others vary in length
    say(f"threads    each of the {threads} computes {rows // threads} of the {rows} sequences of a batch{at_least}")
    gradients = partial(accumulate, least=least)
    return partial(train_step, s.task, s.model, s.optimizer, clip=s.config.clip, gradients=gradients)


def least_tokens(model: nn.Module, batch_size: int) -> float:
    """The least tokens of a batch that is divided, infinite for no batch: small models without dropout, whose masks are
    drawn for the whole batch, on CPUs with a number of threads that divides the batch.
    """
    parameters = list(model.parameters())
    divisible = machine.threads() > 1 and batch_size % machine.threads() == 0
    small = sum(p.size for p in parameters) <= MOST_PARAMETERS
    if divisible and small and parameters[0].device == "cpu" and not largest_dropout(model):
        return WORTH_DIVIDING / machine.product_time(products(parameters))
    return math.inf


def products(parameters: Sequence[nn.Parameter]) -> int:
    """Multiplications for each token of a step, roughly: by each weight, for the gradient by its input where something
    below it learns, and for its own gradient if it learns.
    """
    first = next((i for i, p in enumerate(parameters) if p.requires_grad), len(parameters))
    return sum(p.size * (1 + (i >= first) + p.requires_grad) for i, p in enumerate(parameters))


def accumulate(task: Task, model: nn.Module, batches: Sequence[Any], counts: Sequence[int], least: float = 0) -> Tensor:
    """`training.step.accumulate` with the sequences of each batch of `least` tokens or more divided over the threads.

    The length of a batch decides, so a resumed run decides as an unbroken one.
    """
    mean, parts, total = tl.zeros((), tl.float64), machine.threads(), sum(counts)
    for batch in batches:
        if tokens(model, batch) < least:  # its ops may be split instead, which those of a part are not
            if weight := task.targets(batch) / max(1, total):
                loss = loss_of(task, model, batch, weight)
                loss.backward()
                mean = mean + loss.detach()
            continue
        divided = [Share(range(1), i, parts).rows(batch) for i in range(parts)]
        weights = [task.targets(rows) / max(1, total) for rows in divided]
        terms = [partial(loss_of, task, model, rows, w) for rows, w in zip(divided, weights, strict=True) if w]
        for loss in parallel.backward(terms):
            mean = mean + loss
    return mean


def tokens(model: nn.Module, batch: Sequence[Any]) -> int:
    """How many a batch has: it begins with a Tensor of ids; other texts are taken for as long as the context."""
    texts = batch[0]
    return texts.size if isinstance(texts, Tensor) else len(texts) * model.config.context_length


def loss_of(task: Task, model: nn.Module, rows: Any, weight: float) -> Tensor:
    """The part of the step's loss that is due to these rows."""
    return task.loss(model, rows) * weight
