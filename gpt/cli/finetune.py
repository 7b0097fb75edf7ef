"""`gpt finetune ...`: a trained GPT learns a task."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Self

from tyro.conf import Positional, arg

from ..console import open_screen
from ..tasks.classify.settings import ClassifyConfig
from ..tasks.classify.task import Classification
from ..tasks.instruct import InstructConfig, Instructions
from ..training import session
from ..training.loop import train
from ..training.settings import FineTuneConfig
from ..training.task import Task
from .train import following

Base = Annotated[Positional[Path | None], arg(metavar="RUN")]


class Finetune(FineTuneConfig):
    """What the commands share."""

    @classmethod
    def default(cls, args: list[str]) -> Self:
        """What the flags change: what the run was started with, for one that is resumed."""
        resumed = following(args, "--resume")
        return session.settings(Path(os.path.expanduser(resumed)), cls) if resumed else cls()

    def fine_tune(self, task: type[Task]) -> int:
        result = train(self, open_screen(), task)
        return 0 if result.stopped_by is None else 128 + result.stopped_by


@dataclass(frozen=True, kw_only=True)
class FinetuneClassify(ClassifyConfig, Finetune):
    """Let a trained GPT learn to label texts."""

    base: Base = None  # the run to start from; it is only read

    def __call__(self) -> int:
        return self.fine_tune(Classification)


@dataclass(frozen=True, kw_only=True)
class FinetuneInstruct(InstructConfig, Finetune):
    """Let a trained GPT learn to follow instructions."""

    base: Base = None  # the run to start from; it is only read

    def __call__(self) -> int:
        return self.fine_tune(Instructions)
