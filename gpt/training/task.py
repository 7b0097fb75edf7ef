"""The protocol Task: the training loop (loop.py) gets from it everything that differs between tasks.

One idea: a task is batches, their loss, and an evaluation. Steps, accumulation, clipping, the learning rate,
checkpoints, resuming, signals and numbers that are not finite are the loop's. This is a whole task, except the four
methods for a run's beginning and end that the protocol below describes:

    class Echo:
        steps, unit, per_step = 100, "texts", 8

        def draw(self):                     # the next batch
            return next(self.epochs)
        def targets(self, batch):           # the number of targets of its loss: its weight in a step
            return len(batch[0])
        def loss(self, model, batch):       # a Tensor with one element
            texts, labels = to_device(model, *batch)
            return tl.functional.cross_entropy(model(texts), labels)
        def evaluate(self, model):          # "validation_loss" and other values for metrics.jsonl
            return {"validation_loss": ...}
        def sample(self, model, step):      # text for samples.txt
            return "..."
        def state_dict(self):               # the position in the data, as JSON: what resuming needs
            return self.epochs.state_dict()

A task has no other state that a step depends on: `draw` and `loss` depend on its state and on the model, and
`evaluate` and `sample` change neither. Random numbers of `loss`, for dropout, come from tensorlite's default generator,
which the loop sets for each pass. A batch is a sequence of parts with one entry for each text: several processes or
threads can divide it. Threads call `loss` at the same time, so it must change neither the task nor the model.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol

from tensorlite import Generator, Tensor, nn
from tensorlite.data import DataLoader, Dataset

from ..tokenizer import Tokenizer
from .settings import Settings

Say = Callable[[str], None]  # prints a line


class NewRun(NamedTuple):
    """The model and description of a new run, made by a task from its settings."""

    tokenizer: Tokenizer
    model: nn.Module  # with the weights that training starts from; `.config` is its GPTConfig
    description: dict[str, Any]  # for config.json: "data" describes each data file by its stem


class Task(Protocol):
    """The task of a run. It is made when the run's data files exist, and reads no other files."""

    files: ClassVar[tuple[str, ...]]  # the data files that `begin` wrote into the run
    results: ClassVar[tuple[str, ...]]  # the files that `finish` may write there
    steps: int  # in all
    unit: str  # of a step's size: "tokens", "texts"
    per_step: int  # number of units per step

    @classmethod
    def begin(cls, config: Any, run: Path, say: Say) -> NewRun:
        """Write the data files into `run` and make the model: called once per run, after the seed was set.

        ValueError or OSError, in one sentence, for data that cannot be used.
        """
        ...

    @classmethod
    def rebuild(cls, config: Any, description: Mapping[str, Any]) -> nn.Module:
        """The model that config.json describes, with the same parameters frozen. Its weights are loaded afterwards."""
        ...

    def __init__(self, config: Any, run: Path, tokenizer: Tokenizer, description: Mapping[str, Any]) -> None: ...

    def draw(self) -> Any: ...

    def targets(self, batch: Any) -> int: ...

    def loss(self, model: Any, batch: Any) -> Tensor: ...

    def evaluate(self, model: Any) -> dict[str, float]: ...

    def sample(self, model: Any, step: int) -> str: ...

    def finish(self, model: Any) -> tuple[dict[str, Any], dict[str, str]]:
        """The final evaluation: the last line of metrics.jsonl, and rows of the table. May write files into the run."""
        ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


# ----- shared by tasks -------------------------------------------------------------------------------------------


def batch_generator(config: Settings) -> Generator:
    """A generator for the batches alone, so that they depend neither on dropout nor on the number of weights."""
    return Generator(Generator(config.seed).loader_seed())


class Epochs:
    """Shuffled batches of a dataset, epoch after epoch without end; the last, smaller batch of an epoch is left out.

    `len` is the number of batches in an epoch. The state is the position: a resumed run continues with the next batch.
    """

    def __init__(self, dataset: Dataset, batch_size: int, collate: Callable[[list[Any]], Any], generator: Generator):
        if len(dataset) < batch_size:
            raise ValueError(
                f"{len(dataset)} training entries are too few for a batch of {batch_size}: give more data or a smaller "
                "batch_size"
            )
        self.generator = generator
        self.loader = DataLoader(
            dataset, batch_size, shuffle=True, drop_last=True, collate=collate, generator=generator
        )
        self._epoch: Iterator[Any] | None = None

    def __len__(self) -> int:
        return len(self.loader)

    def __next__(self) -> Any:
        while True:
            self._epoch = iter(self.loader) if self._epoch is None else self._epoch
            for batch in self._epoch:
                return batch
            self._epoch = None

    def state_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {"position": self.loader.state_dict(), "generator": self.generator.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where `state_dict` was taken."""
        self.loader.load_state_dict(state["position"])
        self.generator.load_state_dict(state["generator"])
        self._epoch = None


def to_device(model: nn.Module, *tensors: Tensor) -> tuple[Tensor, ...]:
    """The Tensors on the model's device. (A batch is made on the CPU, where its targets are counted.)"""
    device = next(model.parameters()).device
    return tuple(x.to(device) for x in tensors)
