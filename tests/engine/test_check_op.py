"""check_op, Row, property_tests and the pytest plugin: each property finds its fault, and right ops pass them all."""

import os
import subprocess
import sys
import unittest
from pathlib import Path

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

import tensorlite as tl
from tensorlite.primitive import elementwise, primitive
from tensorlite.testing import (
    PROPERTIES,
    CheckFailed,
    Row,
    Undecided,
    arrays,
    check_op,
    property_tests,
    reductions,
    shapes,
)
from tensorlite.testing.devices import on_device, strict_device
from tensorlite.testing.profiles import profile
from tensorlite.testing.strict import strict

SQUARE = {"value": lambda x: x * x, "gradient": lambda g, x: (2 * g * x,)}


def square(rule=lambda g, x: 2 * g * x, forward=lambda x: x * x):
    return elementwise(forward).vjp(rule)


def mul(left=lambda g, y: g * y, right=lambda g, x: g * x, forward=lambda x, y: x * y):
    return elementwise(forward).vjp(left, right)


def in_float64(x):
    return (x.astype(np.float64) * x).astype(x.dtype) if x.dtype == np.float32 else x * x


KEPT = []


@pytest.fixture(autouse=True)
def no_shrinking():
    """The first failure is enough: it is not made smaller."""
    usual = settings.get_current_profile_name()
    settings.register_profile("no shrinking", settings(), phases=[Phase.generate], derandomize=True)
    settings.load_profile("no shrinking")
    yield
    settings.load_profile(usual)


def test_right_ops_pass_every_property_and_the_result_counts_the_examples():
    done = check_op(Row("square", square(), **SQUARE, exact=True, narrow=0.5, device=True), examples=5)
    assert done.keys() == PROPERTIES.keys() - {"broadcasting"}
    assert {name: count for name, count in done.items() if count != 5} == {"value": 7, "differences": 7}
    assert "broadcasting" in check_op(Row("mul", mul()), examples=5)
    constant = Row("positive", lambda x: tl.greater(x, 0), value=lambda x: x > 0, gradient=None)
    assert check_op(constant, examples=5) == {"value": 7, "ties": 5}
    total = Row("total", tl.sum, value=np.sum, inputs=reductions(), step=1.0)
    assert min(check_op(total, ["value", "differences"], examples=5).values()) > 0
    power = Row("power", lambda x, n: x**n, inputs=arrays(1, n=st.integers(1, 3)), order=3)
    assert min(check_op(power, examples=5).values()) > 0


WRONG = {
    "value": (Row("mine", square(forward=lambda x: x * x * 1.001), value=lambda x: x * x), "wrong value"),
    "value, gradient": (
        Row("mine", square(), value=lambda x: x * x, gradient=lambda g, x: (g * x,)),
        "wrong gradient by argument 0",
    ),
    "value, dtype": (Row("mine", lambda x: tl.astype(x * x, np.float32), differences=False, value=np.square),
                     "the result has dtype float32, not float64"),
    "value, shape": (Row("mine", square(), value=lambda x: np.square(x).ravel()), "the value has shape"),
    "value, history": (Row("mine", lambda x: (x * x).detach()), "the result has no history"),
    "value, no history": (Row("mine", square(), gradient=None), "the result requires a gradient"),
    "value, state": (Row("mine", square(forward=lambda x: x * x + len(KEPT) + (KEPT.append(1) or 0))), "other values"),
    "value, in place": (Row("mine", square(forward=lambda x: np.multiply(x, x, out=x) if x.flags.writeable else x * x)),
                        "other values|in place"),
    "ties": (
        Row("mine", square(rule=lambda g, x: tl.where(x == 0, g, 2 * g * x)), **SQUARE),
        "wrong gradient by argument 0",
    ),
    "differences": (Row("mine", square(rule=lambda g, x: 2 * g * x * 1.001)), "wrong derivative of order 1"),
    "differences, order 2": (
        Row("mine", square(rule=lambda g, x: 2 * g * tl.detach(x))),
        "wrong derivative of order 2",
    ),
    "kinks": (Row("mine", lambda x: tl.abs(x) * tl.where(x == 0, 1, 1) + tl.where(x == 0, x, 0) * 3, differences=True),
              "check_kinks: mine: wrong derivative"),
    "value, Fortran order": (
        Row("mine", lambda x: primitive(lambda x: np.sin(x.ravel("K").reshape(x.shape))).vjp(
            lambda g, x: g * tl.cos(x))(x)), "wrong value of copies in [CF] order"),
    "kinks, ties": (Row("mine", primitive(lambda x: x.max(-1)).vjp(
        lambda g, x, out: g.reshape((*g.shape, 1)) * (x == tl.reshape(out, (*out.shape, 1)))),
        inputs=st.tuples(st.tuples(shapes(1, min_side=1)), st.just({}))), "ties may count twice"),
    "linearity, small": (Row("mine", square(rule=lambda g, x: tl.where(tl.abs(g) > 1e-3, g * 2 * x, g * 0.0))),
                         "of 6.1e-05 g"),
    "float32, mixed": (Row("mine", mul(left=lambda g, y: (g * y).astype(y.dtype)), inputs=2),
                       "rule 0 gave float32 for float64"),
    "symmetry": (
        Row("mine", mul(left=lambda g, y: g * y * y, right=lambda g, x: g * x)),
        "Hessian, which is not symmetric",
    ),
    "symmetry, a little": (Row("mine", mul(left=lambda g, y: g * y * 1.001)), "Hessian, which is not symmetric"),
    "symmetry, equal shapes": (Row("mine", mul(left=lambda g, y: g * y * 1.001), inputs=st.just((((3,), (3,)), {}))),
                               "Hessian, which is not symmetric"),
    "linearity, a little": (Row("mine", square(rule=lambda g, x: 2 * g * x + tl.where(tl.abs(g) > 50, 0.5, 0.0))),
                            "of 2 g - 300 h"),
    "broadcasting, value": (Row("mine", mul(forward=lambda x, y: x * y * (2 - (x.shape == y.shape))), inputs=2),
                            "wrong value of arrays that broadcast"),
    "linearity": (Row("mine", square(rule=lambda g, x: tl.clip(g, -50, 50) * 2 * x)), "of 2 g - 300 h"),
    "broadcasting": (
        Row("mine", mul(left=lambda g, y: g * y if g.shape == y.shape else g * y * 1.5), inputs=2),
        "which broadcasts",
    ),
    "float32": (Row("mine", square(rule=lambda g, x: g * x * (2 if g.dtype == np.float64 else 3))), "in float32"),
    "float32, dtype": (Row("mine", lambda x: x * tl.ones((), tl.float64)), "results of float32 are float32, float64"),
    "narrow": (Row("mine", lambda x: (x * x) * x - x, narrow=0.5), r"epsilons; 0.5 are allowed"),
    "device": (Row("mine", square(forward=lambda x: x * float(x.sum() < 1e9) * x), device=True), "a strict array"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_each_property_finds_its_fault(case):
    row, sentence = WRONG[case]
    name = case.partition(",")[0]
    with pytest.raises((AssertionError, TypeError), match=sentence) as failure:
        check_op(row, name, examples=30)
    notes = "\n".join(failure.value.__notes__)
    assert f"reproduce: check_op(row, {name!r}, examples=30)" in notes
    assert "Draw 1: " in notes


def test_an_op_with_two_faults_raises_one_failure():
    """Not Hypothesis' group of all that it has found."""

    def op(x):
        if x.ndim == 1:
            raise IndexError("one axis")
        if x.ndim == 2:
            raise ValueError("two axes")
        return x * x

    usual = settings.get_current_profile_name()
    settings.register_profile("all phases", settings(), phases=list(Phase))
    settings.load_profile("all phases")
    try:
        with pytest.raises((IndexError, ValueError), match=r"one axis|two axes"):
            check_op(Row("mine", op, inputs=1), "value", examples=100)
    finally:
        settings.load_profile(usual)


@pytest.mark.parametrize("wrong", [lambda x: [x], lambda x: 1.0, lambda x: None])
def test_an_op_that_returns_no_tensor_is_refused_in_one_sentence(wrong):
    with pytest.raises(
        TypeError, match=r"check_op: mine: the op must return one Tensor, not (list|float|NoneType)"
    ) as e:
        check_op(Row("mine", wrong, inputs=1), examples=5)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    "op",
    [elementwise(lambda x, y: x * (y > 0)).vjp(lambda g, y: g * (y > 0), None), lambda x, y: tl.where(y > 0, x, 0.0)],
    ids=["None for a rule", "a composition"],
)
def test_an_argument_without_a_gradient_is_named_with_the_way_to_leave_it_out(op):
    with pytest.raises(CheckFailed, match=r"check_op: mine: there is no gradient by argument 1.* give it by keyword"):
        check_op(Row("mine", op), examples=5)
    inputs = arrays(1, y=st.just(np.array([1.0])))
    assert check_op(Row("mine", lambda x, *, y: op(x, tl.tensor(y)), inputs=inputs), "value", examples=5)


def given_by_hand(gradient):
    return Row("mine", square(), value=lambda x: x * x, gradient=gradient)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: check_op(square()), r"check_op: give a Row, such as Row\('softplus', softplus\), not Elementwise"),
        (lambda: property_tests(Row("mine", square())), r"property_tests: give a list of rows, \[mine\]"),
        (lambda: Row("mine", 3), "Row 'mine': op must be callable"),
        (lambda: Row(square(), square()), "name must be a string"),
        (lambda: Row("mine", square(), value=3), "Row 'mine': value must be a function of arrays"),
        (lambda: Row("mine", square(), gradient="none"), r"gradient must be a function \(g, \*arrays\), or None"),
        (lambda: Row("mine", square(), domain={"lo": 1}), "Row 'mine': domain may have low, high, avoid, gap"),
        (lambda: check_op(given_by_hand(lambda g, x: 2 * g * x)), "one for each of 1 arrays, not (ndarray|float64)"),
        (lambda: check_op(given_by_hand(lambda g, x: (2 * g * x, g))), "check_op: mine: .* of 1 arrays, not 2 of them"),
    ],
)
def test_what_is_no_row_is_said_in_one_sentence(call, message):
    with pytest.raises(TypeError, match=message) as e:
        call()
    assert "\n" not in str(e.value)


def test_a_failure_says_nothing_of_lines_of_other_libraries():
    settings.register_profile("all phases", settings(), phases=list(Phase), derandomize=True)
    settings.load_profile("all phases")
    ties = elementwise(lambda x: np.maximum(x, 0.0)).vjp(lambda g, x: g * tl.where(x == 0, 2.0, x > 0))
    with pytest.raises(CheckFailed) as e:
        check_op(Row("mine", ties), "kinks", examples=100)
    assert not any("Explanation" in note or "numpy" in note for note in e.value.__notes__)


def test_examples_are_drawn_where_a_profile_only_generates():
    """As here. Without a phase Hypothesis skips, and a check that was skipped would look like one that passed."""
    try:
        done = check_op(Row("mine", square()), "value", examples=5)
    except unittest.SkipTest as error:
        pytest.fail(str(error))
    assert done["value"] >= 5


def test_a_sum_whose_rule_does_not_put_the_axis_back_is_found_by_most_seeds_with_few_examples():
    forgotten = primitive(lambda x, *, axis, keepdims: x.sum(axis=axis, keepdims=keepdims)).vjp(
        lambda g, x_shape: tl.broadcast_to(g, x_shape)
    )
    missed = 0
    for seed in range(20):
        try:
            check_op(Row("sum", forgotten, inputs=reductions()), ["value", "ties"], profile="dev", seed=seed)
            missed += 1
        except (CheckFailed, ValueError):  # of another value, or of shapes that do not broadcast
            pass
    assert missed <= 6


def test_independence_finds_a_rule_that_looks_at_the_others():
    seen = {}

    def left(g, y):
        seen["left"] = True
        return g * y

    def right(g, x):
        return g * x * (1 if seen.pop("left", False) else 2)

    with pytest.raises(CheckFailed, match="where only some need one"):
        check_op(Row("mine", mul(left, right)), "independence", examples=30)


def test_examples_depend_on_the_seed_and_on_nothing_else():
    drawn = []

    def op(x):
        drawn.append(np.array(x.data).tobytes())
        return x * x

    runs = []
    for seed in (None, None, 7, 7, 8):
        drawn.clear()
        check_op(Row("mine", op), "linearity", examples=5, seed=seed)
        runs.append(tuple(drawn))
    assert runs[0] == runs[1]
    assert runs[2] == runs[3]
    assert len(set(runs)) == 3
    wrong = Row("mine", square(rule=lambda g, x: g * x))
    with pytest.raises(CheckFailed) as failure:
        check_op(wrong, "differences", examples=5, seed=7)
    assert failure.value.__notes__[-1] == "reproduce: check_op(row, 'differences', examples=5, seed=7)"


def test_profiles():
    assert [(p.max_examples, p.derandomize) for p in map(profile, ("dev", "ci", "nightly"))] == [
        (10, True), (200, True), (5000, False),
    ]  # fmt: skip
    assert check_op(Row("mine", square()), ["value", "linearity"], profile="dev") == {"value": 12, "linearity": 5}
    with pytest.raises(ValueError, match="unknown profile 'fast': choose one of dev, ci, nightly"):
        check_op(Row("mine", square()), profile="fast")
    with pytest.raises(ValueError, match="unknown property 'speed': choose from value, ties, differences"):
        check_op(Row("mine", square()), "speed")


@pytest.mark.slow
def test_what_no_example_can_show_is_said():
    with pytest.raises(ValueError, match=r"no example of the property 'differences' could be checked.*a domain"):
        check_op(Row("mine", lambda x: tl.sqrt(-1 - x * x)), "differences", examples=5)
    with pytest.raises(Undecided, match="differences cannot tell"):
        check_op(Row("mine", lambda x: x + 1e15), "differences", examples=2)
    assert check_op(Row("mine", lambda x: tl.sqrt(-1 - x * x)), "kinks", examples=5) == {"kinks": 0}


def test_values_that_are_infinite_everywhere_are_checked_beside_the_others():
    def beside(rule):
        op = primitive(lambda x: np.append(x * x, np.full((len(x), 1), -np.inf), axis=1)).vjp(rule)
        return Row("mine", op, inputs=st.just((((2, 3),), {})))

    right = lambda g, x: g[:, :-1] * 2 * x  # noqa: E731
    assert check_op(beside(right), "differences", examples=5)["differences"] == 7
    with pytest.raises(CheckFailed, match="wrong derivative"):
        check_op(beside(lambda g, x: g[:, :-1] * x), "differences", examples=5)
    overflow = Row("mine", lambda x: tl.exp(x * 1e4), domain={"low": 0.5})  # infinite at some inputs: not checked
    with pytest.raises(ValueError, match="no example of the property 'differences' could be checked"):
        check_op(overflow, "differences", examples=5)


@pytest.mark.parametrize("domain", [{"low": 0.2, "avoid": ()}, {"gap": 0.3}, {"low": 95.0, "high": 105.0}])
def test_kinks_are_looked_for_in_the_domain_only(domain):
    seen = []

    def op(x):
        seen.extend(np.array(x.data).ravel().tolist())
        return x * tl.abs(x)

    assert check_op(Row("mine", op, domain=domain), "kinks", examples=20)["kinks"] > 0
    low, high = domain.get("low", -3.1), domain.get("high", 3.1)
    assert all(low - 0.1 <= x <= high + 0.1 and abs(x) > domain.get("gap", 0) - 0.01 for x in seen)
    seen.clear()
    check_op(Row("mine", op), "kinks", examples=20)  # by default 0 is a kink to look at
    assert any(abs(x) < 0.01 for x in seen)
    assert check_op(Row("mine", op, domain={"low": 0.01, "high": 0.05}), "kinks", examples=5) == {"kinks": 0}


def test_the_domain_and_the_step_reach_the_differences():
    log = Row("log", tl.log, value=np.log, domain={"low": 0.1, "high": 3.0, "avoid": ()})
    assert min(check_op(log, ["value", "differences"], examples=20).values()) > 0
    loose = Row("mine", square(rule=lambda g, x: 2 * g * x * 1.001), rtol=0.01)
    assert min(check_op(loose, "differences", examples=10).values()) > 0
    quartic = elementwise(lambda x: x**4).vjp(lambda g, x: g * 4 * x**3 * (1 + 1e-9))
    with pytest.raises(CheckFailed, match="wrong derivative"):
        check_op(Row("mine", quartic, step=1.0, rtol=1e-12, atol=1e-12, order=1), "differences", examples=10)
    check_op(Row("mine", lambda x: x**4, step=1.0, rtol=1e-12, atol=1e-12, order=1), "differences", examples=10)


def test_a_fault_past_64_elements_is_found_by_five_examples():
    center = primitive(lambda x: x - x.mean(-1, keepdims=True))
    row = Row("mine", center.vjp(lambda g: g - g.mean(-1, keepdims=True) * (1 if g.shape[-1] < 65 else 0.5)),
              inputs=st.tuples(st.tuples(shapes(1, 1, 1)), st.just({})))  # fmt: skip
    with pytest.raises(CheckFailed, match="along a random direction"):
        check_op(row, "differences", examples=5)


def test_long_arrays_are_checked_along_directions():
    sizes = []

    def rule(g, x):
        sizes.append(x.size)
        return 2 * g * x

    check_op(Row("mine", square(rule)), "differences", examples=30)
    assert max(sizes) > 64


def test_property_tests_have_one_test_for_each_row_and_property():
    function = property_tests([Row("square", square(), **SQUARE), Row("mul", mul())])
    (mark,) = [m for m in function.pytestmark if m.name == "parametrize"]
    ids = [p.id for p in mark.args[1]]
    assert "square-ties" in ids
    assert "mul-broadcasting" in ids
    assert "square-broadcasting" not in ids
    with pytest.raises(CheckFailed, match="wrong derivative of order 1"):
        function(Row("mine", square(rule=lambda g, x: g)), "differences")


def test_incoming_gradients_are_sixteenths_from_minus_3_to_3():
    """Sums and products of them are exact."""
    seen = []

    def gradient(g, x):
        seen.extend(g.ravel().tolist())
        return (2 * g * x,)

    row = Row("mine", square(), gradient=gradient, inputs=st.just((((100,),), {})))
    check_op(row, "ties", examples=20)
    drawn = np.array(seen) * 16
    assert (drawn == np.round(drawn)).all()
    assert (drawn.min(), drawn.max()) == (-48, 48)


def test_a_hessian_may_differ_by_the_rounding_of_its_gradient():
    """The gradients are near -1e6: what differs by 1e-6 of 1 in their derivatives is their rounding."""
    op = mul(
        left=lambda g, y: g * (y * (1 + 1e-6) - 1e6), right=lambda g, x: g * x, forward=lambda x, y: x * y - 1e6 * x
    )
    assert check_op(Row("mine", op, inputs=st.just((((), ()), {}))), "symmetry", examples=20) == {"symmetry": 20}


# ----- the strict device ------------------------------------------------------------------------------------------


def far(x) -> bool:
    return x.device == "strict"


def test_results_of_a_device_are_compared_with_a_tolerance():
    @settings(max_examples=5)
    @given(data=st.data())
    def compare(data, off, dtype):
        row = Row("mine", lambda x: x + off * far(x), inputs=st.just((((3,),), {})))
        with strict_device():
            on_device(row, data, "strict", dtype)

    compare(off=1.5e-4, dtype=np.float32)
    for off, dtype in ((1e-3, np.float32), (1.5e-4, np.float64)):
        with pytest.raises(CheckFailed, match="wrong result on strict"):
            compare(off=off, dtype=dtype)


def test_what_another_device_may_not_do():
    row = Row("mine", lambda x: tl.astype(x, np.float32) if far(x) else x * 1.0, inputs=1, device=True)
    with pytest.raises(CheckFailed, match="a result is float32 on strict and float64 on the CPU"):
        check_op(row, "device", examples=5)


def test_an_index_of_truth_values_is_not_asked_of_a_device():
    def row(index):
        return Row("mine", lambda x, index: x[index], inputs=st.just((((3,),), {"index": index})), device=True)

    for index in ([True, False, True], (np.array([True, False, True]),)):
        assert check_op(row(index), "device", examples=1) == {"device": 0}
    assert check_op(row(np.array([0, 2])), "device", examples=1) == {"device": 1}


def test_random_masks_are_as_before_after_the_strict_device():
    masks = tl.functional.keep_mask
    with strict_device():
        assert tl.zeros(1, device="strict").device == "strict"
    assert tl.functional.keep_mask is masks
    with pytest.raises(ValueError, match="unknown device 'strict'"):
        tl.zeros(1, device="strict")


def test_the_strict_library_has_numpys_constants_and_types():
    assert strict.pi == np.pi
    assert strict.float32 is np.float32


# ----- pytest -----------------------------------------------------------------------------------------------------

OPS = """
import numpy as np
import tensorlite as tl
from tensorlite.primitive import elementwise
from tensorlite.testing import Row, check_op, property_tests

right = elementwise(lambda x: x * np.tanh(x)).vjp(lambda g, x: g * (tl.tanh(x) + x * (1 - tl.tanh(x) ** 2)))
wrong = elementwise(lambda x: x * np.tanh(x)).vjp(lambda g, x: g * tl.tanh(x))
test_ops = property_tests([Row("right", right, value=lambda x: x * np.tanh(x)), Row("wrong", wrong)])

def test_by_hand():
    assert check_op(Row("right, again", right), "value")["value"] > 0

def test_something_else():
    pass
"""


def run(folder: Path, *options: str, xdist: bool = False) -> str:
    """What pytest prints in a folder with nothing but one test file, and its exit status."""
    (folder / "test_mine.py").write_text(OPS)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *([] if xdist else ["-p", "no:xdist"])]
    environment = {
        k: v for k, v in os.environ.items() if k != "PYTEST_DISABLE_PLUGIN_AUTOLOAD"
    }  # ours has to be loaded
    done = subprocess.run(
        [*command, *options], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    return f"{done.stdout}{done.stderr}\nexit status {done.returncode}"


@pytest.mark.slow
def test_pytest_needs_no_conftest_and_prints_the_line_that_runs_a_failure_again(tmp_path):
    shown = run(tmp_path, "--tb=short", "--op", "wrong", "-k", "differences or hand", "--op-seed", "3")
    assert "1 failed, 1 skipped" in shown  # test_by_hand calls check_op, which then skips other rows
    assert "wrong: wrong derivative of order 1 by argument 0 (x)" in shown
    assert "pytest 'test_mine.py::test_ops[wrong-differences]' --op-seed=3" in shown
    assert "reproduce_failure" not in shown


@pytest.mark.slow
def test_pytest_op_chooses_rows_by_name(tmp_path):
    shown = run(tmp_path, "--op", "right", "--op-profile", "dev", "-k", "value or differences or kinks or hand")
    assert "4 passed" in shown
    assert "failed" not in shown
    assert shown.endswith("exit status 0")


@pytest.mark.slow
@pytest.mark.parametrize("xdist", [False, True])
@pytest.mark.parametrize("by_hand", [False, True])
def test_pytest_op_that_does_not_exist_is_a_usage_error(tmp_path, xdist, by_hand):
    """Also where tests call check_op by hand, whose rows are known when they run."""
    if xdist:
        pytest.importorskip("xdist")
    (tmp_path / "only.py").write_text(OPS if by_hand else OPS.partition("def test_by_hand")[0])
    workers = ["-n", "1"] if xdist else []
    shown = run(tmp_path, "--op", "rihgt", "only.py", *workers, xdist=xdist)
    assert "ERROR: --op: no test of an op whose name contains 'rihgt': did you mean right?" in shown
    assert shown.count("--op: no test") == 1
    assert shown.endswith("exit status 4")
    shown = run(tmp_path, "--op", "missing", "only.py", *workers, xdist=xdist)
    names = "right, right, again, wrong" if by_hand else "right, wrong"
    assert f"no test of an op whose name contains 'missing'; there are {names}" in shown
    shown = run(tmp_path, "--op", "again", "only.py", *workers, xdist=xdist)  # by hand alone
    assert shown.endswith("exit status 0" if by_hand else "exit status 4")


@pytest.mark.slow
def test_pytest_op_is_no_usage_error_where_another_option_chooses_the_tests(tmp_path):
    """With -k of the op's tests none, or of those by hand the one of another op."""
    assert run(tmp_path, "--op", "wrong", "-k", "nothing").endswith("exit status 5")
    assert run(tmp_path, "--op", "wrong", "-k", "hand").endswith("exit status 0")
    assert run(tmp_path, "--op", "missing", "--collect-only").endswith("exit status 0")
    (tmp_path / "failing.py").write_text(OPS + "def test_first():\n    assert check_op and False\n")
    shown = run(tmp_path, "--op", "missing", "failing.py")
    assert "no test of an op whose name contains 'missing'" in shown
    assert shown.endswith("exit status 1")  # of a test that fails


@pytest.mark.slow
def test_the_plugin_imports_nothing_where_it_is_not_used(tmp_path):
    (tmp_path / "test_other.py").write_text(
        "import sys\ndef test_other():\n"
        "    assert 'tensorlite.testing.suite' not in sys.modules\n    assert 'hypothesis.core' not in sys.modules\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:hypothesispytest"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "1 passed" in done.stdout, done.stdout + done.stderr
