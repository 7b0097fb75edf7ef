"""Line charts for notebooks as plain SVG. Lines differ by colour and by dashes; every text is escaped."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from .display import FAINT, FONT, LETTER, LINE, TEXT

COLORS = ("#1d4ed8", "#c2410c", "#15803d", "#7e22ce", "#0e7490", "#a16207", "#be185d", "#475569")
DASHES = ("", "7 3", "2 3", "9 3 2 3")
WIDTH, HEIGHT, LEFT, BOTTOM = 640, 280, 52, 40


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
