"""How precise the values of a function are: the noise that they show, and the spacing at which they show it.

- `noise`: how far values at a few points near by are from smooth, from a polynomial of degree 3. After J. J. More,
  S. M. Wild, "Estimating computational noise", SIAM J. Sci. Comput. 33 (2011), 1292-1314, who take differences of them
  at regular distances; where values are rounded to multiples of a number, such distances may show no noise at all. The
  points have to be so far apart that the values differ.
- `piece`: how far that is, where values are rounded inside: to float32, to six digits, or by x + 1e13 - 1e13. Such a
  function jumps by a quantum, however near two inputs are, and is smooth in between: over steps within a piece its
  differences are those of the piece, such as 0, and not those of the function that was rounded.
"""

import math
from collections.abc import Callable

import numpy as np

Line = Callable[[float], np.ndarray]
EPSILON = 2.0**-52
PLACES = np.round(1024 * np.array([-4.28, -3.11, -1.83, -1.27, 0.0, 0.93, 2.22, 2.86, 4.07])) / 1024  # x + h is exact
ROUGH = np.linalg.qr(np.vander(PLACES, 4), mode="complete")[0][:, 4:].T  # (5, 9): what is left beside the cubic
NEAREST = 2.0**-26  # of the reach: jumps that are nearer show in the noise
FINEST = 2.0**-46  # of the reach: to bisect to


def change(right: np.ndarray, left: np.ndarray) -> np.ndarray:
    """right - left, and 0 where both are the same infinity."""
    return np.where(right == left, 0.0, right - left)


def rounding(line: Line, g: np.ndarray, spacing: float) -> float:
    """The noise of sum(g line(t)), its standard deviation."""
    here = line(0.0)
    return float(_noise(_values(lambda t: np.array((g * change(line(t), here)).sum()), spacing)))


def rounding_within(line: Line, g: np.ndarray, spacing: float, reach: float) -> float:
    """The largest noise that spacings from `spacing` to `reach` / 8 show: that of numbers of different size."""
    count = max(0, int(math.log2(reach / spacing) / 3))
    return max(rounding(line, g, s) for s in [spacing, *[reach / 8**n for n in range(1, count + 1)]])


def noise(line: Line, spacing: float, widest: float) -> np.ndarray:
    """The noise of each value of a line over the first of the distances `spacing`, 8 `spacing`, ... `widest` at which
    at least five of the nine values are different, as More and Wild ask; 0 if there is no such distance.
    """
    found = np.full(line(0.0).shape, np.nan)
    while spacing <= widest and np.isnan(found).any():
        values = _values(line, spacing)
        differ = (np.diff(np.sort(values, axis=0), axis=0) != 0).sum(0) >= 4
        found = np.where(np.isnan(found) & differ, _noise(values), found)
        spacing *= 8
    return np.nan_to_num(found)


def _values(line: Line, spacing: float) -> np.ndarray:
    with np.errstate(all="ignore"):
        return np.array([line(place * spacing) for place in PLACES.tolist()])


def _noise(values: np.ndarray) -> np.ndarray:
    """(9, *out) -> (*out): the standard deviation; 0 where a value is not finite."""
    with np.errstate(all="ignore"):
        rough = np.tensordot(ROUGH, change(values, values[4]), 1)
        found = np.sqrt((rough**2).mean(0))
    return np.where(np.isfinite(found), found, 0.0)


# ----- jumps ------------------------------------------------------------------------------------------------------


def piece(line: Line, g: np.ndarray, claimed: float, reach: float) -> float:
    """The width of the smooth piece around t = 0 of an output that jumps to both sides of it within `reach`; 0 if none
    does.

    The output is the one with the nearest jump to the right by which sum(g line(t)) leaves its tangent at 0 in favour
    of the slope `claimed`. A function that is continuous, however quickly it varies, has none, nor has one whose steps
    are wider than `reach`: there the slope at 0 is the derivative.
    """
    with np.errstate(all="ignore"):
        near, here = reach * NEAREST, line(0.0)
        slopes = change(line(near), line(-near)) / (2 * near)

        def residual(t: float) -> np.ndarray:
            return change(line(t), here) - slopes * t

        gain = abs(claimed - float((g * slopes).sum())) / 4
        right = _jump(lambda t: abs((g * residual(t)).sum()) > gain * t, near, reach)
        if right is None:
            return 0.0
        jumps = g * (residual(right[1]) - residual(right[0]))
        k = np.abs(jumps).argmax()
        quantum = abs(jumps.flat[k])
        if not quantum > gain * max(right[1], near) / 2:
            return 0.0
        left = _jump(lambda t: abs((g * residual(-t)).flat[k]) > quantum / 2, near, reach)
        if left is None or not abs((g * (residual(-left[1]) - residual(-left[0]))).flat[k]) > quantum / 4:
            return 0.0
        return right[1] + left[1]


def _jump(left: Callable[[float], bool], near: float, reach: float) -> tuple[float, float] | None:
    """The nearest t from which on `left(t)`, by bisection, as (before, after); None if it is nowhere up to `reach`."""
    before, after = 0.0, near
    while not left(after):
        if after >= reach:
            return None
        before, after = after, 2 * after
    while after - before > FINEST * reach:
        middle = (before + after) / 2
        before, after = (before, middle) if left(middle) else (middle, after)
    return before, after
