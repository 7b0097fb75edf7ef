"""tensorlite's side of the duels on a GPU: the counterpart of `ours`.

Steps are launched without waiting for them. The host runs ahead, as it does in `gpt train`, and a turn ends with
the value of its last loss.
"""

import time
from functools import partial
from typing import cast

import tensorlite as tl
from gpt import fast
from gpt.fast.recorded_step import RecordedStep
from gpt.generation import next_logits
from gpt.tasks.pretrain import Pretraining
from gpt.training.step import train_step
from gpt.training.task import Task
from tensorlite import Tensor, backend

from . import gpu, ours, setup
from .setup import Job


class Memory:
    """Bytes of the device's memory allocated since the start, without CUDA's context."""

    def begin(self) -> None:
        tl.zeros(1, device=setup.GPU)  # creates the context
        self.before = gpu.used()

    def peak(self) -> int:
        """CuPy's pools keep what they once had, but for what a recorded step has of its own (CudaGraph)."""
        return gpu.used() - self.before

    def forget(self) -> None:
        """Free cached memory, since the memory of the answers does not belong to a step."""
        library = backend.library_of(setup.GPU)
        if library.__name__ == "cupy":
            library.get_default_memory_pool().free_all_blocks()


class Train(Memory, ours.Train):
    """Steps of training: forward, loss, backward, clipping, AdamW."""

    def __init__(self, job: Job):
        self.begin()
        super().__init__(job)
        self.batch = self.x.clone(), self.y.clone()  # on the CPU: each step copies it to the GPU, as in training
        self.x, self.y = (part.to(setup.GPU) for part in self.batch)
        self.training_step: RecordedStep | None = None

    def make_step(self) -> RecordedStep:
        """The step of `gpt train`: on a GPU a CUDA graph from the third step on."""
        task = cast(Task, Pretraining)  # the class itself: loss and number of targets need no run
        step = partial(train_step, task, self.network, self.optimizer, clip=setup.CLIP)
        return RecordedStep(step, self.network, self.optimizer)

    def run(self, steps: int) -> float:
        """Seconds for that many steps."""
        step = self.training_step = self.training_step or self.make_step()
        began = time.perf_counter()
        for _ in range(steps):
            found = step([self.batch], [Pretraining.targets(self.batch)])
        found.tolist()  # waits for the last loss, and so for all steps
        return time.perf_counter() - began

    def no_graph(self) -> str:
        """The reason why its steps are not a CUDA graph; '' where they are."""
        return self.training_step.graph.why_not if self.training_step else "it has not trained"

    def forget(self) -> None:
        self.optimizer.zero_grad()
        super().forget()

    def profile(self, steps: int) -> dict:
        return gpu.profiled(self.run, steps)


class Decode(Memory, ours.Decode):
    """Greedy texts of an eighth of the context, each token copied to the host."""

    def __init__(self, job: Job):
        fast.attach_decode()
        self.begin()
        super().__init__(job)
        if job.dtype == "bfloat16":
            self.network.to(tl.bfloat16)  # as `gpt generate --dtype bfloat16`
        self.new = self.length // 8

    def answers(self) -> dict[str, Tensor]:
        """The scores after the prompts, and those after one more token, computed with the cache."""
        read, more = self.length // 4, self.tokens[: self.job.batch, self.length // 4].tolist()
        texts, cache = [list(prompt) for prompt in self.prompts], self.network.new_cache(self.job.batch, read + 1)
        first = next_logits(self.network, texts, cache)
        second = next_logits(self.network, [[*text, token] for text, token in zip(texts, more, strict=True)], cache)
        return {"first": first.astype("float32"), "second": second.astype("float32")}


TASKS = {"train": Train, "decode": Decode}
