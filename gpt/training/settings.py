"""The settings of a training run: those of every task, and those that every fine-tuning adds.

A task's own settings are a subclass in the task's folder (tasks/pretrain.py, tasks/*/settings.py). Every field is a
flag of the command line, and the comment after it is the flag's help.
"""

import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import UnionType
from typing import Any, ClassVar, Literal, Self, get_args, get_origin, get_type_hints

from ..config import GPTConfig, check_choice, check_device, check_integer, check_names, check_number, use_plain_numbers

MOST_THREADS = 1024  # the limit of tensorlite.devices.machine


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of every training run. (Every field is a flag, and its comment is the flag's help.)

    A task's own settings are a subclass: its `task` is the task's name in config.json, and `fixed` are the settings
    that cannot change when a run is resumed.
    """

    task: ClassVar[str]
    task_class: ClassVar[str]  # the Task of these settings, as "module:class"
    fixed: ClassVar[tuple[str, ...]] = ("seed",)
    lowest: ClassVar[float] = 0.1  # the default of min_lr, as a share of lr
    fewest: ClassVar[int] = 1  # steps

    batch_size: int = 8  # sequences per pass: more give smoother steps and take less time per token, and more memory
    grad_accumulation: int = 1  # passes per step: a larger batch in the memory of one pass
    steps: int = 1200  # updates of the weights
    lr: float | None = None  # peak learning rate; default: what suits the task and the model, see default_lr
    min_lr: float | None = None  # learning rate at the end of the cosine; default: a tenth of lr
    warmup: int | None = None  # steps of linear rise to lr, while Adam's averages settle; default: a tenth, at most 100
    beta1: float = 0.9  # Adam's memory of the gradient: about 1 / (1 - beta1) steps
    beta2: float = 0.99  # Adam's memory of the gradient's square; 0.95 to 0.999, more where batches are small
    weight_decay: float = 0.1  # pull towards 0 on matrices; biases and norms have none
    clip: float = 1.0  # largest gradient norm: one unusual batch cannot spoil the weights; 0: no limit

    eval_every: int = 100  # steps between evaluations; they use no random numbers, so they do not change training
    sample_every: int = 300  # steps between samples in samples.txt; 0: only at the end
    checkpoint_every: int = 300  # steps between checkpoints: a crash loses at most this many
    # checkpoints kept, the newest ones; default: as many as take 200 MB, at least 2 and at most 12
    keep: int | None = None
    # also keep the checkpoint with the lowest validation loss, written when it is evaluated: --step best names it
    keep_best: bool = False
    # end training after this many evaluations in a row without a lower validation loss; default: all steps are done
    patience: int | None = None
    # stop in time with a checkpoint, as a signal does, once this many minutes have passed; --resume goes on
    max_minutes: float | None = None

    seed: int = 1337  # of weights, batches, dropout and samples: the same seed gives the same run, bit for bit
    device: str = "auto"  # cpu, cuda or cuda:1 (the second GPU); auto: a GPU if one is usable, also on resume
    dtype: Literal["float32", "tf32", "bfloat16"] = "float32"  # of matrix products; tf32, bfloat16: faster, less exact
    cuda_graph: bool = True  # whether a GPU records and replays a step; without, it launches each op, which is slower
    activation_checkpointing: bool = False  # compute blocks again in the backward pass: less memory, a third more work
    threads: int | None = None  # threads of large ops; default: OPENBLAS_NUM_THREADS, or the cores of this process
    # several processes (mpiexec, srun): each keeps its part of Adam's averages, which takes less memory
    shard_optimizer: bool = False
    process_timeout: float = 300.0  # seconds without a sign of life of another process until the run is ended
    out: Path | None = None  # the run's directory; default: below runs/, named after what is learnt from
    resume: Path | None = None  # continue this run, with its own settings except for those that you give
    resume_if_exists: bool = False  # continue the run in `out` if there is one, else start it: for schedulers
    overwrite: bool = False  # replace the run or files in `out`, once the new run's first checkpoint is complete

    def __post_init__(self) -> None:
        use_plain_numbers(self)
        for name in ("batch_size", "grad_accumulation", "eval_every", "checkpoint_every"):
            check_integer(name, getattr(self, name), low=1)
        if self.keep is not None:
            check_integer("keep", self.keep, low=1)
        for name, low in (("steps", self.fewest), ("sample_every", 0), ("seed", 0)):
            check_integer(name, getattr(self, name), low)
        for name in ("beta1", "beta2"):
            check_number(name, getattr(self, name), low=0, below=1)
        check_number("lr", self.peak_lr, low=0)
        for name in ("weight_decay", "clip"):
            check_number(name, getattr(self, name), low=0)
        check_choice("dtype", self.dtype, ("float32", "tf32", "bfloat16"))
        check_device(self.device)
        check_choice("cuda_graph", self.cuda_graph, (True, False))
        check_choice("activation_checkpointing", self.activation_checkpointing, (True, False))
        check_choice("keep_best", self.keep_best, (True, False))
        check_choice("shard_optimizer", self.shard_optimizer, (True, False))
        check_number("process_timeout", self.process_timeout, low=1)
        if self.patience is not None:
            check_integer("patience", self.patience, low=1)
        if self.max_minutes is not None:
            check_number("max_minutes", self.max_minutes, low=0)
        if self.threads is not None:
            check_integer("threads", self.threads, low=1)
            if self.threads > MOST_THREADS:
                raise ValueError(f"--threads must be an integer from 1 to {MOST_THREADS:,}, got {self.threads:,}")
        if self.min_lr is not None and not 0 <= self.min_lr <= (math.inf if self.lr is None else self.lr):
            raise ValueError(
                f"min_lr must be from 0 to the learning rate, which is {self.peak_lr}, got {self.min_lr!r}"
            )
        if self.warmup is not None and not 0 <= self.warmup <= (self.steps or self.warmup):
            raise ValueError(f"warmup must be from 0 to steps, which is {self.steps}, got {self.warmup!r}")
        if self.seed >= 2**32:
            raise ValueError(f"seed must be below 2**32, got {self.seed}")
        if self.resume is not None and (self.out is not None or self.overwrite or self.resume_if_exists):
            raise ValueError("resume continues a run where it is: omit --out, --overwrite and --resume-if-exists")
        if self.resume_if_exists and self.overwrite:
            raise ValueError("resume_if_exists keeps a run and --overwrite replaces it: omit one of them")

    @property
    def peak_lr(self) -> float:
        """`lr`, or the default for a model as wide as GPT-2's smallest."""
        return self.default_lr() if self.lr is None else self.lr

    def default_lr(self, n_embd: int = 768) -> float:
        """The default peak learning rate for a model of that width."""
        return 2e-3

    def name(self) -> str:
        """The name of a run without a given directory."""
        return self.task

    def to_dict(self) -> dict[str, Any]:
        """The settings as JSON values, without those that the result does not depend on: the run's directory, how it
        was started, how long it may take, and the device, which may differ when a run is resumed.
        """
        values = {name: _plain(value) for name, value in asdict(self).items()}
        started = ("device", "out", "resume", "resume_if_exists", "overwrite", "max_minutes", "process_timeout")
        return {name: value for name, value in values.items() if name not in started}

    def reads(self) -> tuple[Path, ...]:
        """The files and directories that a new run starts from."""
        return ()

    def model_to_resume(self, saved: GPTConfig) -> GPTConfig:
        """The config of a resumed run's model, from `saved` in its config.json."""
        return saved

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The settings that `to_dict` described; a ValueError names every unknown and every missing field."""
        if isinstance(values, Mapping) and "checkpoint_blocks" in values:  # its name in version 0.1.0
            values = {("activation_checkpointing" if k == "checkpoint_blocks" else k): v for k, v in values.items()}
        check_names(cls, values)
        kinds = get_type_hints(cls)
        return cls(**{name: _from_plain(name, value, kinds[name]) for name, value in values.items()})


def as_paths(config: Any, *names: str) -> None:
    """Convert strings in these fields of a frozen dataclass to Paths, as for text="a/b.txt" in Python."""
    for name in names:
        value = getattr(config, name)
        if value == "" or (name == "text" and not isinstance(value, str | os.PathLike) and "" in value):
            raise ValueError(f"{name} is empty: name a file or a directory")
        if isinstance(value, str | os.PathLike):
            path = Path(value)
            object.__setattr__(config, name, (path,) if name == "text" else path)
        elif name == "text":
            object.__setattr__(config, name, tuple(map(Path, value)))


def check_settings(config: Any) -> None:
    """TypeError for anything else, such as a dict of settings."""
    if not isinstance(config, Settings):
        raise TypeError(f"train: settings are needed, such as TrainConfig(...), not {type(config).__name__}")


def command_of(task: str) -> str:
    """The command that trains a model for that task."""
    return "gpt train" if task == "pretrain" else f"gpt finetune {task}"


def _from_plain(name: str, value: Any, kind: Any) -> Any:
    """A field's value from JSON: text may be a Path, a list a tuple; a ValueError where the field has another type."""
    for one in get_args(kind) if get_origin(kind) is UnionType else (kind,):
        if one is Path and isinstance(value, str):
            return Path(value)
        if get_origin(one) is tuple and isinstance(value, list | tuple):
            return tuple(_from_plain(name, item, get_args(one)[0]) for item in value)
        if type(value) is one or (one is float and type(value) is int) or get_origin(one) is Literal:
            return value  # the choices are checked with the other fields
    raise ValueError(f"{name} has the wrong type: got {value!r:.80}")


def _plain(value: Any) -> Any:
    """Paths as text, also in a tuple."""
    if isinstance(value, Path):
        return str(value)
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def fine_tuning_lr(n_embd: int) -> float:
    """The default peak learning rate for trained weights: the book's 5e-5 for GPT-2's width, 768.

    It is proportionally more for narrower models: each sum has fewer terms, so each weight must change more.
    """
    return float(f"{5e-5 * max(1.0, 768 / n_embd):.1e}")


# ----- fine-tuning ------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Source:
    """The inputs of fine-tuning: a base class of FineTuneConfig, so that these flags come first."""

    base: Path | None = None  # the run to start from; it is only read
    data: Path | None = None  # the entries to learn from
    epochs: int = 5  # passes over the training entries


@dataclass(frozen=True, kw_only=True)
class FineTuneConfig(Settings, Source):
    """The settings of every fine-tuning: a run to start from, entries to learn from, and lower learning rates."""

    fixed: ClassVar[tuple[str, ...]] = ("base", "data", "seed", "batch_size")
    lowest = 1.0  # of lr: it is constant
    fewest = 0

    steps: int = 0  # updates of the weights, instead of epochs; 0: from epochs
    # peak learning rate; default: 8e-4 with LoRA; without LoRA 5e-5 for GPT-2's widths, and more for narrower models:
    # 6e-4 for width 64
    lr: float | None = None
    min_lr: float | None = None  # learning rate at the end of a cosine; default: lr, which is then constant
    warmup: int | None = 0  # steps of linear rise to lr
    beta2: float = 0.999  # Adam's memory of the gradient's square
    eval_every: int = 50  # steps between evaluations; they use no random numbers, so they do not change training
    sample_every: int = 0  # steps between samples in samples.txt; 0: only at the end

    def __post_init__(self) -> None:
        as_paths(self, "base", "data", "out", "resume")
        super().__post_init__()
        check_integer("epochs", self.epochs, low=1)

    def default_lr(self, n_embd: int = 768) -> float:
        """8e-4 with LoRA; without it the book's 5e-5, and proportionally more for models narrower than 768.

        LoRA's correction begins at zero and needs 16 times the rate for the same change in the same number of steps.
        """
        return 8e-4 if self.adapts else fine_tuning_lr(n_embd)

    @property
    def adapts(self) -> bool:
        """Whether only LoRA's matrices are trained."""
        return False

    def reads(self) -> tuple[Path, ...]:
        """The run it starts from, and the entries."""
        return tuple(path for path in (self.base, self.data) if path is not None)

    def name(self) -> str:
        """The name of the run it starts from, and the task."""
        return f"{self.base.resolve().name}-{self.task}" if self.base else self.task

    def total_steps(self, batches: int) -> int:
        """The number of steps, if an epoch has that many batches."""
        return self.steps or max(1, self.epochs * batches // self.grad_accumulation)
