"""What every chapter here needs: a number beside the page's, the book's files, a picture.

`compare` is the one idea. It takes what was computed and what the page shows, rounds the first to as many digits as the
second has, prints both in a row, and counts. Nothing that is printed as ours comes from anywhere but a computation.
"""

import os
import re
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

import tyro
from matplotlib.figure import Figure

from gpt.data.download import fetch
from gpt.data.sources import DATA
from gpt.tokenizer import BPETokenizer, gpt2
from tensorlite import Tensor

OUT = Path(tempfile.gettempdir(), "tensorlite-book")
NUMBER = re.compile(r"[-+]?(?:\d[\d,]*\.?\d*|\.\d+)(?:e[-+]?\d+)?")
IN_NOTEBOOK = "ipykernel" in sys.modules

NOISE = 2e-6  # of the largest number: what the order of float32 sums may change; it can tip a digit on the edge

rows: list[tuple[str, str]] = []  # (sign, name) of every comparison so far


def compare(name: str, ours, page: str) -> bool:
    """Print `ours` beside what the `page` shows. "==": the same digits; "!=": not. "~=": not, but it is on the edge.

    `ours` is a text, a number, or any nesting of numbers (lists, Tensors); `page` is a text, in which numbers stand
    apart by spaces: "0.3190 0.4858", "7.45e-05", "163,009,536". On the edge is what lies within half of the page's last
    digit and two millionths of the row's largest number, which is as much as float32 can promise.
    """
    if isinstance(ours, str):
        sign, shown, theirs, note = "==" if ours == page else "!=", repr(ours), repr(page), ""
    else:
        values, printed = list(flatten(ours)), NUMBER.findall(page)
        if len(values) != len(printed):
            raise ValueError(f"compare {name!r}: {len(values)} numbers were computed, {len(printed)} are on the page")
        texts = [like(value, text) for value, text in zip(values, printed, strict=True)]
        apart = [abs(value - number(text)) for value, text in zip(values, printed, strict=True)]
        pairs = list(zip(texts, printed, apart, strict=True))
        if all(number(text) == number(other) for text, other, _ in pairs):
            sign = "=="
        elif all(distance <= edge(other, max(abs(number(text)) for text in printed)) for _, other, distance in pairs):
            sign = "~="
        else:
            sign = "!="
        shown, theirs = " ".join(texts), " ".join(printed)
        note = "" if sign == "==" else f"   up to {max(apart):.2g} apart"
    rows.append((sign, name))
    gap = "   page: " if len(name) + len(shown) + len(theirs) < 100 else "\n   page: " + " " * max(0, len(name) - 5)
    print(f"{sign} {name}: {shown}{gap}{theirs}{note}", flush=True)
    return sign != "!="


def flatten(value) -> Iterable[float]:
    """The numbers in `value`, from left to right."""
    if isinstance(value, Tensor):
        value = value.tolist()
    if hasattr(value, "tolist"):  # NumPy's
        value = value.tolist()
    if isinstance(value, list | tuple):
        for part in value:
            yield from flatten(part)
    else:
        yield value


def like(value: float, printed: str) -> str:
    """`value` in the manner of `printed`: as many decimals, thousands set off, an exponent."""
    comma = "," if "," in printed else ""
    if isinstance(value, int):
        return f"{value:{comma}}"
    return f"{value:{comma}.{decimals(printed)}{'e' if 'e' in printed else 'f'}}"


def decimals(printed: str) -> int:
    return len(printed.partition("e")[0].partition(".")[2])


def number(text: str) -> float:
    return float(text.replace(",", ""))


def edge(printed: str, largest: float) -> float:
    """How far from the `printed` number one may be and still have computed it."""
    if decimals(printed) == 0 and "e" not in printed:
        return 0.0  # a count
    power = int(printed.partition("e")[2] or 0) - decimals(printed)
    return 0.5 * 10**power + NOISE * largest


def summary() -> None:
    """How many of the comparisons came out, and which did not."""
    signs = [sign for sign, _ in rows]
    print(f"\n{len(rows)} comparisons: {signs.count('==')} ==, {signs.count('~=')} ~=, {signs.count('!=')} !=")
    for sign, name in rows:
        if sign == "!=":
            print(f"   not the page's: {name}")


# ----- what a chapter is given ----------------------------------------------------------------------------------


def options(cls):
    """An instance of the dataclass `cls`, its fields taken from the command line; in a notebook, its defaults."""
    return cls() if IN_NOTEBOOK else tyro.cli(cls)


def data(name: str) -> Path:
    """One of the book's files, by its name in `gpt data list`: from the folder TENSORLITE_DATA, or downloaded once."""
    folder = os.environ.get("TENSORLITE_DATA")
    return Path(folder) / DATA[name].files[0].name if folder else fetch(name)


def tokenizer() -> BPETokenizer:
    """GPT-2's."""
    return gpt2(os.environ.get("TENSORLITE_DATA") or fetch("gpt2-tokenizer"))


def picture(figure: Figure, name: str, out: Path) -> None:
    """Save it as `out`/`name`.png; in a notebook, show it too."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{name}.png"
    figure.savefig(path, dpi=120)
    print(f"picture: {path}")
    if IN_NOTEBOOK:
        from IPython.display import display

        display(figure)
