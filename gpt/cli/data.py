"""`gpt data list` and `gpt data fetch`: download the data sets and weights that the book uses."""

from dataclasses import dataclass
from typing import Annotated

from rich import box
from rich.markup import escape
from rich.table import Table
from tyro.conf import Positional, arg

from .. import download_dir
from ..config import check_choice
from ..console import Output
from ..data import download
from ..data.sources import DATA, MODELS


@dataclass(frozen=True)
class DataList:
    """List what can be downloaded, and what of it is here."""

    def __call__(self) -> int:
        Output().print(listing())
        return 0


@dataclass(frozen=True)
class DataFetch:
    """Download data sets and weights by their names: `gpt data fetch the-verdict` prints the path of the file."""

    names: Annotated[Positional[tuple[str, ...]], arg(metavar="NAME")] = ()  # names that gpt data list shows

    def __post_init__(self) -> None:
        if not self.names:
            raise ValueError(f"fetch needs at least one name of {', '.join((*DATA, *MODELS))}")
        for name in self.names:
            check_choice("name", name, (*DATA, *MODELS))

    def __call__(self) -> int:
        for name in self.names:
            print(download.fetch(name, Output(stderr=True)), flush=True)
        return 0


def listing() -> Table:
    """A table of everything that can be downloaded, and how much of it is downloaded."""
    title = f"in {escape(str(download_dir.folder()))} (GPT_DOWNLOAD_DIR names another folder)"
    table = Table(
        title=title, title_justify="left", box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0)
    )
    for column in ("name", "what it is", "size", "here", "origin", "licence"):
        table.add_column(column, justify="right" if column == "size" else "left", no_wrap=True)
    for sources in (DATA, MODELS):
        for name, source in sources.items():
            found, all_of_it = len(download.downloaded(name, source)), len(source.files)
            here = "yes" if found == all_of_it else f"{found} of {all_of_it}" if found else "no"
            table.add_row(name, source.about, source.size, here, source.origin, source.licence)
        table.add_section()
    return table
