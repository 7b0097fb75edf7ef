"""`gpt runs`: a table of the runs below a folder."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from rich import box
from rich.table import Table
from rich.text import Text
from tyro.conf import Positional, arg

from .. import look
from ..console import Output, visible
from ..look import Run
from ..look.figures import figure_text
from ..look.run_list import find_runs


@dataclass(frozen=True)
class Runs:
    """List the runs in a folder, and up to three levels below it."""

    folder: Annotated[Positional[Path], arg(metavar="FOLDER")] = Path("runs")  # a folder of runs; they are only read
    json: bool = False  # print a JSON object for each run, one a line

    def __call__(self) -> int:
        found, unread = [], []
        for path in find_runs(self.folder):
            try:
                found.append(look.run(path))
            except (OSError, ValueError) as error:
                unread.append(str(error))
        if not found and not unread:
            raise FileNotFoundError(f"there is no run in {self.folder}: gpt train makes one in runs/")
        for problem in unread:
            print(f"gpt: warning: {visible(problem)}", file=sys.stderr)
        if self.json:
            for one in found:
                print(json.dumps({"run": str(one.path), **one.to_dict()}))
        elif found:
            console = Output(highlight=False)
            if console.width >= WIDE:
                console.print(table(self.folder, found))
            else:
                for one in found:
                    console.print(paragraph(self.folder, one), markup=False)
        return 0 if found else 1


HEADS = ("run", "task", "steps", "size", "lowest loss", "changed")
WIDE = 75  # columns of a terminal that has room for the table


def table(folder: Path, found: list[Run]) -> Table:
    """A row for each run. At 80 columns the names are folded, nothing else."""
    shown = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    shown.add_column("run", overflow="fold", min_width=10)
    for head in HEADS[1:]:
        shown.add_column(head, justify="right" if head in ("steps", "size", "lowest loss") else "left", no_wrap=True)
    for one in found:
        shown.add_row(*(Text(visible(text)) for text in row(folder, one)))
    return shown


def paragraph(folder: Path, one: Run) -> str:
    """The same for a narrow terminal: a line for each cell, below the name."""
    name, *cells = map(visible, row(folder, one))
    return "\n".join([name, *(f"  {head}: {cell}" for head, cell in zip(HEADS[1:], cells, strict=True))])


def row(folder: Path, one: Run) -> list[str]:
    """The cells of a run: its path below the folder, task, steps (of all, if unfinished), parameters, lowest validation
    loss, date.
    """
    lowest = one.metrics["validation_loss"].lowest()
    name = str(one.path.relative_to(folder)) if one.path != folder else one.name
    if "imported" in one.description:
        steps = "imported"
    else:
        steps = f"{one.last:,}" if one.finished or not one.total else f"{one.last:,} of {one.total:,}"
    return [
        name,
        one.task,
        steps,
        short(one.parameters),
        f"{figure_text('validation_loss', lowest[0])} @ {lowest[1]:,}" if lowest else "-",
        one.changed.partition(" ")[0],
    ]


def short(number: int) -> str:
    """816640 -> "817K", 124439808 -> "124M"."""
    for unit, size in (("G", 10**9), ("M", 10**6), ("K", 10**3)):
        if number >= size:
            value = number / size
            return f"{value:.0f}{unit}" if value >= 100 else f"{value:.3g}{unit}"
    return str(number)
