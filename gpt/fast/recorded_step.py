"""Training steps on a GPU, recorded once as a CUDA graph and replayed: small models are limited by kernel launches."""

from collections.abc import Callable, Sequence
from typing import Any

from tensorlite import Tensor, nn, optim
from tensorlite.accelerate.cuda_graph import CudaGraph

from ..training.loop import Step, plain_step
from ..training.session import Session
from ..training.task import to_device


class RecordedStep:
    """Wraps a step: batches that are tuples of Tensors of constant shapes are replayed from the third on.

    A graph takes Tensors and returns a Tensor, so the batches are passed as one flat sequence of Tensors. Other batches
    are computed directly, as is a step that cannot be recorded; `say` then gets the reason once.
    """

    def __init__(self, step: Step, model: nn.Module, optimizer: optim.AdamW, say: Callable[[str], None] = print):
        self.step, self.model, self.say = step, model, say
        self.graph = CudaGraph(self._of_tensors, before=optimizer.upload)
        self._counts: Sequence[int] = ()
        self._sizes: list[int] = []
        self._told = False

    def __call__(self, batches: Sequence[Any], counts: Sequence[int]) -> Tensor:
        if not all(isinstance(x, Tensor) for batch in batches for x in batch):
            return self.step(batches, counts)
        self._counts, self._sizes = counts, [len(batch) for batch in batches]
        tensors = to_device(self.model, *[x for batch in batches for x in batch])
        result = self.graph(*tensors, key=(*counts, *self._sizes))
        if self.graph.why_not and not self._told:
            self._told = True
            self.say(f"cuda graph off: {self.graph.why_not}")
        return result

    def _of_tensors(self, *tensors: Tensor) -> Tensor:
        rest = iter(tensors)
        return self.step([tuple([next(rest) for _ in range(n)]) for n in self._sizes], self._counts)


def make_step(s: Session, say: Callable[[str], None]) -> Step:
    """The session's step, recorded unless its settings say otherwise."""
    step = plain_step(s)
    return RecordedStep(step, s.model, s.optimizer, say) if s.config.cuda_graph else step
