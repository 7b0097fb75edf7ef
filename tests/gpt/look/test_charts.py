"""gpt.look's charts: what is drawn lies within the picture, and its places give back the numbers that it shows."""

import math
import re
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np
import pytest

from gpt.look import charts, display
from gpt.look.charts import Line

LETTER = 0.6  # width of a letter of a monospaced font, by its size


class Text(NamedTuple):
    """A text of a picture: the point that it is anchored to, and its attributes."""

    text: str
    x: float
    y: float
    given: dict[str, str]

    def corners(self) -> np.ndarray:
        size = float(self.given.get("font-size", 11))
        width = LETTER * size * len(self.text)
        left = {"end": -width, "middle": -width / 2}.get(self.given.get("text-anchor", ""), 0)
        angle = math.radians(float((re.findall(r"rotate\((.*?)\)", self.given.get("transform", "")) or [0])[0]))
        box = np.array([[left, -0.7 * size], [left + width, 0], [left, 0], [left + width, -0.7 * size]])
        turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
        return box @ turn + [self.x, self.y]


class Picture:
    """The elements of an SVG."""

    def __init__(self, svg: str):
        self.root = ElementTree.fromstring(svg)
        self.size = [float(self.root.get(name)) for name in ("width", "height")]
        assert self.root.get("viewBox").split() == ["0", "0", self.root.get("width"), self.root.get("height")]

    def all(self, tag: str) -> list[ElementTree.Element]:
        return self.root.findall("{*}" + tag)

    def numbers(self, tag: str, *names: str) -> np.ndarray:
        return np.array([[float(one.get(name)) for name in names] for one in self.all(tag)])

    def title_of(self, one: ElementTree.Element) -> str:
        return one.find("{*}title").text

    @property
    def texts(self) -> list[Text]:
        found = []
        for one in self.all("text"):
            moved = re.findall(r"translate\((\S+) (\S+)\)", one.get("transform", ""))
            x, y = moved[0] if moved else (one.get("x"), one.get("y"))
            found.append(Text(one.text or "", float(x), float(y), dict(one.attrib)))
        return found

    def text(self, wanted: str) -> Text:
        (found,) = [one for one in self.texts if one.text == wanted]
        return found

    def lines(self) -> list[np.ndarray]:
        return [
            np.array([point.split(",") for point in one.get("points").split()], float) for one in self.all("polyline")
        ]

    def check_inside(self) -> None:
        """No text, point, bar or line leaves the picture."""
        corners = [one.corners() for one in self.texts] + self.lines()
        corners += [
            self.numbers("circle", "cx", "cy"),
            self.numbers("line", "x1", "y1"),
            self.numbers("line", "x2", "y2"),
        ]
        bars = self.numbers("rect", "x", "y", "width", "height") if self.all("rect")[0].get("x") else np.zeros((0, 4))
        corners += [bars[:, :2], bars[:, :2] + bars[:, 2:]]
        points = np.concatenate([each.reshape(-1, 2) for each in corners])
        assert (points >= 0).all()
        assert (points <= self.size).all()


def bars_of(picture: Picture) -> np.ndarray:
    """x, y, width, height of each rectangle but the white one behind all others."""
    return np.array([[float(r.get(n)) for n in ("x", "y", "width", "height")] for r in picture.all("rect")[1:]])


# ----- categories -------------------------------------------------------------------------------------------------

LAYERS = ["embedding", "block 1", "block 2", "last normed"]
SHARES = {"th e": [0.1, 0.2, 0.05, 0.4], "<b>": [0.0, 0.3, 0.35, 0.15]}


def test_category_chart_has_each_value_at_its_height():
    picture = Picture(charts.category_chart(LAYERS, SHARES, title="how the answer forms"))
    picture.check_inside()
    heights = {float(one.text): one.y - 4 for one in picture.texts if one.given.get("text-anchor") == "end"}
    assert sorted(heights) == [0, 0.2, 0.4]
    bottom, top = heights[0], heights[0.4]
    assert sorted({float(one.get("y1")) for one in picture.all("line")}) == sorted(heights.values())
    points = picture.numbers("circle", "cx", "cy").reshape(2, 4, 2)
    values = (bottom - points[..., 1]) / (bottom - top) * 0.4
    np.testing.assert_allclose(values, list(SHARES.values()), atol=2e-3)
    np.testing.assert_array_equal(points[0, :, 0], points[1, :, 0])
    assert len(set(np.diff(points[0, :, 0]))) == 1
    np.testing.assert_allclose(np.array(picture.lines()), points, atol=0.06)
    notes = [picture.title_of(one) for one in picture.all("circle")]
    assert notes[:2] == ["th·e, embedding: 0.1", "th·e, block 1: 0.2"]
    for x, name in zip(points[0, :, 0], LAYERS, strict=True):
        assert picture.text(name).x == x
        assert picture.text(name).y > bottom
    assert picture.text("how the answer forms").y < top


def test_category_chart_names_its_lines_by_their_colours_right_of_them():
    picture = Picture(charts.category_chart(LAYERS, SHARES))
    names = [picture.text(text) for text in ("th·e", "<b>")]
    assert [one.given["fill"] for one in names] == [line.get("stroke") for line in picture.all("polyline")]
    assert all(one.x > picture.numbers("circle", "cx").max() for one in names)
    assert abs(names[0].y - names[1].y) >= 11


def test_category_chart_of_nothing_has_its_axes():
    for lines in ({}, {"a": [0.0, 0.0]}):
        picture = Picture(charts.category_chart(["x", "y"], lines))
        picture.check_inside()
        assert len(picture.all("line")) == 3


# ----- lines over steps -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("title", ["", "two runs"])
def test_line_chart_has_each_point_where_the_axes_say(title):
    first, second = [(0, 4.0), (250, 3.2), (1000, 2.5)], [(10, 3.9), (500, 2.75)]
    lines = [Line("first", first), Line("of the background", second, 1, faint=True)]
    picture = Picture(charts.line_chart(lines, "step", "loss (nats)", title))
    picture.check_inside()
    ys = [
        (float(one.text), one.y - 4)
        for one in picture.texts
        if one.given.get("text-anchor") == "end" and one.text != "step"
    ]
    xs = [
        (float(one.text.replace(",", "")), one.x) for one in picture.texts if one.given.get("text-anchor") == "middle"
    ]
    assert [x for x, _ in xs] == [0, 200, 400, 600, 800, 1000]
    assert [y for y, _ in ys] == [2.5, 3, 3.5, 4]
    to_x, to_y = (np.polynomial.Polynomial.fit([at for _, at in t], [value for value, _ in t], 1) for t in (xs, ys))
    for drawn, points in zip(picture.lines(), (first, second), strict=True):
        shown = np.stack([to_x(drawn[:, 0]), to_y(drawn[:, 1])], 1)
        np.testing.assert_allclose(shown, points, atol=1, rtol=0)
        np.testing.assert_allclose(shown[:, 1], [y for _, y in points], atol=2e-3)
    lowest = max(line[:, 1].max() for line in picture.lines())
    beneath = [one.y for one in picture.texts if one.given.get("text-anchor") == "middle"]
    assert all(lowest < y < lowest + 20 for y in beneath)
    for text in ("step", "vertical: loss (nats)", "first"):
        assert picture.text(text).y > beneath[0]
    assert "of the background" not in [one.text for one in picture.texts]
    if title:
        assert picture.text(title).y < min(line[:, 1].min() for line in picture.lines())


@pytest.mark.parametrize("bad", [(math.inf, 2.0), (3, math.nan), (3, math.inf), (math.nan, 2.0)])
def test_line_chart_leaves_out_what_is_not_finite(bad):
    with_bad, without = (
        charts.line_chart([Line("x", points)], "step", "loss")
        for points in ([(0, 1.0), bad, (5, 3.0)], [(0, 1.0), (5, 3.0)])
    )
    assert with_bad == without


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 10, [0, 2, 4, 6, 8, 10]),
        (0, 1000, [0, 200, 400, 600, 800, 1000]),
        (2.31, 4.06, [2.5, 3, 3.5, 4]),
        (0.012, 0.019, [0.012, 0.014, 0.016, 0.018]),
        (-3, 3, [-2, 0, 2]),
        (0, 24, [0, 5, 10, 15, 20]),
        (99_000, 101_000, [99_000, 99_500, 100_000, 100_500, 101_000]),
        (0, 7e-6, [0, 2e-6, 4e-6, 6e-6]),
    ],
)
def test_ticks_are_round_numbers_within_the_range(low, high, expected):
    assert charts.ticks(low, high) == pytest.approx(expected)


# ----- bars and points --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "values", [{"token": 1.0, "position": -3.0, "block 0": 0.5, "block 1": 4.0}, {"a": -1.0, "b": -2.0}, {"only": 2.0}]
)
def test_waterfall_bars_begin_where_the_one_before_ends(values):
    picture = Picture(charts.waterfall(values, title="logit of the token"))
    picture.check_inside()
    bars = bars_of(picture)
    (zero,) = picture.numbers("line", "x1")[:, 0]
    ends = np.cumsum([0.0, *values.values()])
    scale = 420 / (ends.max() - ends.min())
    begin, end = [*ends[:-1], 0.0], [*ends[1:], ends[-1]]
    np.testing.assert_allclose(bars[:, 0], zero + np.minimum(begin, end) * scale, atol=0.11)
    np.testing.assert_allclose(bars[:, 2], np.abs(np.subtract(end, begin)) * scale, atol=0.06)
    assert len(set(np.diff(bars[:, 1]))) == 1
    fills = [one.get("fill") for one in picture.all("rect")[1:-1]]
    assert len({(value > 0, fill) for value, fill in zip(values.values(), fills, strict=True)}) == len(set(fills))
    for name, value, (_, y, _, height) in zip([*values, "sum"], [*values.values(), ends[-1]], bars, strict=True):
        assert y <= picture.text(name).y <= y + height + 4
        assert f"{value:+.3g}" in [one.text for one in picture.texts if one.y == picture.text(name).y]


def test_waterfall_of_zeros():
    Picture(charts.waterfall({"a": 0.0, "b": 0.0})).check_inside()


@pytest.mark.parametrize("labels", [False, True])
def test_scatter_has_one_scale_and_zero_in_the_middle(labels):
    points = [(2.0, -1.0, "a", 0.0), (-4.0, 3.0, "<b>", 1.0), (0.0, 0.0, "c", 0.5)]
    picture = Picture(charts.scatter(points, title="x", labels=labels))
    picture.check_inside()
    across, down = picture.all("line")
    middle = np.array([float(down.get("x1")), float(across.get("y1"))])
    placed = (picture.numbers("circle", "cx", "cy") - middle) * [1, -1]
    half = (float(across.get("x2")) - float(across.get("x1"))) / 2
    np.testing.assert_allclose(placed, np.array([[x, y] for x, y, *_ in points]) * half / 4, atol=0.06)
    assert [picture.title_of(one) for one in picture.all("circle")] == ["a", "<b>", "c"]
    assert picture.size[1] == 2 * middle[1]
    if labels:
        np.testing.assert_allclose(
            [[t.x, t.y] for t in picture.texts[1:]], np.add(picture.numbers("circle", "cx", "cy"), [5, 4])
        )
    else:
        assert picture.size[0] == 2 * middle[0]
        assert [one.text for one in picture.texts] == ["x"]


# ----- heat maps and tables ---------------------------------------------------------------------------------------


def test_heat_map_labels_stand_beside_their_rows_and_columns():
    rows, names, columns = [[1.0, 0.5, 0.0], [0.25, None, 1.0]], ["first row", "second"], ["a", "long name", "c"]
    picture = Picture(display.heat_map(rows, names, columns, title="shares"))
    picture.check_inside()
    bars = bars_of(picture).reshape(2, 3, 4)
    for i, name in enumerate(names):
        y, height = bars[i, 0, 1], bars[i, 0, 3]
        assert y < picture.text(name).y < y + height
        assert picture.text(name).x <= bars[i, 0, 0]
    for j, name in enumerate(columns):
        x, width = bars[0, j, 0], bars[0, j, 2]
        assert x < picture.text(name).x < x + width
        assert picture.text(name).y <= bars[0, j, 1]
    assert picture.text("shares").y < min(one.corners()[:, 1].min() for one in picture.texts if one.text in columns) + 4
    notes = [picture.title_of(one) for one in picture.all("rect")[1:]]
    assert notes[:2] == ["first row a 1", "first row long name 0.5"]
    assert notes[4] == "second long name no value"


def luminance(color: str) -> float:
    """Relative luminance of an sRGB colour "#rrggbb" (WCAG 2.2)."""
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_text_can_be_read_on_every_colour():
    for color in (display.sequential, display.diverging, lambda share: display.diverging(-share)):
        for share in np.linspace(0, 1, 41):
            background = color(float(share))
            dark, light = sorted(map(luminance, (background, display.text_color(background))))
            assert (light + 0.05) / (dark + 0.05) >= 4.1, (background, float(share))


def test_token_table_has_the_tokens_above_and_the_foot_below():
    cells = [[charts.Cell("x", 0.5, "a note", True), charts.Cell(" y", 0.0, "", False)]] * 2
    table = ElementTree.fromstring(charts.token_table(cells, ["one", "two"], ["a", "<"], ("next", ["b", "\n"])))
    assert [[cell.text for cell in row] for row in table] == [
        ["token", "a", "<"], ["one", "x", "·y"], ["two", "x", "·y"], ["next", "b", "↵"]
    ]  # fmt: skip
    assert table[1][1].get("title") == "a note"
    styles = [cell.get("style") for cell in table[1][1:]]
    assert ["solid #15803d" in style for style in styles] == [True, False]
