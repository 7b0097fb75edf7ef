"""`gpt compare`: the settings in which runs differ, their results, and their curves as a picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from rich.table import Table
from rich.text import Text
from tyro.conf import Positional, arg

from ..console import Output, counted, visible

if TYPE_CHECKING:
    from ..look.comparison import Comparison, Row


WIDE = 60  # columns of a terminal that has room for tables


@dataclass(frozen=True)
class Compare:
    """Compare runs: the settings in which they differ, and their results."""

    runs: Annotated[Positional[tuple[Path, ...]], arg(metavar="RUN")]  # runs, or folders of runs; they are only read
    out: Path | None = None  # also draw all curves on one plot, as a PNG
    overwrite: bool = False  # replace the file `out` if there is one
    all: bool = False  # also show the settings that are the same

    def __call__(self) -> int:
        from .. import look  # here, since other commands do not need it

        if self.out is not None:
            look.comparison.check_png(self.out)
        if self.out is not None and self.out.exists() and not self.overwrite:
            raise FileExistsError(f"{self.out} exists already: name another file, or give --overwrite")
        found, console = look.compare(self.runs), Output(highlight=False)
        narrow = console.width < max(WIDE, 24 + 9 * len(found.names))  # a column with a loss has 9 characters
        heads = found.names if narrow else heads_of(found)
        if heads != found.names:
            for head, name in zip(heads, found.names, strict=True):
                console.print(f"{head}  {visible(name)}", markup=False, soft_wrap=True)
        show = lines if narrow else table
        console.print(show("results", found.results, heads))
        rows = found.settings if self.all else found.differences
        if rows:
            console.print(show("settings" if self.all else "settings that differ", rows, heads, self.all))
        else:
            console.print(f"all settings{' that the runs share' if found.partial else ''} are the same")
        if found.partial and not self.all:
            console.print(f"{counted(len(found.partial), 'setting')} that only some of the runs have: --all shows them")
        for note in found.notes:
            console.print(note, markup=False)
        if self.out is not None:
            found.save(self.out, self.overwrite)
            console.print(f"drawn      {visible(str(self.out))}", markup=False, soft_wrap=True)
        return 0


def heads_of(found: "Comparison") -> list[str]:
    """The columns' heads: the runs' names where they are short and few, else numbers that a list explains."""
    room = 52 // len(found.names)
    if all(len(name) <= max(room, 6) for name in found.names) and len(found.names) <= 5:
        return found.names
    return [f"{i + 1}" for i in range(len(found.names))]


def lines(title: str, rows: "Sequence[Row]", heads: Sequence[str], mark: bool = False) -> Text:
    """What `table` shows, for a narrow terminal: each value on a line of its own."""
    parts: list[str | tuple[str, str]] = [(f"{title}\n", "table.title")]
    for row in rows:
        parts.append((f"{marked(row, mark)}\n", "bold"))
        parts += [f"  {visible(head)}: {visible(text)}\n" for head, text in zip(heads, row.values, strict=True)]
    return Text.assemble(*parts)


def marked(row: "Row", mark: bool) -> str:
    """The name of a row; with `mark`, ≠ before one that differs."""
    return f"{'≠' if row.differs else ' '} {row.name}" if mark else row.name


def table(title: str, rows: "Sequence[Row]", heads: Sequence[str], mark: bool = False) -> Table:
    """Rows of settings or results; with `mark`, ≠ before each that differs. All texts are plain."""
    found = Table(title=Text(title, style="table.title"), title_justify="left")
    found.add_column(overflow="fold")
    for head in heads:
        found.add_column(Text(visible(head)), overflow="fold")
    for row in rows:
        found.add_row(*(Text(visible(text)) for text in (marked(row, mark), *row.values)))
    return found
