"""One training step, computed: the gradient of some batches, clipped, moves the weights.

No value is read. Loss and norm stay where they were computed, and whether they are finite is decided there too;
so a GPU never waits for the host, and all that it does in a step can be recorded once and replayed as a CUDA graph.
"""

import math
from collections.abc import Sequence
from typing import Any

import tensorlite as tl
from tensorlite import Tensor, nn, optim
from tensorlite.accelerate.cuda_graph import CudaGraph

from ..config import Settings
from .task import Task, to_device


class Step:
    """`step(batches)`: the weights move, and what comes back is float64 (2,): the loss, and the norm of its gradient.

    Where one of them is not finite, nothing has moved: neither weights nor the optimizer's averages. On a GPU, batches
    that are tuples of Tensors with shapes that do not change are computed by a CUDA graph from the third on, unless
    `config.cuda_graph` is off.
    """

    def __init__(self, task: Task, model: nn.Module, optimizer: optim.AdamW, config: Settings):
        self.task, self.model, self.optimizer, self.config = task, model, optimizer, config
        self.graph = CudaGraph(self._of_tensors, before=optimizer.upload)

    def __call__(self, batches: Sequence[Any]) -> Tensor:
        counts = [self.task.targets(batch) for batch in batches]
        plain = all(isinstance(x, Tensor) for batch in batches for x in batch)
        if not plain or not self.config.cuda_graph:
            return self.compute(batches, counts)
        self._counts, self._sizes = counts, [len(batch) for batch in batches]
        tensors = to_device(self.model, *[x for batch in batches for x in batch])
        return self.graph(*tensors, key=(*counts, *self._sizes))

    def _of_tensors(self, *tensors: Tensor) -> Tensor:
        rest = iter(tensors)
        return self.compute([tuple([next(rest) for _ in range(n)]) for n in self._sizes], self._counts)

    def compute(self, batches: Sequence[Any], counts: Sequence[int]) -> Tensor:
        self.optimizer.zero_grad()
        loss = accumulate(self.task, self.model, batches, counts)
        norm = optim.global_norm(self.model.parameters())
        scale = optim.clip_scale(norm, self.config.clip or math.inf)
        self.optimizer.step(grad_scale=scale + 0 * loss)  # nan, which skips the step, also for a loss that is infinite
        return tl.concatenate([loss.reshape(1), norm.reshape(1)])


def accumulate(task: Task, model: nn.Module, batches: Sequence[Any], counts: Sequence[int]) -> Tensor:
    """Add to `.grad` the gradient of the mean loss over all targets of all batches, and return that loss, float64 ().

    Each batch counts by its number of targets, so that several batches are the same as one large one, also where they
    differ in how many they have.
    """
    mean = tl.zeros((), tl.float64, next(model.parameters()).device)
    for batch, count in zip(batches, counts, strict=True):
        if count:
            loss = task.loss(model, batch) * (count / sum(counts))
            loss.backward()
            mean = mean + loss.detach()
    return mean
