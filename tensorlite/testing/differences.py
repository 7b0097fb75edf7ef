"""Derivatives from values of a function alone, each with an estimate of its error.

A *line* is a function of one number t: the result of an op, as an array, at inputs that are moved by t along an element
or a direction. Its derivative is that of sum(g line(t)) at t = 0, where `g` is the incoming gradient.

- `richardson`: central differences over two steps, extrapolated. Its error is of order step**4.
- `ridders`: central differences over many steps; the error estimate decides. C. J. F. Ridders, "Accurate computation of
  F'(x) and F'(x) F''(x)", Advances in Engineering Software 4 (1982), 75-76; Press et al., "Numerical Recipes", 5.7.
- `complex_step`: Im f(x + ih) / h, which subtracts nothing. W. Squire, G. Trapp, "Using complex variables to estimate
  derivatives of real functions", SIAM Review 40 (1998), 110-112.

The rounding error of a difference counts only outputs that move with t: one that is constant, be it 1e30 or -inf,
cancels exactly. A value is not more precise than SUMS EPSILON times the largest that the function has on the way from 0
to the inputs (`Point.sizes`): where it is far smaller than that, it is a difference of numbers of that size, such as
0.5 x (1 + tanh x) at -6. Over small steps such values are constant, so that differences of them do not show the error.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np

from .noise import EPSILON, Line, change

WIDER, FINER = 10, 26  # Ridders' steps: h times 2**10 to 2**-26
COLUMNS = 5  # of his table
SUMS = 64  # rounding errors in a value
TINY = 1e-30  # the complex step
AT_ONCE = 2**20  # numbers that are held for differences


def power_of_two(h: float) -> float:
    """The power of 2 next to `h`: x + h is exact then for most x."""
    mantissa, exponent = math.frexp(h)
    return math.ldexp(0.5 if mantissa < 0.70710678 else 1.0, exponent)


# ----- two steps --------------------------------------------------------------------------------------------------


def richardson(lines: Sequence[Line], steps: Sequence[float], g: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(derivatives, bounds of their rounding errors), one for each line, from its values at +-h and +-h/2."""
    slopes, bounds = np.empty(len(lines)), np.empty(len(lines))
    count = max(1, AT_ONCE // (4 * max(1, g.size)))
    for start in range(0, len(lines), count):
        part = slice(start, start + count)
        pairs = zip(lines[part], steps[part], strict=True)
        with np.errstate(all="ignore"):
            values = np.array([[line(t * h) for t in (1, -1, 0.5, -0.5)] for line, h in pairs])
        values = values.reshape(len(values), 4, g.size)  # (lines, 4, *out) -> (lines, 4, size)
        slopes[part], bounds[part] = _extrapolated(values, np.array(steps[part]), g.reshape(-1))
    return slopes, bounds


def _extrapolated(values: np.ndarray, h: np.ndarray, g: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`values` (lines, 4, size), `h` (lines,), `g` (size,)."""
    with np.errstate(all="ignore"):
        far, near = change(values[:, 0], values[:, 1]), change(values[:, 2], values[:, 3])
        slopes = (8 * near - far) @ g / (6 * h)  # (4 near / h - far / 2h) / 3
        size = np.where((far != 0) | (near != 0), np.abs(values).max(1), 0)
        return slopes, 4 * EPSILON * (size @ np.abs(g)) / h


# ----- as many steps as it takes ----------------------------------------------------------------------------------


def ridders(
    line: Line, g: np.ndarray, h: float, noise: float, sizes: np.ndarray, widest: float = math.inf
) -> tuple[float, float, float]:
    """(derivative, estimate of its error, step), from steps around `h` up to `widest`; the error is inf where no
    difference is finite.

    `noise` is that of sum(g line(t)), `sizes` are those of `Point.sizes`. Of all entries of Ridders' table the one with
    the least error is taken that no smaller step contradicts: over a large step a function that varies quickly may look
    constant.
    """
    older: list[float] = []
    rows: list[tuple[float, float, float]] = []  # the best entry for each step: (error, derivative, step)
    moved = np.zeros(g.shape, bool)
    for n in range(-WIDER, FINER):
        if (step := h * 2.0**-n) > widest:
            continue
        slope, size = _central(line, g, step, moved, sizes)
        row, best = [slope], (math.inf, math.nan, step)
        if math.isfinite(slope):
            bound = max(EPSILON * size, 2 * noise) / step
            for k, entry in enumerate(older[: COLUMNS - 1]):
                row.append(row[k] + (row[k] - entry) / (4.0 ** (k + 1) - 1))
                error = max(abs(row[-1] - row[-2]), abs(row[-1] - entry)) + bound
                best = min(best, (error, row[-1], step))
            rows.append(best)
        older = row if math.isfinite(slope) else []
    return _uncontradicted(rows, h)


def _central(line: Line, g: np.ndarray, step: float, moved: np.ndarray, sizes: np.ndarray) -> tuple[float, float]:
    """The difference over one step, and the size of the outputs that have moved so far (which `moved` remembers), in
    all: the rounding error of the difference of values is EPSILON times that.
    """
    with np.errstate(all="ignore"):
        right, left = line(step), line(-step)
        difference = change(right, left)
        moved |= (difference != 0) & np.isfinite(difference)
        size = np.where(moved, np.maximum(np.abs(right) + np.abs(left), SUMS * sizes), 0)
        return float((g * difference).sum() / (2 * step)), float((np.abs(g) * size).sum())


def _uncontradicted(rows: list[tuple[float, float, float]], h: float) -> tuple[float, float, float]:
    for error, slope, step in sorted(row for row in rows if math.isfinite(row[0])):
        finer = [row for row in rows if row[2] < step and math.isfinite(row[0])]
        if all(abs(slope - other) <= 3 * (error + limit) for limit, other, _ in finer):
            return slope, error, step
    return math.nan, math.inf, h


# ----- kinks ------------------------------------------------------------------------------------------------------


def one_sided(lines: Sequence[Line], g: np.ndarray, h: float) -> tuple[float, float, float]:
    """(least, greatest, error): all sums of g times a slope of each output that is between those to the left and to the
    right of t = 0 on any of the lines, and what truncation and rounding may have changed. nan where one is not finite.
    """
    with np.errstate(all="ignore"):
        sides = [_side(line, step) for line in lines for step in (h, -h)]
        slopes = g * np.array([slope for slope, _ in sides])  # (sides, *out)
        error = np.abs(g) * np.max([error for _, error in sides], axis=0)
        return float(slopes.min(0).sum()), float(slopes.max(0).sum()), 2 * float(error.sum())


def _side(line: Line, h: float) -> tuple[np.ndarray, np.ndarray]:
    """The slope of each output at t = 0 on the side of `h`, and its error."""
    here, *values = [line(t) for t in (0.0, h, h / 2, h / 4)]
    whole, half, quarter = (change(value, here) for value in values)
    wide, slope = (4 * half - whole) / h, (8 * quarter - 2 * half) / h
    moved = (whole != 0) | (half != 0) | (quarter != 0)
    size = np.where(moved, np.abs(here) + np.abs(values[0]), 0)
    return slope, np.abs(slope - wide) + 8 * EPSILON * size / abs(h)


# ----- the complex step -------------------------------------------------------------------------------------------


def complex_step(imaginary: Callable[[float], np.ndarray], g: np.ndarray) -> float:
    """The derivative of sum(g f) where `imaginary(h)` is the imaginary part of f(x + ih)."""
    with np.errstate(all="ignore"):
        return float((g * imaginary(TINY)).sum() / TINY)
