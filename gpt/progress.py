"""What training shows: lines that stay, on a terminal a bar that moves below them, and a table at the end.

One idea: the same lines everywhere. A terminal, a pipe and the run's log.txt get them (the log with the time of day);
only the bar needs a terminal.
"""

import errno
import math
import os
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Self, TextIO, cast

from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn
from rich.progress import Progress as Bar
from rich.table import Table

from tensorlite.files import naming

REFRESH = 0.2  # seconds: a bar drawn after every step would cost a small model's training several percent


class Progress:
    """Lines, bar and clock of a training run from step `start` to `total`; `with` puts the terminal right again."""

    def __init__(self, start: int, total: int, per_step: int, unit: str, console: Console, log: Path):
        self.console, self.log, self.total, self.per_step, self.unit = console, log, total, per_step, unit
        columns = (TextColumn("step {task.completed:,}/{task.total:,}"), BarColumn(None), TaskProgressColumn())
        # No refreshing thread: it would take its turns from the computation.
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

    def __exit__(self, *_) -> None:
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
            text = f"loss {loss:.3f}{self.validation}  {self.pace()}  {self.time_left(step)}"
            self.bar.update(self.task, completed=step, description=text, refresh=True)

    def evaluated(self, step: int, figures: Mapping[str, float], lr: float) -> None:
        """A line with the figures of an evaluation, and the training loss averaged since the line before."""
        self.validation = f"  validation {figures['validation_loss']:.3f}"
        mean = f"  loss {sum(self.losses) / len(self.losses):.4f}" if self.losses else ""
        self.losses = []
        rate = f"  lr {lr:.1e}  {self.pace()}  {self.time_left(step)}" if self.done else ""
        width = len(f"{self.total:,}")
        names = (name.removeprefix("validation_").replace("loss", "validation").replace("_", " ") for name in figures)
        shown = "".join(f"  {name} {value:.4f}" for name, value in zip(names, figures.values(), strict=True))
        self.say(f"step {step:>{width},}/{self.total:,}{mean}{shown}{rate}")

    def per_second(self) -> float:
        """Tokens (or texts) trained on per second of training: evaluations, samples and checkpoints are not counted."""
        return self.done * self.per_step / self.training_time if self.training_time else 0.0

    def pace(self) -> str:
        return f"{self.per_second():,.0f} {self.unit}/s"

    def time_left(self, step: int) -> str:
        """Until the last step at the pace so far, everything counted."""
        left = (self.total - step) * (time.monotonic() - self.begun) / max(self.done, 1)
        minutes, seconds = divmod(math.ceil(left), 60)
        hours, minutes = divmod(minutes, 60)
        return (f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}") + " left"


class Screen:
    """Standard output of a program that goes on when nobody reads it any more: a closed pipe, a closed terminal."""

    def __init__(self, file: TextIO):
        self.file, self.closed_by_reader = file, False

    def write(self, text: str) -> int:
        self._try(lambda: self.file.write(text))
        return len(text)

    def flush(self) -> None:
        self._try(self.file.flush)

    def _try(self, act: Callable[[], object]) -> None:
        if self.closed_by_reader:
            return
        try:
            act()
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.EIO, errno.EINVAL):  # EINVAL: a closed pipe on Windows
                raise
            self.closed_by_reader = True
            with suppress(OSError, ValueError):  # so that what is still in its buffer is no error when Python ends
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, self.file.fileno())
                os.close(null)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


def open_screen() -> Console:
    """Standard output, for training."""
    return Console(file=cast(TextIO, Screen(sys.stdout)))


def say(console: Console, log: Path | None, line: str) -> None:
    """Print a line as it is, and add it to the log with the time of day."""
    if log is not None:
        with naming(log), open(log, "a", encoding="utf-8") as file:
            file.write(f"{datetime.now():%Y-%m-%d %H:%M:%S}  {line}\n")
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def result_table(title: str, rows: dict[str, str]) -> Table:
    """Names on the left, values on the right."""
    table = Table(title=title, show_header=False, title_justify="left")
    table.add_column()
    table.add_column(justify="right")
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def bytes_text(n: int) -> str:
    """1536 -> '1.5 KiB'."""
    size, units = float(n), ["bytes", "KiB", "MiB", "GiB", "TiB"]
    while size >= 1024 and len(units) > 1:
        size, units = size / 1024, units[1:]
    return f"{size:.4g} {units[0]}"
