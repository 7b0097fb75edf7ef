"""Shared by the chapters: comparison with the page's numbers, the book's files, pictures.

`compare` takes the computed value and the page's, rounds the first to as many digits as the
second has, prints both in a row, and counts. Every number that is printed as ours is computed.
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

NOISE = 2e-6  # times the largest number: the effect of the order of float32 sums, which can change a rounded digit

rows: list[tuple[str, str]] = []  # (sign, name) of every comparison so far


def compare(name: str, ours, page: str) -> bool:
    """Print `ours` next to the `page`'s value. "==": the same digits; "!=": different; "~=": different by rounding.

    `ours` is a text, a number, or any nesting of numbers (lists, Tensors); `page` is a text, in which numbers are
    separated by spaces: "0.3190 0.4858", "7.45e-05", "163,009,536". "~=" means within half of the page's last
    digit and two millionths of the row's largest number, the precision of float32.
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
    """`value` in the format of `printed`: decimals, thousands separators, exponent."""
    comma = "," if "," in printed else ""
    if isinstance(value, int):
        return f"{value:{comma}}"
    return f"{value:{comma}.{decimals(printed)}{'e' if 'e' in printed else 'f'}}"


def decimals(printed: str) -> int:
    return len(printed.partition("e")[0].partition(".")[2])


def number(text: str) -> float:
    return float(text.replace(",", ""))


def edge(printed: str, largest: float) -> float:
    """The largest distance from the `printed` number that rounding explains."""
    if decimals(printed) == 0 and "e" not in printed:
        return 0.0  # a count
    power = int(printed.partition("e")[2] or 0) - decimals(printed)
    return 0.5 * 10**power + NOISE * largest


def summary() -> None:
    """Print how many comparisons agree, and which do not."""
    signs = [sign for sign, _ in rows]
    print(f"\n{len(rows)} comparisons: {signs.count('==')} ==, {signs.count('~=')} ~=, {signs.count('!=')} !=")
    for sign, name in rows:
        if sign == "!=":
            print(f"   not the page's: {name}")


# ----- settings and files --------------------------------------------------------------------------------------


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
    """Save the figure as `out`/`name`.png; in a notebook, show it too."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{name}.png"
    figure.savefig(path, dpi=120)
    print(f"picture: {path}")
    if IN_NOTEBOOK:
        from IPython.display import display

        display(figure)
