"""Text on a terminal: escaping of control characters, progress bars, and output to a closed pipe."""

import errno
import os
import shlex
import stat
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, TextIO, TypeVar, cast

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table
from rich.text import Text

from tensorlite.files import naming

Item = TypeVar("Item")
LOST = (  # errors of a write to a closed standard output; EINVAL: a closed pipe on Windows
    errno.EPIPE, errno.EIO, errno.EINVAL, errno.EBADF,
    errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC),
)  # fmt: skip


class Screen:
    """Standard output for a program that continues when a write fails: a closed pipe or terminal, a full disk."""

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
            with suppress(OSError, ValueError):  # otherwise the buffered rest would raise when Python exits
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, self.file.fileno())
                os.close(null)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


class Output(Console):
    """Standard output or error. A closed pipe is a BrokenPipeError, as with `print`; rich would exit with status 1."""

    def on_broken_pipe(self) -> None:
        raise


def open_screen() -> Console:
    """Standard output, for training."""
    return Console(file=cast(TextIO, Screen(sys.stdout or open(os.devnull, "w"))))


def piped_text(wait: bool = False) -> str | None:
    """All of standard input, without a line end at its end; None where nothing is piped in and not `wait`.

    Piped in is a pipe, a socket or a file; a terminal and /dev/null are not. ValueError for input that is not UTF-8.
    """
    if not wait:
        try:
            mode = os.fstat(sys.stdin.fileno()).st_mode
        except (OSError, ValueError, AttributeError):  # closed, or replaced by an object without a file
            return None
        if not (stat.S_ISFIFO(mode) or stat.S_ISREG(mode) or stat.S_ISSOCK(mode)):
            return None
    data = getattr(sys.stdin, "buffer", None)
    try:
        text = sys.stdin.read() if data is None else data.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise ValueError(f"standard input is not UTF-8 (byte {byte:#04x} at position {error.start})") from None
    text = text.replace("\r\n", "\n")
    return text.removesuffix("\n")


# ----- text on a screen -------------------------------------------------------------------------------------------

_CONTROL = {code: f"\\x{code:02x}" for code in (*range(32), 127, *range(128, 160)) if chr(code) not in "\n\t"}


def visible(text: str) -> str:
    """The text with control characters other than "\\n" and "\\t" escaped as \\x1b, so that a terminal ignores them."""
    return text.translate(_CONTROL)


def in_shell(path: str | os.PathLike[str]) -> str:
    """A path as it is typed in a command: quoted for a shell, and never like a flag."""
    name = os.fspath(path)
    return shlex.quote(f"./{name}" if name.startswith("-") else name)


def show(text: str) -> None:
    """Write to standard output and flush: on a terminal with control characters escaped, elsewhere unchanged."""
    sys.stdout.write(visible(text) if sys.stdout.isatty() else text)
    sys.stdout.flush()


def counted(n: int, what: str) -> str:
    """1, "token" -> "1 token"; 2000, "token" -> "2,000 tokens"."""
    return f"{n:,} {what}{'s' * (n != 1)}"


@contextmanager
def bar(what: str, total: int | None = None, unit: str = "") -> Iterator[Callable[[int], None]]:
    """Show a progress bar while the block runs, if standard error is a terminal; yields a function that advances it.

    With the unit "bytes" it also shows the bytes that are done and their rate.
    """
    console = Output(stderr=True)
    rate = (DownloadColumn(), TransferSpeedColumn()) if unit == "bytes" else ()
    columns = (TextColumn("{task.description}"), BarColumn(None), TaskProgressColumn(), *rate, TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as shown:
        task = shown.add_task(what, total=total)
        yield lambda n: shown.advance(task, n)


def passing(
    items: Iterable[Item], advance: Callable[[int], None], size: Callable[[Item], int] = lambda item: 1
) -> Iterator[Item]:
    """Yield the items unchanged, and call `advance(size(item))` after each."""
    for item in items:
        yield item
        advance(size(item))


def say(console: Console, log: Path | None, line: str, shown: str | None = None) -> None:
    """Add a line to the log with the time of day, and print it, or `shown` instead, with control characters escaped.

    On a terminal, a line that is longer than the terminal is wrapped between words.
    """
    line = visible(line)
    if log is not None:
        with naming(log), open(log, "a", encoding="utf-8", errors="backslashreplace") as file:  # odd bytes of a path
            file.write(f"{datetime.now():%Y-%m-%d %H:%M:%S}  {line}\n")
    text = line if shown is None else visible(shown)
    how: dict[str, Any] = {"overflow": "fold"} if console.is_terminal else {"soft_wrap": True}
    console.print(text, markup=False, highlight=False, **how)


def result_table(title: str, rows: dict[str, str]) -> Table:
    """Names on the left, values on the right; all are plain text: "[b]" is not interpreted as markup."""
    table = Table(title=Text(title, style="table.title"), show_header=False, title_justify="left")
    table.add_column(overflow="fold")
    table.add_column(justify="right", overflow="fold")
    for name, value in rows.items():
        table.add_row(Text(name), Text(value))
    return table


def printable(text: str, most: int) -> str:
    """Untrusted text, safe to print: control and invisible characters are escaped, the middle of a long text is cut.

    Line ends stay. Names in files and answers of servers may contain any characters and have any length.
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
