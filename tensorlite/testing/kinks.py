"""Derivatives at kinks: between the slopes that values of the function have to both sides."""

from collections import Counter
from functools import partial
from typing import Any

import numpy as np

from ..backend import to_host
from ..creation import tensor
from .compare import NEARBY, USEFUL, Lines, Settings, between
from .differences import one_sided
from .points import Point
from .report import CheckFailed, Comparison, Report

STEP = 2.0**-13  # beside ties
GROUPS = 4  # of equal elements, the largest ones


def check_sides(point: Point, i: int, g: Any, got: np.ndarray, settings: Settings, report: Report) -> None:
    """CheckFailed if the derivative by an element of value `i` is not between the slopes to both sides."""
    lines, weights = Lines(point, i, settings), to_host(g.data)
    sides = np.array([one_sided([line], weights, h / 8) for line, h in zip(lines.all, lines.steps, strict=True)])
    low, high, error = sides.T.reshape(3, *got.shape)
    size = np.maximum(np.abs(low), np.abs(high))
    known = np.isfinite(size) & (error <= USEFUL * np.maximum(1, size))
    if not known.all():
        reason = f"{(~known).sum()} of {known.size} elements: the function jumps or is not finite"
        report.skipped[point.names[i]] = reason
    slack = settings.atol + settings.rtol * size
    middle, half = (low + high) / 2, (high - low) / 2
    step = np.array(lines.steps).reshape(got.shape)
    report.comparisons.append(Comparison(1, point.names[i], got, middle, half + error, slack, step))
    with np.errstate(all="ignore"):
        outside = np.where(known, np.abs(got - middle) - half - error - slack, -np.inf)
    for k in np.flatnonzero(known & ~(outside <= 0)):  # so that nan is wrong
        if between(got.flat[k], lines.nearby(int(k), weights, lines.steps[k] / 8), slack.flat[k]):
            outside.flat[k] = 0
    wrong = known & ~(outside <= 0)
    if wrong.any():
        at = np.unravel_index(np.argmax(np.where(wrong, np.nan_to_num(outside, nan=np.inf), -np.inf)), got.shape)
        raise CheckFailed(
            f"check_kinks: {report.name}: wrong derivative by {point.names[i]} of shape {got.shape}, at {wrong.sum()} "
            f"of {got.size} elements\n"
            f"  worst at {list(map(int, at))}: expected {low[at]:.10g} to {high[at]:.10g} (the slopes to both sides), "
            f"got {got[at]:.10g} (the rules)\n"
            f"  {point.names[i]} is {lines.x[at]:.10g} there, seed {settings.seed}",
            report,
        )


# ----- equal elements, moved together -----------------------------------------------------------------------------


def check_ties(point: Point, g: Any, gradients: dict[int, np.ndarray], settings: Settings, report: Report) -> None:
    """CheckFailed if the derivative along a direction that moves equal elements together, in all values, is not between
    the slopes to both sides: a maximum whose gradient counts a tie twice has a right derivative by each single element.
    """
    weights = to_host(g.data)
    xs = {i: to_host(point.values[i].data) for i in gradients}
    counts = Counter(np.concatenate([x.reshape(-1) for x in xs.values()]).tolist())
    for value in [value for value, count in counts.most_common(GROUPS) if count > 1]:
        moving = {i: x == value for i, x in xs.items()}
        got = float(sum(gradients[i][there].sum() for i, there in moving.items()))
        sides = one_sided([partial(_along, point, xs, moving)], weights, STEP)
        low, high, error = sides
        size = max(abs(low), abs(high))
        slack = settings.atol + settings.rtol * size
        if not error <= USEFUL * max(1, size) or between(got, sides, slack):
            continue
        if between(got, _around(point, xs, moving, weights), slack):
            continue
        raise CheckFailed(
            f"check_kinks: {report.name}: wrong derivative where all elements that are {value:.10g} move together: "
            f"expected {low:.10g} to {high:.10g} (the slopes to both sides), got {got:.10g} (the sum of the gradient "
            f"over these {counts[value]} elements): ties may count twice; seed {settings.seed}",
            report,
        )
    report.checked.append("ties together")


def _along(point: Point, xs: dict[int, np.ndarray], moving: dict[int, np.ndarray], t: float) -> np.ndarray:
    there = list(point.values)
    for i, x in xs.items():
        there[i] = tensor(x + t * moving[i], device=point.device)
    return np.array(to_host(point.out(there).data))


def _around(point: Point, xs: Any, moving: Any, g: np.ndarray) -> tuple[float, float, float]:
    """`one_sided` at inputs around the tie, as Lines.nearby has it: of all slopes that the kink has."""
    random = np.random.default_rng(0)
    around = [{i: x + random.uniform(-STEP, STEP, x.shape) for i, x in xs.items()} for _ in range(NEARBY)]
    lines = [partial(_along, point, near, moving) for near in [xs, *around]]
    return one_sided(lines, g, STEP * 2.0**-10)
