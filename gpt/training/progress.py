"""What training shows: lines that stay, on a terminal a bar that moves below them, and a table at the end.

The same lines everywhere: a terminal, a pipe and the run's log.txt get them (the log with the time of day). Only the
bar needs a terminal. There a line of figures stays on one row: what does not fit beside the loss is left to the log.
"""

import errno
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Self, TextIO, TypeVar, cast

from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table
from rich.text import Text

from tensorlite.files import naming

Item = TypeVar("Item")
LOST = (  # what a write to standard output may fail with; EINVAL: a closed pipe on Windows
    errno.EPIPE, errno.EIO, errno.EINVAL, errno.EBADF,
    errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC),
)  # fmt: skip
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
        """How many cells the terminal's row has for the text behind the bar; the bar keeps ten."""
        return self.console.width - len(f"step {self.total:,}/{self.total:,}") - len(" 100% ") - 11

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


def figure_text(name: str, value: float) -> str:
    """A figure of an evaluation in a few characters: "validation 1.2345", "accuracy 95.0%", "(training 97.5%)"."""
    what, _, kind = name.partition("_")
    if kind == "accuracy":
        return f"accuracy {value:.1%}" if what == "validation" else f"({what} {value:.1%})"
    return f"{what if kind == 'loss' else name.replace('_', ' ')} {value:.4f}"


def fitting(parts: list[str], width: int) -> str:
    """The parts, two spaces apart: as many of the first ones as fit, and the first in any case."""
    line, *others = [part for part in parts if part]
    for part in others:
        if len(line) + 2 + len(part) > width:
            break
        line += f"  {part}"
    return line


class Screen:
    """Standard output of a program that goes on when it cannot be written: a closed pipe or terminal, a full disk."""

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
            if error.errno not in LOST:
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
    return Console(file=cast(TextIO, Screen(sys.stdout or open(os.devnull, "w"))))


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


def say(console: Console, log: Path | None, line: str, shown: str | None = None) -> None:
    """Add a line to the log with the time of day, and print it, or `shown` in its place; control characters are shown.

    A terminal gets it broken between words where it is longer than the terminal is wide.
    """
    line = visible(line)
    if log is not None:
        with naming(log), open(log, "a", encoding="utf-8", errors="backslashreplace") as file:  # odd bytes of a path
            file.write(f"{datetime.now():%Y-%m-%d %H:%M:%S}  {line}\n")
    text = line if shown is None else visible(shown)
    how: dict[str, Any] = {"overflow": "fold"} if console.is_terminal else {"soft_wrap": True}
    console.print(text, markup=False, highlight=False, **how)


def result_table(title: str, rows: dict[str, str]) -> Table:
    """Names on the left, values on the right; all of them are plain text, in which "[b]" is no markup."""
    table = Table(title=Text(title, style="table.title"), show_header=False, title_justify="left")
    table.add_column(overflow="fold")
    table.add_column(justify="right", overflow="fold")
    for name, value in rows.items():
        table.add_row(Text(name), Text(value))
    return table


def printable(text: str, most: int) -> str:
    """Text of others, safe to show: what steers a terminal or is invisible is escaped, the middle of a long one cut.

    Line ends stay. Names in files and what servers answer may hold anything, and be of any length.
    """
    if len(text) > most:
        text = f"{text[: most * 3 // 4]} ... {text[-most // 4 :]}"
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)


def bytes_text(n: int) -> str:
    """1536 -> '1.5 KiB'."""
    size, units = float(n), ["bytes", "KiB", "MiB", "GiB", "TiB"]
    while size >= 1024 and len(units) > 1:
        size, units = size / 1024, units[1:]
    return f"{size:.4g} {units[0]}"
