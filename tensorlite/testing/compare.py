"""Compare derivatives from the rules with differences of values: each element is right, wrong or undecided."""

import math
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np

from ..backend import ndarray, to_host
from .differences import complex_step, one_sided, power_of_two, richardson, ridders
from .memory import laid_out, layout_text
from .noise import Line, piece, rounding, rounding_within
from .points import Point
from .report import CheckFailed, Comparison, Report

ROUNDING = 1e-13  # of a rule, relative to the largest element of the derivative
SMALLEST = 1e-13  # derivatives that are smaller may be rounding
SURE = 4.0  # error estimates: what is farther away is wrong
USEFUL = 1e-3  # an error estimate that is larger, relative to the derivative, proves nothing
NEARBY = 32  # points around a kink
CLOSE = 1e-7  # relative to |x|: the spacing of values that show the noise
CLOSER = 2.0**-12  # relative to that spacing: nearer points
PIECE = 2.0**-4  # relative to max(1, |x|): steps of a function that are wider are no rounding
ENOUGH = 64  # wrong elements: the others are not looked at


@dataclass(frozen=True)
class Settings:
    """Of a check: see check_gradients."""

    step: float = 1e-3
    rtol: Any = 1e-6
    atol: Any = 1e-7
    fast: bool = False
    method: str = "differences"
    seed: int = 0


class Lines:
    """The lines along which value `i` of a point moves: one for each element, or with `fast` a random one."""

    def __init__(self, point: Point, i: int, settings: Settings):
        self.point, self.i = point, i
        data = point.values[i].data
        self.like = data if type(data) is ndarray else None
        self.x = to_host(data)
        random = np.random.default_rng([settings.seed, 1 + i])  # not the numbers of g: x J g is x J^T g where x is g
        direction = random.uniform(-1, 1, self.x.shape)
        self.direction = direction + np.copysign(0.5, direction)
        self.places: list[Any] = [...] if settings.fast else list(np.ndindex(self.x.shape))
        self.all: list[Line] = [partial(self.value, place) for place in self.places]
        self.steps = [power_of_two(settings.step * max(1.0, self.magnitude(k))) for k in range(len(self.all))]

    @cached_property
    def sizes(self) -> np.ndarray:
        return self.point.sizes()

    def magnitude(self, k: int) -> float:
        """|x| of the element; 1 where that is 0, or for a direction."""
        return 1.0 if self.places[k] is ... else float(abs(self.x[self.places[k]])) or 1.0

    def value(self, place: Any, t: float, x: Any = None) -> np.ndarray:
        there = np.array(self.x if x is None else x)
        there[place] += t * self.direction if place is ... else t
        return self.point.moved(self.i, there if self.like is None else laid_out(there, self.like))

    def nearby(self, k: int, g: np.ndarray, h: float) -> tuple[float, float, float]:
        """`one_sided` at inputs around x: of the slopes that a kink has to any side, ties of several elements too.

        J. V. Burke, A. S. Lewis, M. L. Overton, "A robust gradient sampling algorithm for nonsmooth, nonconvex
        optimization", SIAM J. Optim. 15 (2005), 751-779.
        """
        random = np.random.default_rng(0)
        around = [self.x + random.uniform(-h, h, self.x.shape) for _ in range(NEARBY)]
        lines = [partial(self.value, self.places[k], x=x) for x in around]
        return one_sided([self.all[k], *lines], g, h * 2.0**-10)

    def imaginary(self, place: Any, h: float) -> np.ndarray:
        """The imaginary part of the result where the input is moved by ih."""
        there = self.x.astype(complex)
        there[place] += 1j * h * (self.direction if place is ... else 1)
        return self.point.imaginary(self.i, there)


def compare(point: Point, i: int, order: int, g: Any, got: np.ndarray, settings: Settings, report: Report) -> str:
    """Add the comparison of the derivative by value `i` to the report. CheckFailed if it is wrong. The result is the
    reason if it is undecided, else "".
    """
    lines, weights = Lines(point, i, settings), to_host(g.data)
    norm = 0.0
    if settings.fast:
        terms = (got * lines.direction).reshape(-1)
        norm, got = math.sqrt(terms @ terms), np.array(terms.sum())
    elements = Elements(got.reshape(-1), norm, settings, *richardson(lines.all, lines.steps, weights), lines.steps)
    if settings.method == "complex" and order == 1:
        elements.replace([complex_step(partial(lines.imaginary, place), weights) for place in lines.places], point.name)
    unclear: dict[int, str] = {}
    wrong: list[int] = []
    for k in elements.unsure():
        verdict = elements.look(k, lines, weights)
        if verdict == "wrong":
            wrong.append(k)
        elif verdict:
            unclear[k] = verdict
        if len(wrong) == ENOUGH:
            break
    comparison = elements.comparison(order, point.names[i], got.shape)
    report.comparisons.append(comparison)
    if wrong:
        raise CheckFailed(_text(comparison, wrong, lines, weights, settings, report), report)
    return _undecided_text(comparison, unclear, lines) if unclear else ""


class Elements:
    """The elements of a derivative, in a row: what the rules give, what differences give, and how sure that is."""

    def __init__(self, got: np.ndarray, norm: float, settings: Settings, expected: Any, error: Any, step: list[float]):
        self.got, self.norm, self.settings = got, norm, settings
        self.expected, self.error, self.step = expected, error, np.array(step)
        with np.errstate(all="ignore"):
            self.size = max(float(np.nanmax(np.minimum(abs(got), abs(expected)), initial=0)), norm)
        self.tolerance = self.allowed(expected)

    def allowed(self, expected: Any) -> Any:
        """The tolerance: of derivatives below 1 the absolute part shrinks, so that small ones are checked too."""
        size = np.fmax(self.size, np.abs(expected))
        absolute = np.where(size < SMALLEST, SMALLEST, self.settings.atol * np.minimum(size, 1))
        return absolute + self.settings.rtol * np.maximum(np.abs(expected), self.norm) + ROUNDING * size

    def useful(self, size: float) -> float:
        """How large an error estimate may be beside derivatives of `size`."""
        return max(self.settings.atol, USEFUL * size)

    def replace(self, exact: list[float], name: str) -> None:
        """Take derivatives by the complex step instead. ValueError if they contradict the differences."""
        found = np.array(exact)
        limit = SURE * self.error + USEFUL * np.maximum(np.abs(found), np.abs(self.expected)) + self.tolerance
        if (np.abs(found - self.expected) > limit).any() and (np.abs(found - self.got) > limit).any():
            raise ValueError(
                f"check_gradients: {name}: the complex step is not the derivative, so the op is not analytic (abs, "
                'maximum, comparisons, real parts): use method="differences"'
            )
        self.expected, self.error = found, 16 * np.finfo(float).eps * np.abs(found)
        self.tolerance = self.allowed(found)

    def unsure(self) -> list[int]:
        """The elements that two steps do not show to be right, the worst first."""
        with np.errstate(all="ignore"):
            distance = np.abs(self.got - self.expected)
            right = (distance <= self.tolerance + self.error) & (self.error <= self.useful(self.size))
            places = np.flatnonzero(~right)
            return sorted(places.tolist(), key=lambda k: -np.nan_to_num(distance[k], nan=np.inf))

    def look(self, k: int, lines: Lines, g: np.ndarray) -> str:
        """ "" if element `k` is right, "wrong", or the reason why it is undecided; by as many steps as it takes."""
        h, line, magnitude = lines.steps[k], lines.all[k], lines.magnitude(k)
        if not math.isfinite(magnitude):
            return "the input itself is not finite"
        if self.settings.method != "complex" or self.error[k] > self.tolerance[k]:
            noise, reach = rounding(line, g, power_of_two(CLOSE * magnitude)), PIECE * max(1.0, magnitude)
            self.measure(k, lines, g, noise)
            if self.distance(k) > 0 and (width := piece(line, g, self.got[k], reach)):
                self.measure(k, lines, g, max(noise, rounding_within(line, g, width, reach)), reach)
                return self.verdict(k)
        if not (verdict := self.verdict(k)):
            return verdict
        if (sides := _kink(line, g, h)) is not None:
            inside = between(self.got[k], sides, self.tolerance[k])
            if inside or between(self.got[k], lines.nearby(k, g, h * 2.0**-10), self.tolerance[k]):
                return f"the function has a kink there, with slopes from {sides[0]:.4g} to {sides[1]:.4g}"
            return "wrong"
        return self.look_closer(k, lines, g) if verdict == "wrong" else verdict

    def look_closer(self, k: int, lines: Lines, g: np.ndarray) -> str:
        """The verdict by finer steps, where what was taken for noise is not there at nearer points: the function varies
        that quickly.
        """
        spacing = power_of_two(CLOSE * lines.magnitude(k))
        noise, finer = (rounding(lines.all[k], g, s) for s in (spacing, CLOSER * spacing))
        if 0 < finer < noise / 16:  # 0: values that are rounded to multiples of a number
            self.measure(k, lines, g, finer)
        return self.verdict(k)

    def measure(self, k: int, lines: Lines, g: np.ndarray, noise: float, widest: float = math.inf) -> None:
        """Take the derivative by element `k` from differences over many steps, of values with `noise`."""
        found = ridders(lines.all[k], g, lines.steps[k], noise, lines.sizes, widest)
        self.expected[k], self.error[k], self.step[k] = found
        self.tolerance[k] = self.allowed(self.expected[k])

    def distance(self, k: int) -> float:
        """How far the rules are from the differences, beyond the tolerance and what these are uncertain by."""
        return float(abs(self.got[k] - self.expected[k]) - self.tolerance[k] - SURE * self.error[k])

    def verdict(self, k: int) -> str:
        """What `look` says of an element without a kink."""
        sure = SURE * self.error[k]
        if not math.isfinite(sure):
            return "no difference of values has a limit there: the function jumps, or is not finite on both sides"
        if not self.distance(k) <= 0:  # nan is wrong
            return "wrong"
        if sure <= self.useful(max(self.size, abs(float(self.expected[k])))):
            return ""
        return f"the differences are uncertain by {sure:.2g}, because the values of the function are not precise enough"

    def comparison(self, order: int, argument: str, shape: tuple[int, ...]) -> Comparison:
        parts = self.got, self.expected, self.error, self.tolerance, self.step
        return Comparison(order, argument, *[part.reshape(shape) for part in parts])


def between(x: float, sides: tuple[float, float, float], slack: float) -> bool:
    """Whether x is between the first two, which have the error that is the third."""
    low, high, error = sides
    return low - error - slack <= x <= high + error + slack


def _kink(line: Line, g: np.ndarray, h: float) -> tuple[float, float, float] | None:
    """(least slope, greatest slope, their error) if these do not approach each other near t = 0, else None."""
    near = one_sided([line], g, h * 2.0**-13)
    far = one_sided([line], g, h * 2.0**-10)
    gap, wide = near[1] - near[0], far[1] - far[0]
    scale = USEFUL * (abs(near[0]) + abs(near[1]))
    return near if gap > wide / 2 and gap > 3 * near[2] + scale else None


# ----- messages ---------------------------------------------------------------------------------------------------


def _text(c: Comparison, wrong: list[int], lines: Lines, g: np.ndarray, settings: Settings, report: Report) -> str:
    with np.errstate(all="ignore"):
        worst = max(wrong, key=lambda k: np.nan_to_num(abs(c.got - c.expected).reshape(-1)[k], nan=np.inf))
    at = np.unravel_index(worst, c.got.shape)
    many = "or more " if len(wrong) == ENOUGH else ""
    where = "along a random direction" if settings.fast else f"at {len(wrong)} {many}of {c.got.size} elements"
    by = "complex step" if settings.method == "complex" and c.order == 1 else "central differences"
    place = "" if settings.fast else f"worst at {list(map(int, at))}: "
    given = f"its layout {layout_text(lines.like)}" if lines.like is not None else "it is on a device"
    at_element = "" if settings.fast else f"{c.argument} is {lines.x[at]:.10g} there, "
    return (
        f"check_gradients: {report.name}: wrong derivative of order {c.order} by {c.argument} of shape "
        f"{lines.x.shape}, {where}\n"
        f"  {place}expected {c.expected[at]:.10g} ({by}), got {c.got[at]:.10g} (the rules), "
        f"error {abs(c.got[at] - c.expected[at]):.3g}\n"
        f"  tolerance {c.tolerance[at]:.3g}, error estimate of the difference {c.error_estimate[at]:.2g}, "
        f"step {c.step[at]:.3g}\n"
        f"  {at_element}{given}\n"
        f"  g, the incoming gradient of seed {settings.seed}: {_shown(g)}"
    )


def _undecided_text(c: Comparison, unclear: dict[int, str], lines: Lines) -> str:
    k, reason = next(iter(unclear.items()))
    at = list(map(int, np.unravel_index(k, c.got.shape)))
    there = "" if lines.places[0] is ... else f", as at {at}, where it is {lines.x[tuple(at)]:.10g}"
    return (
        f"differences cannot tell whether the derivative of order {c.order} by {c.argument} is right at "
        f"{len(unclear)} of {c.got.size} elements{there}: {reason}"
    )


def _shown(g: np.ndarray) -> str:
    text = np.array2string(g, precision=4, threshold=8, edgeitems=2, separator=", ").replace("\n", "")
    return f"{text} of shape {g.shape}" if g.ndim else text
