"""The bank: right ops and planted faults, and how many of them checkers of derivatives see.

    python -m tests.meta.bank                               check_op: faults caught, false alarms
    python -m tests.meta.bank --peers --table docs/checker.md   ... beside PyTorch, HIPS autograd and JAX, as a page
    python -m tests.meta.bank --only "softmax"              the ops and faults with this text in their names

A fault is caught if the check of the wrong op raises and that of the right op at the same inputs passes. `check_op`
draws its own inputs from the strategy of the op (--examples for each property). The other checkers get --draws smooth
draws from the same strategy, as plain arrays. A check that raises Undecided has caught nothing. A library that is not
installed is left out (`pip install torch autograd jax`).
"""

import argparse
import functools
import math
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st

from tensorlite.testing import Row, Undecided, check_op, smooth

from .bank_faults import FAULTS, LACKS, Fault
from .bank_libraries import LIBRARIES, ON_ARRAYS, gradients, tensorlite_op
from .bank_ops import BY_NAME, RIGHT, Op

CAUGHT, PASSED, UNDECIDED, IMPOSSIBLE = "caught", "passed", "undecided", "cannot be written"
MARKS = {CAUGHT: "✓", PASSED: "–", UNDECIDED: "?", IMPOSSIBLE: "n/a"}


def row(op: Op, formulas_of: Op | None = None) -> Row:
    """The row of an op for check_op; with the value and gradient of a right op as formulas, if one is given."""
    formulas: dict[str, Any] = {}
    if formulas_of is not None:
        right = formulas_of
        formulas["value"] = functools.partial(right.forward, ON_ARRAYS)
        formulas["gradient"] = lambda g, *xs, **meta: tuple(
            gradients(right, ON_ARRAYS, g, xs, right.forward(ON_ARRAYS, *xs, **meta), meta)
        )
    return Row(op.name, tensorlite_op(op), inputs=op.inputs, domain=op.domain, order=op.order, **formulas)


def checked(op: Op, examples: int, seed: int = 0, formulas_of: Op | None = None) -> tuple[str, int, str]:
    """What check_op says of an op: the verdict, the number of inputs it has passed, the first lines of the failure."""
    try:
        done = check_op(row(op, formulas_of), examples=examples, seed=seed)
    except Undecided as undecided:
        return UNDECIDED, 0, str(undecided)
    except Exception as failure:
        return CAUGHT, 0, "\n".join([f"{type(failure).__name__}: {failure}", *getattr(failure, "__notes__", ())])
    return PASSED, sum(done.values()), ""


def draws(op: Op, n: int) -> list[tuple[tuple[numpy.ndarray, ...], dict[str, Any]]]:
    """`n` smooth draws for an op, the same ones on every run: arrays with elements, at most 16 in all."""
    found: list[Any] = []

    @settings(
        max_examples=4 * n, derandomize=True, database=None, deadline=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(data=st.data())
    def draw(data: st.DataObject) -> None:
        shapes, meta = data.draw(op.inputs)
        assume(0 < sum(math.prod(shape) for shape in shapes) <= 16 and all(map(math.prod, shapes)))
        found.append((data.draw(smooth(*shapes, **op.domain)), meta))

    draw()
    return found[:: max(1, len(found) // n)][:n]


def verdicts(op: Op, library: str, inputs: list[Any]) -> Iterator[str]:
    """What a library's checker says of an op at each of the inputs."""
    made: dict[str, Callable[..., Any]] = {}  # one op for all inputs of the same keyword arguments, as in life
    for xs, meta in inputs:
        function = made.setdefault(repr(meta), LIBRARIES[library].make(op, meta))
        try:
            LIBRARIES[library].check(function, xs, 2)
            yield PASSED
        except Undecided:
            yield UNDECIDED
        except Exception:
            yield CAUGHT


def judged(fault: Fault, library: str, inputs: list[Any], right: list[str]) -> str:
    """Whether a library's checker sees a fault at one of the inputs at which it accepts the right op."""
    if fault.lacking(library):
        return IMPOSSIBLE
    fine = [given for given, verdict in zip(inputs, right, strict=True) if verdict == PASSED]
    found = Counter(verdicts(fault.op(), library, fine))
    return CAUGHT if found[CAUGHT] else PASSED if found[PASSED] else UNDECIDED


# ----- the command ------------------------------------------------------------------------------------------------


def of_check_op(ops: list[Op], faults: list[Fault], examples: int, right: int) -> dict[str, dict[str, str]]:
    """The verdicts of check_op on right ops and faults; at least `right` inputs of right ops in all."""
    found, inputs, each = {}, 0, examples
    for op in ops:
        found[op.name], passed, text = checked(op, each)
        if found[op.name] == CAUGHT:
            print(f"FALSE ALARM {op.name}: {text}\n")
        inputs += passed
    while inputs < right and PASSED in found.values():  # more examples with another seed
        each *= 2
        for op in ops:
            if found[op.name] == PASSED:
                found[op.name], passed, text = checked(op, each, seed=each)
                inputs += passed
                if found[op.name] == CAUGHT:
                    print(f"FALSE ALARM {op.name}: {text}\n")
    formulas = {}
    wrong = {}
    for fault in faults:
        verdict, _, text = checked(fault.op(), examples)
        wrong[fault.name] = verdict if found.get(fault.of, PASSED) == PASSED else PASSED
        verdict, _, text = checked(fault.op(), examples, formulas_of=BY_NAME[fault.of])
        formulas[fault.name] = verdict if found.get(fault.of, PASSED) == PASSED else PASSED
    print(f"check_op: {inputs} inputs of {len(ops)} right ops")
    return {"inputs": inputs, "right": found, "check_op": wrong, "formulas": formulas}


if __name__ == "__main__":
    pass
