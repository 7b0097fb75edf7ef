"""`gpt finetune ...`: fine-tune a trained GPT."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Self

from tyro.conf import Positional, arg

from ..console import open_screen
from ..tasks.classify import Classification, ClassifyConfig
from ..tasks.instruct import InstructConfig, Instructions
from ..training import session
from ..training.loop import train
from ..training.settings import FineTuneConfig
from ..training.task import Task
from .train import value_of

Base = Annotated[Positional[Path | None], arg(metavar="RUN")]


class Finetune(FineTuneConfig):
    """What both commands share."""

    @classmethod
    def default(cls, args: list[str]) -> Self:
        """The flags' defaults: with --resume the settings of that run."""
        resumed = value_of(args, "--resume")
        return session.settings(Path(os.path.expanduser(resumed)), cls) if resumed else cls()

    def fine_tune(self, task: type[Task]) -> int:
        """Train; the exit status."""
        result = train(self, open_screen(), task)
        return 0 if result.stopped_by is None else 128 + result.stopped_by


@dataclass(frozen=True, kw_only=True)
class FinetuneClassify(ClassifyConfig, Finetune):
    """Fine-tune a trained GPT to label texts."""

    base: Base = None  # the run to start from; it is only read

    def __call__(self) -> int:
        return self.fine_tune(Classification)


@dataclass(frozen=True, kw_only=True)
class FinetuneInstruct(InstructConfig, Finetune):
    """Fine-tune a trained GPT to follow instructions."""

    base: Base = None  # the run to start from; it is only read

    def __call__(self) -> int:
        return self.fine_tune(Instructions)
