"""`gpt train`: train a GPT on text."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tensorlite.devices import machine

from ..console import open_screen
from ..tasks.pretrain import TrainConfig
from ..training import session
from ..training.loop import train


@dataclass(frozen=True, kw_only=True)
class Train(TrainConfig):
    """Train a GPT on text."""

    @classmethod
    def default(cls, args: list[str]) -> Self:
        """The flags' defaults: with --resume the settings of that run."""
        resumed = value_of(args, "--resume")
        return cls(**vars(session.settings(Path(os.path.expanduser(resumed))))) if resumed else cls()

    def __call__(self) -> int:
        console = open_screen()
        for warning in machine.blas_environment():
            console.print(f"warning: {warning}", markup=False, highlight=False, soft_wrap=True)
        result = train(self, console)
        return 0 if result.stopped_by is None else 128 + result.stopped_by


def value_of(args: list[str], flag: str) -> str | None:
    """The value of `flag` among the arguments, None where it is not given."""
    for i, arg in enumerate(args):
        if arg == flag and i + 1 < len(args):
            return args[i + 1]
        if arg.startswith(f"{flag}="):
            return arg.removeprefix(f"{flag}=")
    return None
