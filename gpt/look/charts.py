"""More pictures for notebooks: a table of tokens, line charts, a waterfall of bars, points. As in display.py, text is
escaped, and colours are fixed on a white background.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from .display import ACCENT, COLD, FAINT, FONT, LETTER, LINE, TEXT, WARM, sequential, text_color, visible_text

COLORS = ("#1d4ed8", "#c2410c", "#15803d", "#7e22ce", "#0e7490", "#a16207", "#be185d", "#475569")  # of lines
DASHES = ("", "7 3", "2 3", "9 3 2 3")
WIDTH, HEIGHT, LEFT, BOTTOM = 640, 280, 52, 40  # of a line chart, in pixels
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


def category_chart(names: Sequence[str], lines: Mapping[str, Sequence[float]], *, title: str = "") -> str:
    """SVG: lines of shares over the places `names`, on an axis from 0 to the largest, with a legend to the right."""
    step, height, left, top = 54, 160, 48, 30
    right = left + step * max(1, len(names) - 1)
    width = right + 24 + LETTER * SIZE * max(map(len, [*names[-1:], *map(visible_text, lines)]), default=0)
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


@dataclass(frozen=True)
class Line:
    """A line of a chart: its name in the legend, its points, and whether it is in the background."""

    name: str
    points: Sequence[tuple[float, float]]
    number: int = 0  # chooses colour and dashes
    faint: bool = False  # thin, and not in the legend


def line_chart(lines: Sequence[Line], xlabel: str, ylabel: str, title: str = "") -> str:
    """The text of an SVG with these lines on one plot, its axes and a legend."""
    points = [point for line in lines for point in line.points if all(map(math.isfinite, point))]
    if not points:
        return ""
    shown = [line for line in lines if not line.faint and line.points]
    top, width = 30 if title else 14, WIDTH - LEFT - 28
    below = top + HEIGHT - BOTTOM
    low, high = min(y for _, y in points), max(y for _, y in points)
    low, high = (low, high) if low < high else (low - 0.5, high + 0.5)
    right = max(x for x, _ in points) or 1.0
    height = HEIGHT - BOTTOM

    def place(x: float, y: float) -> str:
        return f"{LEFT + width * x / right:.1f},{top + height * (high - y) / (high - low):.1f}"

    total = below + BOTTOM + 18 * len(shown)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{total}" viewBox="0 0 {WIDTH} {total}" '
        f'font-family="{FONT}" font-size="11" fill="{TEXT}" role="img"><title>{escape(title or ylabel)}</title>',
        f'<rect width="{WIDTH}" height="{total}" fill="#ffffff"/>',
        f'<text x="4" y="18" font-size="13">{escape(title)}</text>' if title else "",
    ]
    for y in ticks(low, high):
        at = place(0, y).split(",")[1]
        parts.append(f'<path d="M{LEFT} {at}h{width}" stroke="{LINE}" fill="none"/>')
        parts.append(f'<text x="{LEFT - 5}" y="{float(at) + 4:.1f}" text-anchor="end" fill="{FAINT}">{y:g}</text>')
    for x in ticks(0, right):
        at = place(x, low).split(",")[0]
        parts.append(f'<text x="{at}" y="{below + 15}" text-anchor="middle" fill="{FAINT}">{x:,g}</text>')
    parts.append(f'<text x="{LEFT + width}" y="{below + 31}" text-anchor="end">{escape(xlabel)}</text>')
    parts.append(f'<text x="{LEFT}" y="{below + 31}">vertical: {escape(ylabel)}</text>')
    for line in lines:
        path = " ".join(place(x, y) for x, y in line.points if math.isfinite(x) and math.isfinite(y))
        parts.append(f'<polyline points="{path}" {stroke(line)}/>')
    for i, line in enumerate(shown):
        y = below + BOTTOM + 18 * i + 6
        parts.append(f'<path d="M{LEFT} {y}h34" {stroke(line)}/>')
        name = line.name if len(line.name) * 11 * LETTER < width - 50 else f"{line.name[:70]}..."
        parts.append(f'<text x="{LEFT + 42}" y="{y + 4}">{escape(name)}</text>')
    return "\n".join([*parts, "</svg>"])


def stroke(line: Line) -> str:
    """The attributes of a line's path."""
    dashes = DASHES[line.number // 2 % len(DASHES)] if line.number else ""
    how = 'stroke-width="0.8" stroke-opacity="0.3"' if line.faint else 'stroke-width="1.8"'
    return f'fill="none" stroke="{COLORS[line.number % len(COLORS)]}" {how} stroke-dasharray="{dashes or "none"}"'


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round numbers from `low` to `high`: multiples of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
    return [round(i * step, 12) for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def waterfall(values: Mapping[str, float], *, title: str = "") -> str:
    """SVG: a bar for each value, which begins where the one before ends; the last bar is the sum."""
    ends = [0.0]
    for value in values.values():
        ends.append(ends[-1] + value)
    low, high = min(ends), max(ends)
    scale = 420 / ((high - low) or 1.0)
    left, top, line = 12 + LETTER * SIZE * max(map(len, ("sum", *values))), 28, 18
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
