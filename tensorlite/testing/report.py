"""What a check found: `Report`, and the errors that have one."""

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Comparison:
    """The derivative of one order by one argument: what the rules give beside what differences of values give.

    All arrays have the shape of the argument; with `fast` they have one element, for one random direction.
    """

    order: int
    argument: str  # as messages name it: "argument 0 (x)"
    got: np.ndarray  # of the rules
    expected: np.ndarray  # of differences
    error_estimate: np.ndarray  # of `expected`: what truncation and rounding may have changed
    tolerance: np.ndarray  # how far `got` may be from `expected`, besides the error estimate
    step: np.ndarray  # the largest distance of the difference

    @property
    def error(self) -> float:
        """The largest distance of `got` from `expected`; 0 for an argument without elements."""
        return float(np.abs(self.got - self.expected).max(initial=0))

    def __str__(self) -> str:
        shape, estimate = self.got.shape, self.error_estimate.max(initial=0)
        return f"order {self.order}, {self.argument} {shape}: largest error {self.error:.2g} (+- {estimate:.2g})"


@dataclass
class Report:
    """What a check did. `comparisons` has one entry for each order and argument, `checked` the names of the other
    properties that were checked, `skipped` the reason for each that could not be. `str` gives all of it as text.
    """

    name: str  # of the op
    comparisons: list[Comparison] = field(default_factory=list)
    checked: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [self.name, *[f"  {comparison}" for comparison in self.comparisons]]
        lines += [f"  checked: {', '.join(self.checked)}"] * bool(self.checked)
        return "\n".join([*lines, *[f"  skipped: {name} ({reason})" for name, reason in self.skipped.items()]])


class CheckFailed(AssertionError):
    """A derivative is wrong, or another property of the op does not hold. `report` has the numbers."""

    def __init__(self, message: str, report: Report):
        super().__init__(message)
        self.report = report


class Undecided(ArithmeticError):
    """Differences of values cannot tell whether a derivative is right: the inputs are at a kink, or rounding is larger
    than the derivative. No fault was found and nothing was proved. `report` has the numbers.
    """

    def __init__(self, message: str, report: Report):
        super().__init__(message)
        self.report = report
