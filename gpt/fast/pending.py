"""Training steps on a GPU whose results are read several at a time, since each read waits for the GPU."""

import time
from collections.abc import Callable

from tensorlite import Tensor

from ..training.loop import Step, StepResult, update
from ..training.session import Session
from .recorded_step import make_step

READ_EVERY = 10  # steps


class PendingSteps:
    """Steps that were started, and whose loss and norm are still on the GPU. See `loop.Steps`."""

    def __init__(self, s: Session, say: Callable[[str], None], step: Step | None = None):
        self.s, self.step = s, step or make_step(s, say)
        self.pending: list[tuple[int, float, Tensor]] = []  # step, learning rate, loss and norm
        self.began = 0.0  # when the first pending step began: evaluations and checkpoints between steps do not count

    def next(self, read: bool) -> list[StepResult]:
        if not self.pending:
            self.began = time.monotonic()
        lr, result = update(self.s, self.step)
        self.pending.append((self.s.step, lr, result))
        return self.rest() if read or len(self.pending) >= READ_EVERY else []

    def rest(self) -> list[StepResult]:
        found = [(step, lr, *result.tolist()) for step, lr, result in self.pending]
        seconds = (time.monotonic() - self.began) / max(1, len(found))
        self.pending = []
        return [StepResult(step, lr, loss, norm, seconds) for step, lr, loss, norm in found]
