"""Shared by the chapters: settings, comparison with the page's numbers, the book's files, pictures.

`compare` takes the computed value and the page's, rounds the first to as many digits as the
second has, prints both in a row, and counts. Every number that is printed as ours is computed.
`same` compares what a chapter writes out in cells with the library's own.
"""

import ast
import io
import os
import re
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import field, make_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from matplotlib.figure import Figure

from gpt.data.download import fetch
from gpt.data.sources import DATA
from gpt.tokenizer import BPETokenizer, gpt2
from tensorlite import Tensor

PARAMETERS = '# %% tags=["parameters"]'  # the cell of a chapter's settings; the tag is papermill's and jupytext's
NUMBER = re.compile(r"[-+]?(?:\d[\d,]*\.?\d*|\.\d+)(?:e[-+]?\d+)?")
IN_NOTEBOOK = "ipykernel.kernelapp" in sys.modules  # the package alone may be imported anywhere

NOISE = 2e-6  # times the largest number: the effect of the order of float32 sums, which can change a rounded digit

rows: list[tuple[str, str]] = []  # (sign, name) of every comparison so far


def compare(name: str, ours, page: str, source: str = "page") -> None:
    """Print `ours` next to the `page`'s value. "==": the same digits; "!=": different; "~=": different by rounding.

    `ours` is a text, a number, or any nesting of numbers (lists, Tensors); `page` is a text, in which numbers are
    separated by spaces: "0.3190 0.4858", "7.45e-05", "163,009,536". "~=" means within half of the page's last
    digit and two millionths of the row's largest number, the precision of float32. `source` says where the value is
    from: the print edition ("page"), or a notebook of the book's repository ("notebook").
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
    label = f"   {source}: "
    gap = label if len(name) + len(shown) + len(theirs) < 100 else f"\n{label}" + " " * (len(name) + 5 - len(label))
    print(f"{sign} {name}: {shown}{gap}{theirs}{note}", flush=True)


def same(name: str, ours, library, within: float = 0.0) -> None:
    """Check that `ours`, from the code in the cells, and the `library`'s are the same; AssertionError where not.

    Both are texts or any nesting of numbers. `within` is the largest difference allowed, relative to the largest
    number; 0, the default, means that every bit is the same.
    """
    if isinstance(ours, str):
        assert ours == library, f"{name}: {ours!r} is not the library's {library!r}"
        apart = 0.0
    else:
        pairs = list(zip(flatten(ours), flatten(library), strict=True))
        largest = max(abs(float(theirs)) for _, theirs in pairs) or 1.0
        distances = [abs(float(mine) - float(theirs)) / largest for mine, theirs in pairs]
        apart = max(distances)
        assert all(distance <= within for distance in distances), f"{name}: {apart:.2g} apart, relative to the largest"
    print(f"   the library's {name}: {f'up to {apart:.1e} apart' if apart else 'the same'}", flush=True)


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


def flags(scope: dict[str, Any]) -> None:
    """Let the command line change the settings of a script: the names in capitals of its cell "parameters".

    `scope` is the script's globals(). STEPS = 90 is the flag --steps, of the type of its value or annotation; the
    comment behind it is its help. In a notebook this does nothing: there the cell itself is changed.
    """
    if IN_NOTEBOOK:
        return
    source = Path(scope["__file__"]).read_text(encoding="utf-8")
    title = source.splitlines()[1].removeprefix("# # ")
    cell = source.partition(PARAMETERS)[2].partition("\n# %%")[0]
    fields = []
    for node in ast.parse(cell).body:
        assert isinstance(node, ast.Assign | ast.AnnAssign), f"the cell of settings has only settings: {title}"
        name = ast.unparse(node.target if isinstance(node, ast.AnnAssign) else node.targets[0])
        annotated = isinstance(node, ast.AnnAssign)
        kind = eval(ast.unparse(node.annotation), {"Literal": Literal}) if annotated else type(scope[name])
        about = tyro.conf.arg(help=cell.splitlines()[node.lineno - 1].partition("  # ")[2])
        fields.append((name.lower(), Annotated[kind, about], field(default=scope[name])))
    chosen = tyro.cli(make_dataclass("Settings", fields), description=title)
    scope.update({name.upper(): getattr(chosen, name) for name, *_ in fields})


def folder(name: str | None) -> Path:
    """The folder for pictures and weights, which is created: `name`, or "tensorlite-book" for temporary files."""
    path = Path(name) if name else Path(tempfile.gettempdir(), "tensorlite-book")
    path.mkdir(parents=True, exist_ok=True)
    return path


def data(name: str) -> Path:
    """One of the book's files, by its name in `gpt data list`: from the folder TENSORLITE_DATA, or downloaded once."""
    folder = os.environ.get("TENSORLITE_DATA")
    return Path(folder) / DATA[name].files[0].name if folder else fetch(name)


def tokenizer() -> BPETokenizer:
    """GPT-2's."""
    return gpt2(os.environ.get("TENSORLITE_DATA") or fetch("gpt2-tokenizer"))


def picture(figure: Figure, name: str, out: Path) -> None:
    """Save the figure as `out`/`name`.png; in a notebook, show it instead."""
    if IN_NOTEBOOK:
        from IPython.display import Image, display

        figure.savefig(png := io.BytesIO(), dpi=96)
        display(Image(png.getvalue()))
        return
    path = out / f"{name}.png"
    figure.savefig(path, dpi=120)
    print(f"picture: {path}")
