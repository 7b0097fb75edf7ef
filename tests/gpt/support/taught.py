"""What the tests of instruction fine-tuning share: two entries that are easy to learn, and a tiny fine-tuning."""

import io
from pathlib import Path

from rich.console import Console

from gpt.tasks.instruct import InstructConfig, Instructions
from gpt.training import loop as training

YES = {"instruction": "Say yes.", "input": "", "output": "yes"}
NO = {"instruction": "Say", "input": "no", "output": "no"}
ENTRIES = [YES, NO] * 15
SETTINGS = {
    "style": "phi3", "steps": 60, "lr": 0.02, "eval_every": 20, "sample_every": 30, "checkpoint_every": 20,
    "max_new_tokens": 6,
}  # fmt: skip


def config(folder: Path, name: str = "run", **changes) -> InstructConfig:
    given = {"base": folder / "base", "data": folder / "data.json", "out": folder / name, **SETTINGS, **changes}
    return InstructConfig(**given)


def tune(folder: Path, name: str, **changes) -> str:
    screen = io.StringIO()
    training.train(config(folder, name, **changes), Console(file=screen, width=120), Instructions)
    return screen.getvalue()
