"""Pictures for notebooks as plain SVG and HTML: heat maps and coloured tokens. Every text is escaped.

Colours are fixed and the background is white, so that a picture looks the same in every notebook and theme.
"""

import math
import struct
import zlib
from base64 import b64encode
from collections.abc import Callable, Sequence
from html import escape

TEXT, FAINT, LINE = "#15181e", "#565e6b", "#d5d9e0"
WARM, COLD, ACCENT = (194, 65, 12), (29, 78, 216), (29, 78, 216)
LETTER = 0.602  # the width of a letter of a monospaced font, by its size
FONT = "ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace"
Number = float | None  # None: no value here


def visible_text(text: str) -> str:
    """A token's text with its white space visible: spaces as ·, line feeds as ↵, tabs as →, others by their code."""
    signs = {" ": "·", "\n": "↵", "\t": "→"}
    return "".join(signs.get(c) or (c if c.isprintable() else repr(c)[1:-1]) for c in text)


def sequential(share: float) -> str:
    """A colour for a share from 0 (white) to 1 (blue)."""
    return _mix(ACCENT, share)


def diverging(share: float) -> str:
    """A colour for -1 (blue) over 0 (white) to 1 (orange)."""
    return _mix(WARM if share > 0 else COLD, abs(share))


def _mix(color: Sequence[int], share: float) -> str:
    share = min(max(share, 0.0), 1.0) if share == share else 0.0
    return "#" + "".join(f"{round(255 + (part - 255) * share):02x}" for part in color)


def log_shares(rows: Sequence[Sequence[Number]]) -> tuple[list[list[Number]], str, Callable[[float], str]]:
    """Numbers for a heat map with logarithmic colours: shares from 0.05 to 1, a legend, and share -> number as text.

    Zero and what is not finite has no value. The strongest colour is at least 10 times the faintest.
    """
    logs = [[math.log10(x) if x is not None and 0 < x < math.inf else None for x in row] for row in rows]
    found = [x for row in logs for x in row if x is not None]
    high = max(found, default=0.0)
    low = min(min(found, default=0.0), high - 1)
    shares: list[list[Number]] = [
        [None if x is None else 0.05 + 0.95 * (x - low) / (high - low) for x in row] for row in logs
    ]
    legend = f"from {10**low:.2g} (white) to {10**high:.2g} (blue), logarithmic"
    return shares, legend, lambda share: f"{10 ** (low + (high - low) * (share - 0.05) / 0.95):.3g}"


def text_color(background: str) -> str:
    """Black or white, whichever is readable on `background` ("#rrggbb"): a contrast of 4.1 on all colours here."""
    red, green, blue = (int(background[i : i + 2], 16) for i in (1, 3, 5))
    return TEXT if 0.299 * red + 0.587 * green + 0.114 * blue > 120 else "#ffffff"


def heat_map(
    rows: Sequence[Sequence[Number]],
    row_labels: Sequence[str] = (),
    column_labels: Sequence[str] = (),
    *,
    title: str = "",
    largest: float | None = None,
    color: Callable[[float], str] = sequential,
    cell: int = 16,
    form: Callable[[float], str] = "{:.3g}".format,
) -> str:
    """The text of an SVG: a square of colour for each number, with its value as a tooltip, and labels on both axes.

    `largest` is the absolute value of the strongest colour; by default the largest in `rows`.
    """
    size = 11
    columns = max((len(row) for row in rows), default=0)
    if largest is None:
        largest = max((abs(x) for row in rows for x in row if x is not None and x - x == 0), default=1.0)
    scale = largest or 1.0
    left = 8 + LETTER * size * max((len(label) for label in row_labels), default=0)
    top = (22 if title else 4) + LETTER * size * max((len(label) for label in column_labels), default=0)
    width, height = left + columns * cell + 8, top + len(rows) * cell + 8
    width = max(width, LETTER * 13 * len(title) + 12)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" font-family="{FONT}" font-size="{size}" fill="{TEXT}">',
        f'<rect width="{width:.0f}" height="{height:.0f}" fill="#ffffff"/>',
    ]
    if title:
        parts.append(f'<text x="4" y="15" font-size="13">{escape(title)}</text>')
    for i, label in enumerate(row_labels):
        y = top + (i + 0.72) * cell
        parts.append(f'<text x="{left - 4:.1f}" y="{y:.1f}" text-anchor="end">{escape(label)}</text>')
    for j, label in enumerate(column_labels):
        x = left + (j + 0.72) * cell
        place = f'transform="translate({x:.1f} {top - 4:.1f}) rotate(-90)"'
        parts.append(f"<text {place}>{escape(label)}</text>")
    for i, row in enumerate(rows):
        for j, value in enumerate(row):
            fill = LINE if value is None else color(value / scale)
            named = [escape(labels[k]) for labels, k in ((row_labels, i), (column_labels, j)) if labels]
            note = " ".join([*named, "no value" if value is None else form(value)])
            parts.append(
                f'<rect x="{left + j * cell:.1f}" y="{top + i * cell:.1f}" width="{cell}" height="{cell}" '
                f'fill="{fill}"><title>{note}</title></rect>'
            )
    return "\n".join([*parts, "</svg>"])


def token_strip(
    texts: Sequence[str],
    values: Sequence[Number],
    notes: Sequence[str],
    color: Callable[[float], str] = sequential,
) -> str:
    """HTML: the tokens of a text in a row, each on the colour of its value (a share), with a note as a tooltip."""
    parts = []
    for text, value, note in zip(texts, values, notes, strict=True):
        fill = "#ffffff" if value is None else color(value)
        style = f"background:{fill};color:{text_color(fill)};white-space:pre;padding:1px"
        parts.append(f'<span style="{style}" title="{escape(note)}">{escape(visible_text(text))}</span>')
    style = f"font-family:{FONT};line-height:1.7;background:#ffffff;padding:4px"
    return f'<div style="{escape(style)}">{"<wbr>".join(parts)}</div>'


def png(pixels: Sequence[Sequence[str]]) -> str:
    """The address (data:image/png;...) of a picture, from rows of colours "#rrggbb".

    For pictures that are too many or too large to draw every number as a square of an SVG.
    """
    lines = b"".join(b"\0" + bytes.fromhex("".join(color[1:] for color in row)) for row in pixels)
    header = struct.pack(">IIBBBBB", len(pixels[0]), len(pixels), 8, 2, 0, 0, 0)  # 8 bits of red, green and blue
    parts = (b"IHDR", header), (b"IDAT", zlib.compress(lines)), (b"IEND", b"")
    chunks = [
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in parts
    ]
    return "data:image/png;base64," + b64encode(b"\x89PNG\r\n\x1a\n" + b"".join(chunks)).decode()
