"""`gpt train` and `gpt finetune ...`: train a GPT on text, or fine-tune one."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Self

from tyro.conf import Positional, arg

from tensorlite.devices import machine

from ..console import open_screen
from ..tasks.classify import ClassifyConfig
from ..tasks.instruct import InstructConfig
from ..tasks.pretrain import TrainConfig
from ..training import session
from ..training.loop import train
from ..training.settings import Settings

Base = Annotated[Positional[Path | None], arg(metavar="RUN")]


class Training(Settings):
    """Shared by these commands: their fields are the settings of a run, and they train it."""

    @classmethod
    def default(cls, args: list[str]) -> Self:
        """The flags' defaults: with --resume the settings of that run."""
        resumed = value_of(args, "--resume")
        return session.settings(Path(os.path.expanduser(resumed)), cls) if resumed else cls()

    def __call__(self) -> int:
        result = train(self, open_screen())
        return 0 if result.stopped_by is None else 128 + result.stopped_by


@dataclass(frozen=True, kw_only=True)
class Train(TrainConfig, Training):
    """Train a GPT on text."""

    def __call__(self) -> int:
        for warning in machine.blas_environment():
            open_screen().print(f"warning: {warning}", markup=False, highlight=False, soft_wrap=True)
        return super().__call__()


@dataclass(frozen=True, kw_only=True)
class FinetuneClassify(ClassifyConfig, Training):
    """Fine-tune a trained GPT to label texts."""

    base: Base = None  # the run to start from; it is only read


@dataclass(frozen=True, kw_only=True)
class FinetuneInstruct(InstructConfig, Training):
    """Fine-tune a trained GPT to follow instructions."""

    base: Base = None  # the run to start from; it is only read


def value_of(args: list[str], flag: str) -> str | None:
    """The value of `flag` among the arguments, None where it is not given."""
    for i, given in enumerate(args):
        if given == flag and i + 1 < len(args):
            return args[i + 1]
        if given.startswith(f"{flag}="):
            return given.removeprefix(f"{flag}=")
    return None
