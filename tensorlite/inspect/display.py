"""How a Tensor and a Module look in a notebook: plain HTML and SVG, without scripts, readable in light and dark themes.

Only the elements that are shown are read, so that a Tensor of any size is shown at once, and of one on a GPU only these
are copied to the host.
"""

from collections.abc import Iterator
from html import escape
from typing import Any

import numpy as np

from ..backend import to_host
from ..nn import Module, Parameter
from ..tensor import Tensor

MOST = 32  # rows and columns of a heat map
WHOLE = 1000  # elements: NumPy prints the values of more than these with "..."
CELLS = (9, 24)  # pixels of a cell in a large and in a small heat map
WARM, COLD, GREY = (194, 65, 12), (29, 78, 216), "#9aa3af"


def html(x: Any) -> str:
    """The HTML of a Tensor or a Module."""
    return of_module(x) if isinstance(x, Module) else of_tensor(x)


# ----- Tensor -----------------------------------------------------------------------------------------------------


def of_tensor(x: Tensor) -> str:
    """Kind, shape, dtype and origin of a Tensor, its values as text, and a heat map of its last two axes."""
    facts = [type(x).__name__, f"shape {x.shape}", str(x.dtype), *([] if x.device == "cpu" else [x.device])]
    facts += [f"computed by {x.node.op.name}"] if x.node else ["requires_grad=True"] if x.requires_grad else []
    if isinstance(x, Parameter) and not x.requires_grad:
        facts.append("frozen")
    place, rows = matrix(x.data)
    parts = [f"<div><b>{escape(facts[0])}</b> {escape(' · '.join(facts[1:]))}</div>"]
    parts.append(f'<pre style="margin:4px 0;background:none">{escape(values(x.data, place, rows))}</pre>')
    if x.size > 1:
        parts += heat_map(place, rows)
    return f"<div>{''.join(parts)}</div>"


def matrix(data: Any) -> tuple[str, Any]:
    """The last two axes of an array, of further axes the first: (its name as an index, or "", an array of 2 axes)."""
    if data.ndim <= 2 or not data.size:
        return "", data.reshape((1,) * (2 - data.ndim) + data.shape) if data.ndim < 2 else data
    first = (0,) * (data.ndim - 2)
    return f"x[{', '.join(map(str, first))}]", data[first]


def values(data: Any, place: str, rows: Any) -> str:
    """The values as text: all of a small array, otherwise the corners of what `matrix` returned."""
    if data.size <= WHOLE:
        return np.array2string(to_host(data), precision=4, separator=", ", threshold=WHOLE)
    few = rows[corner(rows.shape[0])][:, corner(rows.shape[1])]
    few = to_host(few if data.ndim > 1 else few[0])
    text = np.array2string(few, precision=4, separator=", ", threshold=0, edgeitems=3)
    return f"{place} =\n{text}" if place else text


def corner(length: int) -> Any:
    """The positions of the first and last three of `length` elements, and of one between, which is printed as "..."."""
    return slice(None) if length <= 7 else [0, 1, 2, 3, length - 3, length - 2, length - 1]


def heat_map(place: str, rows: Any) -> Iterator[str]:
    """An SVG with a cell for an element, of every k-th row and column where there are more than 32, and a note."""
    steps = [-(-length // MOST) for length in rows.shape]
    shown = to_host(rows[:: steps[0], :: steps[1]]).astype(np.float64)
    if not shown.size:
        return
    finite = shown[np.isfinite(shown)]
    largest = float(np.abs(finite).max()) if finite.size else 0.0
    side = max(CELLS[0], min(CELLS[1], 144 // max(shown.shape)))
    height, width = (length * side + 2 for length in shown.shape)
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'font-family="monospace" font-size="{CELLS[0]}" role="img" aria-label="heat map of the values">'
        f'<rect width="{width}" height="{height}" fill="#ffffff" stroke="{GREY}"/>'
    )
    for i, row in enumerate(shown.tolist()):
        yield f'<g transform="translate(1 {i * side + 1})">'
        for j, value in enumerate(row):
            yield cell(j * side, side, value, largest, f"[{i * steps[0]}, {j * steps[1]}]")
        yield "</g>"
    yield "</svg>"
    yield f'<div style="font-size:smaller">{escape(note(place, steps, shown, largest))}</div>'


def cell(x: int, side: int, value: float, largest: float, where: str) -> str:
    """One element as a square: blue below 0, white at 0, orange above; n, + and - for nan and the infinities."""
    title = f"<title>{where}: {value:.4g}</title>"
    if value - value == 0:
        share = value / largest if largest else 0.0
        color = WARM if share > 0 else COLD
        fill = "#" + "".join(f"{round(255 + (part - 255) * abs(share)):02x}" for part in color)
        return f'<rect x="{x}" width="{side}" height="{side}" fill="{fill}">{title}</rect>'
    sign = "n" if value != value else "+" if value > 0 else "-"
    box = f'<rect x="{x}" width="{side}" height="{side}" fill="#15181e"/>'
    return f'<g>{box}<text x="{x + 2}" y="{CELLS[0] - 2}" fill="#ffffff">{sign}</text>{title}</g>'


def note(place: str, steps: list[int], shown: np.ndarray, largest: float) -> str:
    """What the heat map shows, and its scale."""
    every = [f"every {ordinal(step)} {noun}" for step, noun in zip(steps, ("row", "column"), strict=True) if step > 1]
    parts = [f"{place}: the first of the other axes"] if place else []
    parts += [" and ".join(every)] if every else []
    blue = f", blue {-largest:.4g}" if (shown < 0).any() else ""
    parts += [f"white is 0, orange {largest:.4g}{blue}"]
    counts = {"nan (n)": np.isnan(shown), "inf (+)": np.isposinf(shown), "-inf (-)": np.isneginf(shown)}
    parts += [f"{int(found.sum())} of {shown.size} cells are {name}" for name, found in counts.items() if found.any()]
    return "; ".join(parts)


def ordinal(n: int) -> str:
    """1st, 2nd, 3rd, 4th, 11th, ..."""
    ending = "th" if n // 10 % 10 == 1 else {1: "st", 2: "nd", 3: "rd"}.get(n % 10, "th")
    return f"{n:,}{ending}"


# ----- Module -----------------------------------------------------------------------------------------------------


def of_module(module: Module) -> str:
    """The parts of a module as a tree that opens by a click: settings, shapes and numbers of parameters."""
    return f'<div style="font-family:monospace">{branch("", module, set(), True)}</div>'


def branch(name: str, module: Module, seen: set[int], is_open: bool = False) -> str:
    """A module, its Parameters and buffers, and the modules below it. `seen` has the ids of what was listed before."""
    count, trained = module.num_parameters(), sum(p.size for p in module.parameters() if p.requires_grad)
    frozen = "" if trained == count else f", {count - trained:,} of them frozen"
    settings = ", ".join(module._settings())
    title = f"{escape(name)}: " if name else ""
    title += f"<b>{escape(type(module).__name__)}</b>({escape(settings)}) "
    title += f"<span>{count:,} parameter{'s' * (count != 1)}{frozen}</span>"
    again = id(module) in seen
    seen.add(id(module))
    own = [] if again else [leaf(key, value, seen) for key, value in vars(module).items() if isinstance(value, Tensor)]
    below = [] if again else [branch(key, child, seen) for key, child in module.children()]
    if not own and not below:
        return f'<div style="margin-left:1.2em">{title}{" (listed above)" * again}</div>'
    opened = ' open="open"' * is_open
    return f'<details{opened} style="margin-left:1.2em"><summary>{title}</summary>{"".join(own + below)}</details>'


def leaf(name: str, x: Tensor, seen: set[int]) -> str:
    """One Tensor of a module in a line."""
    notes = [] if isinstance(x, Parameter) else ["not a parameter"]
    notes += ["frozen"] if isinstance(x, Parameter) and not x.requires_grad else []
    notes += ["shared, counted above"] if id(x) in seen else []
    seen.add(id(x))
    text = " · ".join([f"{name}: {x.shape}", str(x.dtype), f"{x.size:,}", *notes])
    return f'<div style="margin-left:2.4em">{escape(text)}</div>'
