"""What training shows: lines that stay, on a terminal a bar that moves below them, and a table at the end.

One idea: the same lines everywhere. A terminal, a pipe and the run's log.txt get them (the log with the time of day);
only the bar needs a terminal.
"""

import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Self, TypeVar

from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table
from rich.text import Text

Item = TypeVar("Item")
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


# ----- text on a screen -------------------------------------------------------------------------------------------

_CONTROL = {code: f"\\x{code:02x}" for code in (*range(32), 127, *range(128, 160)) if chr(code) not in "\n\t"}


def visible(text: str) -> str:
    """The text with its control characters, but for "\\n" and "\\t", written as \\x1b: a terminal would obey them."""
    return text.translate(_CONTROL)


def show(text: str) -> None:
    """Write to standard output at once: on a terminal with visible control characters, elsewhere as it is."""
    sys.stdout.write(visible(text) if sys.stdout.isatty() else text)
    sys.stdout.flush()


def counted(n: int, what: str) -> str:
    """1, "token" -> "1 token"; 2000, "token" -> "2,000 tokens"."""
    return f"{n:,} {what}{'s' * (n != 1)}"


@contextmanager
def bar(what: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """A bar on standard error while the block lasts, if that is a terminal; the function that it gives advances it."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(None), TaskProgressColumn(), TimeRemainingColumn())
    with Bar(*columns, console=console, transient=True, disable=not console.is_terminal) as shown:
        task = shown.add_task(what, total=total)
        yield lambda n: shown.advance(task, n)


def passing(
    items: Iterable[Item], advance: Callable[[int], None], size: Callable[[Item], int] = lambda item: 1
) -> Iterator[Item]:
    """The items as they come; after each `advance(size(item))`."""
    for item in items:
        yield item
        advance(size(item))


def say(console: Console, log: Path, line: str) -> None:
    """Print a line, and add it to the log with the time of day; control characters in it become visible."""
    line = visible(line)
    with open(log, "a", encoding="utf-8", errors="backslashreplace") as file:  # a path may have bytes that are no text
        file.write(f"{datetime.now():%Y-%m-%d %H:%M:%S}  {line}\n")
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def result_table(title: str, rows: dict[str, str]) -> Table:
    """Names on the left, values on the right; all of them are plain text, in which "[b]" is no markup."""
    table = Table(title=Text(title, style="table.title"), show_header=False, title_justify="left")
    table.add_column()
    table.add_column(justify="right")
    for name, value in rows.items():
        table.add_row(Text(name), Text(value))
    return table


def bytes_text(n: int) -> str:
    """1536 -> '1.5 KiB'."""
    size, units = float(n), ["bytes", "KiB", "MiB", "GiB", "TiB"]
    while size >= 1024 and len(units) > 1:
        size, units = size / 1024, units[1:]
    return f"{size:.4g} {units[0]}"
