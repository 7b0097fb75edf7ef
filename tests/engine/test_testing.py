"""tensorlite.testing, tested: check_gradients finds wrong rules and says where; strategies draw what they promise."""

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, find, given, settings
from hypothesis import strategies as st

import tensorlite as tl
from tensorlite.accelerate.dispatch import KernelOp
from tensorlite.primitive import elementwise, primitive
from tensorlite.testing import broadcastable, check_gradients, kinky, layouts, matmul_shapes, shapes, smooth, tensors

PROFILE = "HYPOTHESIS_PROFILE"
X = np.array([[0.5, -1.0, 2.0], [1.5, 0.25, -0.75]])
Y = np.array([1.0, -2.0, 0.5])


def named(name, op):
    op.__name__ = name
    return op


WRONG = {  # a rule with one mistake: what the report must say
    "sign": (lambda x, y: x * y, (lambda g, y: g * y, lambda g, x: -g * x), "by argument 1"),
    "factor": (lambda x, y: x * y, (lambda g, y: g * y * 1.001, lambda g, x: g * x), "by argument 0"),
    "swapped": (lambda x, y: x * y, (lambda g, x: g * x, lambda g, y: g * y), "by argument 0"),
    "dropped term": (lambda x, y: x * y + x, (lambda g, y: g * y, lambda g, x: g * x), "by argument 0"),
    "dropped g": (lambda x, y: x * y, (lambda g, y: 0 * g + y, lambda g, x: g * x), "by argument 0"),
    "none": (lambda x, y: x * y, (lambda g, y: g * y, None), "by argument 1"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_rule_is_found_and_named(name):
    forward, rules, where = WRONG[name]
    op = named("mine", elementwise(forward).vjp(*rules))
    with pytest.raises(AssertionError, match=f"mine: wrong derivative of order 1 {where}"):
        check_gradients(op, X, Y)


def test_the_report_says_which_element_expected_and_got():
    def rule(g, x):
        wrong = np.zeros(x.shape)
        wrong[1, 2] = 0.5
        return g * (2 * x + wrong)

    op = named("squared", elementwise(lambda x: x * x).vjp(rule))
    with pytest.raises(AssertionError) as failure:
        check_gradients(op, X)
    first, second = str(failure.value).splitlines()
    assert first.endswith("squared: wrong derivative of order 1 by argument 0 of shape (2, 3), at 1 of 6 elements")
    g = np.random.default_rng(0).standard_normal((2, 3))[1, 2]
    expected, got = (float(word.rstrip("(,").split()[0]) for word in second.split("expected ")[1].split("got "))
    assert (expected, got) == (pytest.approx(-1.5 * g), pytest.approx(-1.0 * g))
    assert "worst at [1, 2]" in second


def test_a_rule_that_is_right_once_but_not_twice_is_found_at_order_2():
    op = named("cubed", elementwise(lambda x: x**3).vjp(lambda g, x: g * 3 * tl.detach(x) * x))
    check_gradients(op, X)
    with pytest.raises(AssertionError, match="cubed: wrong derivative of order 2 by argument 0"):
        check_gradients(op, X, order=2)
    square = named("square", KernelOp(lambda x: x * x, spec=lambda x: x * x * x).vjp(lambda g, needs, x: (2 * g * x,)))
    check_gradients(square, X)
    with pytest.raises(AssertionError, match="order 2"):  # a specification of something else
        check_gradients(square, X, order=2)


def test_a_sum_would_not_have_seen_these():
    """Under a gradient of ones softmax's is 0 and g equals its transpose: a random one tells."""
    wrong = named("soft", primitive(lambda x: tl.formulas.softmax(x)).vjp(lambda g, x: g * 0))
    with pytest.raises(AssertionError, match="soft: wrong"):
        check_gradients(wrong, X)
    wrong = named("turned", primitive(lambda x: x * 1).vjp(lambda g: g.T))
    with pytest.raises(AssertionError, match="turned: wrong"):
        check_gradients(wrong, np.ones((3, 3)))


def test_what_is_right_passes_at_every_order_on_anything_floating():
    check_gradients(lambda x, y: x * tl.tanh(y) / (2 + tl.cos(x)), X, Y, order=3)
    check_gradients(lambda x, i, flag: x[i] if flag else x, X.astype(np.float32), np.array([0, 0]), True)
    check_gradients(lambda x: tl.exp(x), tl.tensor(X, requires_grad=True), order=2)
    check_gradients(lambda x, places: x[places] * 2, [1.0, 2.0], [0, 0, 1])  # lists: of floats, of integers
    check_gradients(tl.sign, X, order=2)  # 0 everywhere
    check_gradients(lambda x: (x * 1e8).sum(), X)  # large values: what rounding explains is allowed for


def test_results_depend_on_the_seed_alone():
    op = named("mine", elementwise(lambda x: x * x).vjp(lambda g, x: g * x))
    reports = []
    for seed in (1, 1, 2):
        with pytest.raises(AssertionError) as failure:
            check_gradients(op, X, seed=seed)
        reports.append(str(failure.value))
    assert reports[0] == reports[1] != reports[2]


@pytest.mark.parametrize(
    ("op", "inputs", "options", "sentence"),
    [
        (lambda x: x.detach(), [X], {}, "the result does not require a gradient"),
        (lambda x: tl.ones(3, tl.float64), [X], {}, "the result does not require a gradient"),
        (lambda x: tl.tensor(x.numpy() * 2), [X], {}, "the result does not require a gradient"),
        (lambda x: x[:0], [X], {}, r"the result has no elements, its shape is \(0, 3\)"),
        (tl.abs, [[]], {}, "nothing to check"),
        (tl.abs, [np.zeros((0, 3))], {}, "the floating inputs have no elements"),
        (lambda: tl.ones(1), [], {}, "nothing to check"),
        (tl.abs, [X], {"order": 0}, "order must be a positive integer, not 0"),
        (tl.abs, [X], {"order": -1}, "order must be a positive integer, not -1"),
        (tl.abs, [X], {"order": 1.5}, "order must be a positive integer, not 1.5"),
        (tl.abs, [X], {"order": True}, "order must be a positive integer, not True"),
        (tl.abs, [X], {"atol": float("inf")}, "atol must be a finite number"),
        (tl.abs, [X], {"rtol": float("nan")}, "rtol must be a finite number"),
        (tl.abs, [X], {"step": 0}, "step must be a finite number, positive, not 0"),
    ],
)
def test_a_check_that_would_check_nothing_is_refused(op, inputs, options, sentence):
    with pytest.raises(ValueError, match=f"check_gradients: .*{sentence}"):
        check_gradients(op, *inputs, **options)


def test_what_cannot_be_checked_is_said():
    with pytest.raises(ValueError, match="nothing to check"):
        check_gradients(tl.exp, np.array([1, 2]))
    with pytest.raises(TypeError, match="must return one Tensor, not list"):
        check_gradients(lambda x: tl.split(x, 2), X)
    with pytest.raises(TypeError, match="made float32 of float64"):
        check_gradients(lambda x: x.astype(np.float32), X)
    nan = named("mine", elementwise(lambda x: x * 1).vjp(lambda g: g * float("nan")))
    with pytest.raises(AssertionError, match="got nan"):
        check_gradients(nan, X)


# ----- strategies -------------------------------------------------------------------------------------------------


@given(array=smooth((3, 4), (2,), low=-1, high=2, avoid=(0.0, 1.0), gap=0.1))
def test_smooth_values_differ_and_avoid_kinks(array):
    assert [x.shape for x in array] == [(3, 4), (2,)]
    values = np.sort(np.concatenate([x.ravel() for x in array]))
    assert np.diff(values).min() > 1 / 80
    assert values[0] >= -1
    assert values[-1] <= 2
    assert min(abs(values).min(), abs(values - 1).min()) >= 0.1


@given(array=kinky((4, 5)))
def test_kinky_values_are_sixteenths(array):
    assert (array[0] * 16 == np.round(array[0] * 16)).all()
    assert abs(array[0]).max() <= 3


@given(drawn=layouts(kinky((2, 3), (4,)).map(lambda a: (a[0], a[1])), broadcast=False))
def test_layouts_keep_the_values(drawn):
    assert [x.shape for x in drawn] == [(2, 3), (4,)]
    assert not np.isnan(np.concatenate([x.ravel() for x in drawn])).any()


@given(xs=broadcastable(3), ab=matmul_shapes())
def test_shapes_fit(xs, ab):
    np.broadcast_shapes(*xs)
    np.matmul(*map(np.empty, ab))


@pytest.mark.parametrize(
    ("strategy", "wanted"),
    [
        (shapes(), lambda s: s == ()),
        (shapes(), lambda s: 0 in s and len(s) > 1),
        (shapes(), lambda s: 1 in s),
        (broadcastable(2), lambda p: p[0] != p[1] and 1 in p[0] and 1 in p[1] and max(*p[0], *p[1]) > 1),
        (matmul_shapes(), lambda p: len(p[0]) == 1 and len(p[1]) > 2),
        (kinky((3,)), lambda a: a[0][0] == a[0][1] != 0),
        (kinky((3,)), lambda a: (a[0] == 0).any()),
        (layouts(smooth((2, 3))), lambda a: a[0].strides[1] < 0),
        (layouts(smooth((2, 3))), lambda a: a[0].strides[0] == 8),
        (layouts(smooth((2, 3))), lambda a: a[0].strides[1] == 16),
        (layouts(smooth((2, 3)), broadcast=True), lambda a: a[0].strides[0] == 0),
        (tensors(st.just((2,)), requires_grad=False), lambda t: not t.requires_grad and t.shape == (2,)),
        (tensors((2, 2)), lambda t: t.requires_grad and t.dtype == tl.float32),
        (tensors(), lambda t: t.ndim == 3),
    ],
)
@pytest.mark.slow
def test_edge_cases_are_drawn(strategy, wanted):
    find(strategy, wanted, settings=settings(max_examples=2000, database=None))


def test_hypothesis_is_needed_for_strategies_alone():
    code = (
        "import sys; sys.modules['hypothesis'] = None; import tensorlite.testing as t, numpy; import tensorlite as tl;"
    )
    code += "t.check_gradients(tl.tanh, numpy.ones(2)); print('checked'); t.smooth"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "checked\n"
    assert "ImportError: the strategies of tensorlite.testing need Hypothesis: pip install hypothesis" in done.stderr


def test_the_profile_asked_for_is_in_force():
    """In each process of pytest-xdist too; and no test has a deadline, which a busy machine would not keep."""
    examples = {"dev": 10, "ci": 200, "nightly": 5000, "mutants": 200}[profile := os.environ.get(PROFILE, "dev")]
    now = settings()
    assert (now.max_examples, now.deadline, HealthCheck.too_slow in now.suppress_health_check) == (examples, None, True)
    assert now.derandomize == (profile != "nightly")
    assert (now.database is None) == now.derandomize
