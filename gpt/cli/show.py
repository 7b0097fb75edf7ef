"""`gpt show`: one run, described."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from rich.table import Table
from rich.text import Text
from tyro.conf import Positional, arg

from .. import look
from ..console import Output, visible


@dataclass(frozen=True)
class Show:
    """Describe a run: its model, data, settings, results, the checkpoints that it keeps, and its size on disk."""

    run: Annotated[Positional[Path], arg(metavar="RUN")]  # directory of the run; it is only read
    all: bool = False  # show all settings, not only those that are not defaults
    json: bool = False  # print everything as JSON

    def __call__(self) -> int:
        found = look.summary(self.run)
        if self.json:
            print(json.dumps(found.to_dict(), indent=2))
            return 0
        console = Output(highlight=False)
        for title, rows in found.sections(self.all).items():
            if rows:
                console.print(Text(title, style="bold"))
                console.print(section(rows))
        return 0


def section(rows: dict[str, str]) -> Table:
    """Names and values, indented; long values are wrapped."""
    shown = Table.grid(padding=(0, 2, 0, 0))
    shown.add_column(width=2)
    shown.add_column(overflow="fold", min_width=24, max_width=34)
    shown.add_column(overflow="fold")
    for name, value in rows.items():
        shown.add_row("", Text(visible(name)), Text(visible(value)))
    return shown
