"""The output of training: lines, a progress bar below them on a terminal, and a table at the end.

The same lines everywhere: a terminal, a pipe and the run's log.txt get them (the log with the time of day). Only the
bar needs a terminal. There a line of figures stays on one row: figures that do not fit are only in the log.
"""

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn
from rich.progress import Progress as Bar

from ..console import say

REFRESH = 0.2  # seconds: a bar drawn after every step would cost a small model's training several percent


class Progress:
    """Lines, bar and clock of a training run from step `start` to `total`; `with` restores the terminal at the end."""

    def __init__(self, start: int, total: int, per_step: int, unit: str, console: Console, log: Path):
        self.console, self.log, self.total, self.per_step, self.unit = console, log, total, per_step, unit
        columns = (TextColumn("step {task.completed:,}/{task.total:,}"), BarColumn(None), TaskProgressColumn())
        # No refreshing thread: it would compete with the computation.
        self.bar = Bar(*columns, TextColumn("{task.description}"), console=console, auto_refresh=False, transient=True)
        self.task = self.bar.add_task("", total=total, completed=start)
        self.begun = self.drawn = time.monotonic()
        self.done, self.training_time = 0, 0.0
        self.losses: list[float] = []
        self.validation = ""

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.console.is_terminal:
            self.bar.stop()

    def say(self, line: str) -> None:
        """Print a line and add it to the log."""
        say(self.console, self.log, line)

    def step(self, step: int, loss: float, seconds: float) -> None:
        """One more step, which took `seconds`."""
        self.done += 1
        self.training_time += seconds
        self.losses.append(loss)
        if self.console.is_terminal and time.monotonic() - self.drawn > REFRESH:
            self.drawn = time.monotonic()
            text = fitting([f"loss {loss:.3f}", self.pace(), self.time_left(step), self.validation], self.beside_bar())
            self.bar.update(self.task, completed=step, description=text, refresh=True)

    def evaluated(self, step: int, figures: Mapping[str, float], lr: float) -> None:
        """A line with the figures of an evaluation, and the training loss averaged since the line before."""
        self.validation = f"validation {figures['validation_loss']:.3f}"
        parts = [f"step {step:>{len(f'{self.total:,}')},}/{self.total:,}"]
        parts += [f"loss {sum(self.losses) / len(self.losses):.4f}"] if self.losses else []
        parts += [figure_text(name, value) for name, value in figures.items()]
        parts += [f"lr {lr:.1e}", self.pace(), self.time_left(step)] if self.done else []
        self.losses = []
        whole = "  ".join(parts)
        say(self.console, self.log, whole, fitting(parts, self.console.width) if self.console.is_terminal else whole)

    def beside_bar(self) -> int:
        """Number of cells of the terminal's row for the text after the bar; the bar keeps ten."""
        return self.console.width - len(f"step {self.total:,}/{self.total:,}") - len(" 100% ") - 11

    def per_second(self) -> float:
        """Tokens (or texts) trained on per second of training: evaluations, samples and checkpoints are not counted."""
        return self.done * self.per_step / self.training_time if self.training_time else 0.0

    def pace(self) -> str:
        return f"{self.per_second():,.0f} {self.unit}/s"

    def time_left(self, step: int) -> str:
        """Seconds until the last step at the pace so far, including evaluations and checkpoints."""
        left = (self.total - step) * (time.monotonic() - self.begun) / max(self.done, 1)
        minutes, seconds = divmod(math.ceil(left), 60)
        hours, minutes = divmod(minutes, 60)
        return (f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}") + " left"


def figure_text(name: str, value: float) -> str:
    """A figure of an evaluation in a few characters: "validation 1.2345", "accuracy 95.0%", "(training 97.5%)"."""
    what, _, kind = name.partition("_")
    if kind == "accuracy":
        return f"accuracy {value:.1%}" if what == "validation" else f"({what} {value:.1%})"
    return f"{what if kind == 'loss' else name.replace('_', ' ')} {value:.4f}"


def fitting(parts: list[str], width: int) -> str:
    """The parts joined by two spaces: as many of the first ones as fit, and at least one."""
    line, *others = [part for part in parts if part]
    for part in others:
        if len(line) + 2 + len(part) > width:
            break
        line += f"  {part}"
    return line
