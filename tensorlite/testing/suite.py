"""The properties of an op as Hypothesis tests: `check_op`, and `property_tests` for pytest."""

import secrets
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import hypothesis
import numpy as np
from hypothesis import HealthCheck, Phase, given, reject, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable

from ..grad_mode import setting
from ..primitive import Elementwise
from .devices import device
from .profiles import checked, chosen
from .profiles import profile as named_profile
from .properties import (
    Property,
    broadcasting,
    differences,
    float32,
    independence,
    kinks,
    linearity,
    narrow,
    symmetry,
    ties,
    value,
)
from .report import Undecided
from .rows import Row
from .strategies import always_long

SEEDS = st.integers(0, 2**20)
HOPELESS = 10  # undecided examples without a decided one
WITH_LONG_SIDES = ("value", "differences")
SLOW = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]


# ----- which row has which ----------------------------------------------------------------------------------------


def always(row: Row) -> bool:
    return True


def has_gradient(row: Row) -> bool:
    return row.gradient is not None


def has_differences(row: Row) -> bool:
    return row.gradient is not None and row.differences


def has_kinks(row: Row) -> bool:
    return has_differences(row) and row.kinks


def broadcasts(row: Row) -> bool:
    return isinstance(row.op, Elementwise) and len(row.op.arguments) > 1


def is_narrow(row: Row) -> bool:
    return row.narrow is not None


def has_device(row: Row) -> bool:
    return row.device


PROPERTIES: dict[str, tuple[Property, Callable[[Row], bool]]] = {
    "value": (value, always),
    "ties": (ties, always),
    "differences": (differences, has_differences),
    "kinks": (kinks, has_kinks),
    "symmetry": (symmetry, has_differences),
    "linearity": (linearity, has_gradient),
    "independence": (independence, has_gradient),
    "broadcasting": (broadcasting, broadcasts),
    "float32": (float32, has_gradient),
    "narrow": (narrow, is_narrow),
    "device": (device, has_device),
}
EVERY_EXAMPLE = ("value", "ties")  # the others get a fifth of a profile's examples


# ----- checks -----------------------------------------------------------------------------------------------------


def check_op(
    row: Row,
    properties: str | Sequence[str] | None = None,
    *,
    profile: str | None = None,
    examples: int | None = None,
    seed: int | None = None,
) -> dict[str, int]:
    """Check every property that an op has (or those named: PROPERTIES has them) at inputs that Hypothesis draws.

    `profile` is "dev" (10 examples of a property, the same ones on every run), "ci" (200) or "nightly" (5,000, random);
    derivatives and precisions get a fifth of them, and two more have a side of 65 to 130. The default is pytest's
    option --op-profile, or else the Hypothesis profile that is in force. `examples` is another number of them, for each
    property; `seed` draws other ones, the same ones on every run.

    The result says how many examples of each property were checked: {name: number}. Raises what the first failing
    example raises (CheckFailed, or what the op raises; Undecided only if no example could be decided), with notes that
    have the inputs and the line that reproduces it. ValueError for an unknown property or profile.
    """
    if not isinstance(row, Row):
        raise TypeError(f"check_op: give a Row, such as Row('softplus', softplus), not {type(row).__name__}")
    if chosen.get("op"):
        checked.add(row.name)
        if chosen["op"] not in row.name:
            import pytest  # which has set it

            pytest.skip(f"--op {chosen['op']}: this checks {row}")
    names = [properties] if isinstance(properties, str) else list(properties or properties_of(row))
    if unknown := set(names) - PROPERTIES.keys():
        raise ValueError(f"check_op: unknown property {min(unknown)!r}: choose from {', '.join(PROPERTIES)}")
    base = named_profile(profile)
    seed = chosen.get("seed") if seed is None else seed
    if seed is None and not base.derandomize:
        seed = secrets.randbits(32)
    return {name: _check(row, name, _settings(name, base, examples), seed) for name in names}


def properties_of(row: Row) -> list[str]:
    """The names of the properties that an op has."""
    return [name for name, (_, applies) in PROPERTIES.items() if applies(row)]


def _settings(name: str, base: settings, examples: int | None) -> settings:
    if examples is None:
        examples = base.max_examples if name in EVERY_EXAMPLE else max(5, base.max_examples // 5)
    phases = [phase for phase in base.phases if phase is not Phase.explain]  # which takes most of the time of a failure
    return settings(base, max_examples=examples, derandomize=False, database=None, suppress_health_check=SLOW,
                    report_multiple_bugs=False, phases=phases)  # fmt: skip


def _check(row: Row, name: str, options: settings, seed: int | None) -> int:
    """Run one property at the examples that the names and the seed decide. The number of examples that were checked."""
    check, count, undecided = PROPERTIES[name][0], 0, []

    def example(data: Any, seed: int) -> None:
        nonlocal count
        try:
            with np.errstate(all="ignore"):  # at ties and zeros NumPy warns of what the property is about
                check(row, data, seed)
        except Undecided as error:
            undecided.append(error)
            if count == 0 and len(undecided) >= HOPELESS:
                raise
            reject()
        count += 1

    example.__name__ = name
    first = zlib.crc32(f"{row.name}, {name}, {seed}".encode())
    try:
        hypothesis.seed(first)(options(given(data=st.data(), seed=SEEDS)(example)))()
        if name in WITH_LONG_SIDES:
            with setting(always_long, True):
                few = settings(options, max_examples=2)
                hypothesis.seed(first)(few(given(data=st.data(), seed=SEEDS)(example)))()
    except Unsatisfiable:  # every example was rejected
        if undecided:
            raise undecided[0] from None
        if name in ("value", "differences"):
            raise ValueError(
                f"check_op: {row}: no example of the property {name!r} could be checked: the values of the op are not "
                "finite, or there are none; give the Row inputs and a domain"
            ) from None
    except Exception as error:
        again = f", seed={seed}" if seed is not None else ""
        error.add_note(f"reproduce: check_op(row, {name!r}, examples={options.max_examples}{again})")
        raise
    return count


def property_tests(rows: Sequence[Row]) -> Callable[..., None]:
    """A pytest test of every property of every row: `test_ops = property_tests(ROWS)` in a test module is all.

    Its parameters are `row` and `name`, so that `pytest --op NAME` chooses rows by their names, and
    `pytest -k differences` properties by theirs.
    """
    import pytest

    if isinstance(rows, Row):
        raise TypeError(f"property_tests: give a list of rows, [{rows}]")
    pairs = [pytest.param(row, name, id=f"{row}-{name}") for row in rows for name in properties_of(row)]

    @pytest.mark.parametrize(("row", "name"), pairs)
    def test_property(row: Row, name: str) -> None:
        check_op(row, name)

    return test_property
