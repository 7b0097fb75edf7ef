"""Boxes and arrows as SVG, laid out in rows from top to bottom, in plain Python.

The method is that of Sugiyama, Tagawa and Toda ("Methods for visual understanding of hierarchical system structures",
1981): put each box in the row above its first user; give an arrow that passes a row a small gap in it; order every row
so that few arrows cross; then move boxes sideways, in that order, until arrows are short. The last step is a weighted
least-squares fit with an order constraint, solved exactly by pooling neighbours that collide (isotonic regression).
"""

from bisect import bisect_right, insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape
from itertools import accumulate, pairwise
from math import inf

TITLE, NOTE, LABEL = 13, 11, 9  # font sizes, in pixels
LETTER = 0.602  # the width of a letter of the common monospaced fonts, by their size
LINE, PAD, GAP, BETWEEN_ROWS, MARGIN = 16, 12, 26, 48, 24
PASSAGE = 10  # how wide a gap an arrow gets where it passes a row
COLOURS = {  # kind -> (fill, border)
    "leaf": ("#dcf1e1", "#2f8f4e"),
    "constant": ("#f2f2f2", "#999999"),
    "op": ("#e6eefa", "#4a74b8"),
    "result": ("#fce5c8", "#d9791b"),
}
GREY = "#7a8699"
FONT = "ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace"


@dataclass(frozen=True)
class Box:
    """A box of text lines, and the boxes that its arrows come from. Sources precede their users in a sequence."""

    number: int
    kind: str  # a key of COLOURS
    lines: list[str]
    sources: list[tuple[str, int]]  # (argument, number of the box)

    @cached_property
    def width(self) -> float:
        sizes = [TITLE, *[NOTE] * (len(self.lines) - 1)]
        text = LETTER * max(size * len(line) for size, line in zip(sizes, self.lines, strict=True))
        label = LETTER * LABEL * max((len(argument) for argument, _ in self.sources), default=0)
        return max(text + 2 * PAD, (label + 8) * (len(self.sources) + 1))

    @property
    def height(self) -> float:
        return PAD + LINE * len(self.lines)


Place = tuple[int, int]  # (number of a box, row): the box itself, or the gap where its arrows pass that row


@dataclass(frozen=True)
class PlacedBox:
    """A box and the coordinates of its left upper corner, in pixels."""

    box: Box
    x: float
    y: float


@dataclass(frozen=True)
class Arrow:
    """An arrow from a box to one of its users: an SVG path, and where its label stands (middle, baseline)."""

    source: int
    target: int
    argument: str
    path: str
    x: float
    y: float


@dataclass(frozen=True)
class Drawing:
    """Boxes and arrows with coordinates, from (0, 0) to (width, height) in pixels; y grows downwards."""

    boxes: list[PlacedBox]
    arrows: list[Arrow]
    width: float
    height: float


def place(boxes: Sequence[Box]) -> Drawing:
    """Coordinates for all boxes and arrows: each box below its sources, few crossings, short arrows."""
    layout = _Layout(boxes)
    placed = []
    for box in boxes:
        row = layout.row[box.number]
        placed.append(PlacedBox(box, layout.x[box.number, row] - box.width / 2, layout.y[row]))
    arrows = [arrow for box in boxes for arrow in _arrows(layout, box)]
    return Drawing(placed, arrows, layout.right, layout.bottom)


def draw(boxes: Sequence[Box], caption: str) -> str:
    """The text of an SVG file with all boxes and arrows, and a caption below them."""
    drawing = place(boxes)
    several = {box.number for box in boxes if len(box.sources) > 1}  # their arrows need labels
    parts = [_arrow(arrow) for arrow in drawing.arrows]
    parts += [_label(arrow) for arrow in drawing.arrows if arrow.target in several]
    parts += [line for placed in drawing.boxes for line in _box(placed)]
    width = max(drawing.width, LETTER * NOTE * len(caption)) + 2 * MARGIN
    height = drawing.height + 2 * MARGIN + LINE
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="{-MARGIN} {-MARGIN} {width:.0f} {height:.0f}" font-family="{FONT}" font-size="{NOTE}">',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
        f'orient="auto"><path d="M0 0.8 L7.5 4 L0 7.2 z" fill="{GREY}"/></marker></defs>',
        f'<rect x="{-MARGIN}" y="{-MARGIN}" width="100%" height="100%" rx="8" fill="#ffffff"/>',
        *parts,
        f'<text x="0" y="{drawing.height + MARGIN + NOTE:.0f}" fill="#66707f">{escape(caption)}</text>',
        "</svg>",
    ])  # fmt: skip


# ----- layout -----------------------------------------------------------------------------------


class _Layout:
    """The rows, the order of places in each, and their coordinates."""

    def __init__(self, boxes: Sequence[Box]):
        self.boxes = {box.number: box for box in boxes}
        self.row = _rows(boxes)
        self.rows: list[list[Place]] = [[] for _ in range(max(self.row.values()) + 1)]
        self.above: dict[Place, list[Place]] = {}
        self.below: dict[Place, list[Place]] = {}
        self._route_arrows(boxes)
        self._order()
        self.x = self._coordinates()
        shift = min(self.x[place] - self._width(place) / 2 for row in self.rows for place in row)
        self.x = {place: x - shift for place, x in self.x.items()}
        self.right = max(self.x[place] + self._width(place) / 2 for row in self.rows for place in row)
        self.y, self.bottom = [], 0.0  # the top of each row
        for row in self.rows:
            self.y.append(self.bottom)
            self.bottom += max(self.boxes[n].height for n, r in row if self.row[n] == r) + BETWEEN_ROWS
        self.bottom -= BETWEEN_ROWS

    def _route_arrows(self, boxes: Sequence[Box]) -> None:
        """Enter all boxes into the rows, and for each a chain of gaps down to its lowest user."""
        last = dict(self.row)
        for box in boxes:
            for _, source in box.sources:
                last[source] = max(last[source], self.row[box.number] - 1)
        for box in boxes:
            for row in range(self.row[box.number], last[box.number] + 1):
                place = (box.number, row)
                self.rows[row].append(place)
                self.above[place] = [(box.number, row - 1)] if row > self.row[box.number] else []
                self.below[place] = [(box.number, row + 1)] if row < last[box.number] else []
        for box in boxes:
            place = (box.number, self.row[box.number])
            for source in dict.fromkeys(source for _, source in box.sources):
                above = (source, place[1] - 1)
                self.above[place].append(above)
                self.below[above].append(place)

    def _order(self) -> None:
        """Sort rows by the average position of their neighbours, downward and upward in turn; keep the best order."""
        best, fewest = [list(row) for row in self.rows], self._crossings()
        for turn in range(12):
            if not fewest:
                break
            downward = turn % 2 == 0
            neighbours = self.above if downward else self.below
            rank: dict[Place, int] = {}
            for row in self.rows if downward else reversed(self.rows):
                ranks = {place: [rank[p] for p in neighbours[place]] or [i] for i, place in enumerate(row)}
                row.sort(key=lambda place: sum(ranks[place]) / len(ranks[place]))
                rank = {place: i for i, place in enumerate(row)}
            if (crossings := self._crossings()) < fewest:
                best, fewest = [list(row) for row in self.rows], crossings
        self.rows = best

    def _crossings(self) -> int:
        """Number of pairs of arrows that cross: the inversions of their lower ends when sorted by the upper ends."""
        total = 0
        for upper, lower in pairwise(self.rows):
            rank = {place: i for i, place in enumerate(lower)}
            seen: list[int] = []
            for place in upper:
                ends = sorted(rank[p] for p in self.below[place])
                total += sum(len(seen) - bisect_right(seen, end) for end in ends)
                for end in ends:
                    insort(seen, end)
        return total

    def _coordinates(self) -> dict[Place, float]:
        """The x coordinate of the middle of each place: in 40 sweeps, every row moves towards its neighbours."""
        x: dict[Place, float] = {}
        for row in self.rows:
            ones = [1.0] * len(row)
            x |= dict(zip(row, _fit_positions([0.0] * len(row), ones, self._distances(row)), strict=True))
        for turn in range(40):
            for row in self.rows if turn % 2 == 0 else reversed(self.rows):
                wanted, weights = [], []
                for place in row:
                    pulls = [(x[p], self._tension(place, p)) for p in self.above[place] + self.below[place]]
                    weight = sum(w for _, w in pulls)
                    wanted.append(sum(at * w for at, w in pulls) / weight if pulls else x[place])
                    weights.append(weight or 1.0)
                x |= dict(zip(row, _fit_positions(wanted, weights, self._distances(row)), strict=True))
        self._straighten(x)
        return x

    def _straighten(self, x: dict[Place, float]) -> None:
        """Make each chain of gaps vertical, as far down as the boxes beside it leave room, then the rest of it."""
        for number, box_row in self.row.items():
            chain: list[Place] = []
            low, high = -inf, inf
            row = box_row + 1
            while (number, row) in x:
                beside = self.rows[row]
                i = beside.index((number, row))
                distances = self._distances(beside)
                left = x[beside[i - 1]] + distances[i] if i else -inf
                right = x[beside[i + 1]] - distances[i + 1] if i + 1 < len(beside) else inf
                if max(low, left) > min(high, right):
                    _align(x, chain, low, high)
                    chain, low, high = [], -inf, inf
                chain.append((number, row))
                low, high, row = max(low, left), min(high, right), row + 1
            _align(x, chain, low, high)

    def _tension(self, a: Place, b: Place) -> float:
        """The weight of an arrow's deviation from vertical: largest where it passes rows, smallest from a leaf."""
        passing = sum(self.row[number] != row for number, row in (a, b))
        upper = a if a[1] < b[1] else b
        return (1.0, 4.0, 12.0)[passing] * (1 if not self.boxes[upper[0]].sources else 4)

    def _distances(self, row: list[Place]) -> list[float]:
        """The least distance of each place from the one to its left, between their middles."""
        widths = [self._width(place) for place in row]
        return [0.0, *[(a + b) / 2 + GAP for a, b in pairwise(widths)]]

    def _width(self, place: Place) -> float:
        number, row = place
        return self.boxes[number].width if self.row[number] == row else PASSAGE


def _rows(boxes: Sequence[Box]) -> dict[int, int]:
    """The row of each box: one above the first of its users, so that leaves are next to their users."""
    depth = dict.fromkeys((box.number for box in boxes), 0)
    for box in reversed(boxes):
        for _, source in box.sources:
            depth[source] = max(depth[source], depth[box.number] + 1)
    deepest = max(depth.values())
    return {number: deepest - d for number, d in depth.items()}


def _fit_positions(wanted: Sequence[float], weights: Sequence[float], distances: Sequence[float]) -> list[float]:
    """Positions near `wanted`, by weighted least squares, that keep these distances from their left neighbours.

    With the distances subtracted, it is the fit of a nondecreasing sequence: blocks that collide move to their mean.
    """
    offsets = list(accumulate(distances))
    blocks: list[tuple[float, float, int]] = []  # (mean, weight, how many)
    for want, weight, offset in zip(wanted, weights, offsets, strict=True):
        mean, count = want - offset, 1
        while blocks and blocks[-1][0] > mean:
            other, more, n = blocks.pop()
            mean, weight, count = (mean * weight + other * more) / (weight + more), weight + more, count + n
        blocks.append((mean, weight, count))
    means = [mean for mean, _, count in blocks for _ in range(count)]
    return [mean + offset for mean, offset in zip(means, offsets, strict=True)]


def _align(x: dict[Place, float], chain: Sequence[Place], low: float, high: float) -> None:
    """Give all places of a chain one x, their average, moved into [low, high]."""
    if chain:
        middle = sum(x[place] for place in chain) / len(chain)
        x |= dict.fromkeys(chain, min(max(middle, low), high))


# ----- arrows and SVG ------------------------------------------------------------------------------------


def _arrows(layout: _Layout, box: Box) -> Iterator[Arrow]:
    """The arrows into a box, each with its own end point, from left to right."""
    row = layout.row[box.number]
    sources = sorted(box.sources, key=lambda source: layout.x[source[1], row - 1])
    for i, (argument, source) in enumerate(sources):
        port = layout.x[box.number, row] + box.width * ((i + 1) / (len(sources) + 1) - 0.5)
        path = _path(layout, source, port, row)
        yield Arrow(source, box.number, argument, path, port, layout.y[row] - 12)


def _box(placed: PlacedBox) -> Iterator[str]:
    """The SVG elements of a box: its frame and its lines of text."""
    box, x, y = placed.box, placed.x, placed.y
    fill, border = COLOURS[box.kind]
    dashes = ' stroke-dasharray="4 3"' if box.kind == "constant" else ""
    yield (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{box.width:.1f}" height="{box.height:.1f}" '
        f'rx="7" fill="{fill}" stroke="{border}" stroke-width="1.3"{dashes}/>'
    )
    for i, line in enumerate(box.lines):
        look = f'font-size="{TITLE}" font-weight="bold" fill="#1c2430"' if i == 0 else 'fill="#4d5866"'
        middle, base = x + box.width / 2, y + PAD / 2 + LINE * (i + 0.75)
        yield f'<text x="{middle:.1f}" y="{base:.1f}" text-anchor="middle" {look}>{escape(line)}</text>'


def _arrow(arrow: Arrow) -> str:
    return f'<path d="{arrow.path}" fill="none" stroke="{GREY}" stroke-width="1.3" marker-end="url(#tip)"/>'


def _label(arrow: Arrow) -> str:
    return (
        f'<text x="{arrow.x:.1f}" y="{arrow.y:.1f}" font-size="{LABEL}" fill="{GREY}" stroke="#ffffff" '
        f'stroke-width="4" paint-order="stroke" text-anchor="middle">{escape(arrow.argument)}</text>'
    )


def _path(layout: _Layout, source: int, port: float, row: int) -> str:
    """An SVG path from a box to a port: curves between rows, which begin and end vertically, and lines past boxes."""
    first = layout.row[source]
    x, y = layout.x[source, first], layout.y[first] + layout.boxes[source].height
    path = [f"M{x:.1f} {y:.1f}"]
    for r in range(first + 1, row + 1):
        to, top = (port if r == row else layout.x[source, r]), layout.y[r]
        bend = (y + top) / 2
        path.append(f"C{x:.1f} {bend:.1f} {to:.1f} {bend:.1f} {to:.1f} {top:.1f}")
        if r < row:
            x, y = to, layout.y[r + 1] - BETWEEN_ROWS
            path.append(f"V{y:.1f}")
    return " ".join(path)
