"""`gpt train` and `gpt finetune ...`: train a GPT on text, or fine-tune one."""

import os
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from tyro.conf import Positional, arg

from tensorlite import distributed
from tensorlite.devices import machine

from .. import fast
from ..console import open_screen
from ..fast.distributed import train
from ..tasks.classify import ClassifyConfig
from ..tasks.instruct import InstructConfig
from ..tasks.pretrain import TrainConfig
from ..training import session
from ..training.settings import Settings
from .watch import watching

Base = Annotated[Positional[Path | None], arg(metavar="RUN")]


GROUPS = {  # of the flags in the help, by field
    "what is learnt": (
        "base", "add_token", "text", "tokenizer", "vocab_size", "validation", "data", "label_column", "text_column",
        "balance", "unique_texts", "split_seed", "max_length", "style", "mask_instruction", "turns",
    ),
    "model": (
        "preset", "context_length", "n_layer", "n_head", "n_embd", "dropout", "position_std", "layers", "position",
        "causal", "untie_head", "lora", "rank", "alpha", "targets",
    ),
    "steps": (
        "epochs", "steps", "batch_size", "grad_accumulation", "lr", "min_lr", "warmup", "beta1", "beta2",
        "weight_decay", "clip", "seed", "patience", "max_minutes",
    ),
    "evaluations, samples, checkpoints": (
        "eval_every", "eval_batches", "final_tokens", "sample_every", "sample_tokens", "prompt", "responses",
        "max_new_tokens", "checkpoint_every", "keep", "keep_best", "watch",
    ),
    "where the run is": ("out", "resume", "resume_if_exists", "overwrite"),
    "machine": (
        "device", "dtype", "cuda_graph", "activation_checkpointing", "threads", "shard_optimizer", "process_timeout",
    ),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Training(Settings):
    """Shared by these commands: their fields are the settings of a run, and they train it."""

    groups: ClassVar = GROUPS

    watch: bool = False  # open the page of gpt look with the run's curves, and keep it open after training

    @classmethod
    def default(cls, args: list[str]) -> Self:
        """The flags' defaults: with --resume the settings of that run."""
        resumed = value_of(args, "--resume")
        return session.settings(Path(os.path.expanduser(resumed)), cls) if resumed else cls()

    def to_dict(self) -> dict[str, Any]:
        """The settings of the run: `watch` is not one."""
        values = super().to_dict()
        del values["watch"]
        return values

    def __call__(self) -> int:
        fast.attach_step()
        screen = open_screen()
        with watching(screen) if self.watch and not distributed.launched()[0] else nullcontext() as page:
            result = train(self, screen, begun=page.open if page else lambda run: None)
            if result.stopped_by is not None:
                return 128 + result.stopped_by
            if page:
                page.stay()
        return 0


@dataclass(frozen=True, kw_only=True)
class Train(TrainConfig, Training):
    """Train a GPT on text."""

    usual: ClassVar = "--text"

    # start from this run's weights and tokenizer, instead of random weights; it is only read
    base: Annotated[Path | None, arg(name="from", metavar="RUN")] = None

    def __call__(self) -> int:
        for warning in machine.blas_environment() if not distributed.launched()[2] else ():
            open_screen().print(f"warning: {warning}", markup=False, highlight=False, soft_wrap=True)
        return super().__call__()


@dataclass(frozen=True, kw_only=True)
class FinetuneClassify(ClassifyConfig, Training):
    """Fine-tune a trained GPT to label texts."""

    usual: ClassVar = "--data"

    base: Base = None  # the run to start from; it is only read


@dataclass(frozen=True, kw_only=True)
class FinetuneInstruct(InstructConfig, Training):
    """Fine-tune a trained GPT to follow instructions."""

    usual: ClassVar = "--data"

    base: Base = None  # the run to start from; it is only read


def value_of(args: list[str], flag: str) -> str | None:
    """The value of `flag` among the arguments, None where it is not given."""
    for i, given in enumerate(args):
        if given == flag and i + 1 < len(args):
            return args[i + 1]
        if given.startswith(f"{flag}="):
            return given.removeprefix(f"{flag}=")
    return None
