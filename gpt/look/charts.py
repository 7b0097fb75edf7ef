"""More pictures for notebooks: a table of tokens, lines, a waterfall of bars, points. As in display.py, all text is
escaped, and colours are fixed on a white background.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from .display import ACCENT, COLD, FAINT, FONT, LETTER, LINE, TEXT, WARM, sequential, text_color, visible_text

COLORS = ("#1d4ed8", "#c2410c", "#15803d", "#7e22ce", "#0e7490", "#a16207", "#be185d", "#374151")  # of lines
SIZE = 11  # of letters, in pixels


@dataclass(frozen=True)
class Cell:
    """One cell of a table of tokens."""

    text: str
    share: float  # from 0 (white) to 1 (blue)
    note: str  # shown on hover
    framed: bool


def token_table(
    rows: Sequence[Sequence[Cell]], names: Sequence[str], head: Sequence[str], foot: tuple[str, Sequence[str]]
) -> str:
    """HTML: a named row of cells for each of `rows`; the tokens `head` above, and `foot` (a name, tokens) below."""
    style = f"font-family:{FONT};font-size:12px;background:#ffffff;color:{TEXT};border-collapse:separate"
    cell = "white-space:pre;padding:1px 3px;text-align:center"
    lines = []
    for name, cells in zip(names, rows, strict=True):
        line = f'<th style="text-align:right;white-space:nowrap">{escape(name)}</th>'
        for item in cells:
            fill = sequential(item.share)
            frame = "2px solid #15803d" if item.framed else f"2px solid {fill}"
            colors = f"background:{fill};color:{text_color(fill)};border:{frame}"
            line += f'<td style="{cell};{colors}" title="{escape(item.note)}">{escape(visible_text(item.text))}</td>'
        lines.append(line)
    for name, texts, place in (("token", head, 0), (*foot, len(rows) + 1)):
        line = f'<th style="text-align:right;color:{FAINT}">{escape(name)}</th>'
        line += "".join(f'<td style="{cell};color:{FAINT}">{escape(visible_text(text))}</td>' for text in texts)
        lines.insert(place, line)
    return f'<table style="{escape(style)}">{"".join(f"<tr>{line}</tr>" for line in lines)}</table>'


def line_chart(names: Sequence[str], lines: Mapping[str, Sequence[float]], *, title: str = "") -> str:
    """SVG: lines of shares over the places `names`, on an axis from 0 to the largest, with a legend to the right."""
    step, height, left, top = 54, 160, 48, 30
    right = left + step * max(1, len(names) - 1)
    width = right + 24 + LETTER * SIZE * max((len(visible_text(text)) for text in lines), default=0)
    most = max((value for values in lines.values() for value in values if value == value), default=0.0) or 1.0
    parts = []
    for tick in (0.0, 0.5, 1.0):
        y = top + height * (1 - tick)
        parts.append(f'<line x1="{left}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}" stroke="{LINE}"/>')
        parts.append(f'<text x="{left - 4}" y="{y + 4:.1f}" text-anchor="end">{tick * most:.2g}</text>')
    for i, name in enumerate(names):
        place = f'transform="translate({left + i * step} {top + height + 14}) rotate(25)"'
        parts.append(f"<text {place}>{escape(name)}</text>")
    for i, (text, values) in enumerate(lines.items()):
        color, label = COLORS[i % len(COLORS)], escape(visible_text(text))
        points = " ".join(
            f"{left + j * step},{top + height * (1 - value / most):.1f}" for j, value in enumerate(values)
        )
        parts.append(f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="2"/>')
        for j, value in enumerate(values):
            note = f"{label}, {escape(names[j])}: {value:.3g}"
            y = top + height * (1 - value / most)
            parts.append(
                f'<circle cx="{left + j * step}" cy="{y:.1f}" r="3" fill="{color}"><title>{note}</title></circle>'
            )
        parts.append(f'<text x="{right + 12}" y="{top + 8 + i * 15}" fill="{color}">{label}</text>')
    return svg(parts, width, top + height + 70, title)


def waterfall(values: Mapping[str, float], *, title: str = "") -> str:
    """SVG: a bar for each value, which begins where the one before ends; the last bar is the sum."""
    ends = [0.0]
    for value in values.values():
        ends.append(ends[-1] + value)
    low, high = min(ends), max(ends)
    scale = 420 / ((high - low) or 1.0)
    left, top, line = 12 + LETTER * SIZE * max(len(name) for name in values), 28, 18
    parts = [
        f'<line x1="{left - low * scale:.1f}" y1="{top}" x2="{left - low * scale:.1f}" '
        f'y2="{top + line * (len(values) + 1)}" stroke="{LINE}"/>'
    ]
    bars = [*zip(values, ends, ends[1:], strict=False), ("sum", 0.0, ends[-1])]
    for i, (name, begin, end) in enumerate(bars):
        y = top + i * line
        color = ACCENT if name == "sum" else WARM if end > begin else COLD
        fill = "#" + "".join(f"{part:02x}" for part in color)
        x, wide = left + (min(begin, end) - low) * scale, max(1.0, abs(end - begin) * scale)
        parts.append(f'<text x="{left - 6:.1f}" y="{y + 13}" text-anchor="end">{escape(name)}</text>')
        parts.append(f'<rect x="{x:.1f}" y="{y + 3}" width="{wide:.1f}" height="{line - 6}" fill="{fill}"/>')
        parts.append(f'<text x="{left + 428:.1f}" y="{y + 13}">{end - begin:+.3g}</text>')
    return svg(parts, left + 490, top + line * len(bars) + 8, title)


def scatter(points: Sequence[tuple[float, float, str, float]], *, title: str = "", labels: bool = False) -> str:
    """SVG: points (x, y, text, share); the text is a tooltip or, with `labels`, also beside the point.

    The colour is by the share, from 0 (light) to 1 (dark). Both axes have the same scale.
    """
    side, edge = 320, 24
    reach = max((max(abs(x), abs(y)) for x, y, _, _ in points), default=0.0) or 1.0
    middle = edge + side / 2
    parts = [
        f'<line x1="{edge}" y1="{middle}" x2="{edge + side}" y2="{middle}" stroke="{LINE}"/>',
        f'<line x1="{middle}" y1="{edge}" x2="{middle}" y2="{edge + side}" stroke="{LINE}"/>',
    ]
    for x, y, text, share in points:
        px, py = (middle + sign * value / reach * side / 2 for sign, value in ((1, x), (-1, y)))
        note, color = escape(text), sequential(0.25 + 0.75 * share)
        parts.append(f'<circle cx="{px:.1f}" cy="{py:.1f}" r="3" fill="{color}"><title>{note}</title></circle>')
        if labels:
            parts.append(f'<text x="{px + 5:.1f}" y="{py + 4:.1f}">{note}</text>')
    return svg(parts, side + 2 * edge + (60 if labels else 0), side + 2 * edge, title)


def svg(parts: Sequence[str], width: float, height: float, title: str) -> str:
    """An SVG of the parts on white, with a title in the first line."""
    width = max(width, LETTER * 13 * len(title) + 12)
    begin = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" font-family="{FONT}" font-size="{SIZE}" fill="{TEXT}">'
        f'<rect width="{width:.0f}" height="{height:.0f}" fill="#ffffff"/>'
    )
    named = [f'<text x="4" y="15" font-size="13">{escape(title)}</text>'] if title else []
    return "\n".join([begin, *named, *parts, "</svg>"])
