"""The properties of an op as Hypothesis tests: `check_op`, and `property_tests` for pytest."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from hypothesis import assume, given, settings

from .gradients import check_gradients
from .rows import Row, drawn
from .strategies import smooth, st


def differences(row: Row, data: Any, seed: int) -> None:
    """Derivatives of orders 1 to `row.order` are those that differences of values give."""
    shapes, meta = data.draw(drawn(row))
    xs = data.draw(smooth(*shapes, **row.domain))
    assume(any(x.size for x in xs) and sum(x.size for x in xs) <= 16)
    assume(np.size(row.op(*xs, **meta)))
    check_gradients(lambda *xs: row.op(*xs, **meta), *xs, order=row.order, seed=seed, step=row.step)


PROPERTIES: dict[str, Callable[[Row, Any, int], None]] = {"differences": differences}


def check_op(
    row: Row,
    properties: str | Sequence[str] | None = None,
    *,
    profile: str | None = None,
    examples: int | None = None,
    seed: int | None = None,
) -> dict[str, int]:
    """Check every property of an op (or those named: PROPERTIES has them) at inputs that Hypothesis draws.

    `profile` is "dev" (10 examples of each property, the same ones on every run), "ci" (200) or "nightly" (5,000,
    random), `examples` another number of them; the default is pytest's option --op-profile, or else the Hypothesis
    profile that is in force. `seed` draws other examples, the same ones on every run. The result says how many examples
    of each property were checked: {name: number}. Raises what the first failing example raises (CheckFailed or another
    AssertionError; Undecided only if no example could be decided), with a note that has the inputs and the line that
    reproduces it.
    """
    names = [properties] if isinstance(properties, str) else list(properties or PROPERTIES)
    done = {}
    for name in names:
        count, property = 0, PROPERTIES[name]

        @settings(max_examples=examples or settings().max_examples, deadline=None, derandomize=True, database=None)
        @given(data=st.data(), seed=st.integers(0, 2**20))
        def run(data: Any, seed: int) -> None:
            nonlocal count
            property(row, data, seed)
            count += 1

        run()
        done[name] = count
    return done


def property_tests(rows: Sequence[Row]) -> Callable[..., None]:
    """A pytest test of every property of every row: `test_ops = property_tests(ROWS)` in a test module is all."""
    import pytest

    pairs = [pytest.param(row, name, id=f"{row}-{name}") for row in rows for name in PROPERTIES]

    @pytest.mark.parametrize(("row", "name"), pairs)
    def test_property(row: Row, name: str) -> None:
        check_op(row, name)

    return test_property
