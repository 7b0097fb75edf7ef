"""check_gradients, check_module and check_kinks: what they find, what they do not, and what they say."""

import re
import subprocess
import sys

import numpy as np
import pytest

import tensorlite as tl
from tensorlite import nn
from tensorlite.accelerate.dispatch import KernelOp
from tensorlite.primitive import elementwise, primitive
from tensorlite.testing import (
    CheckFailed,
    Undecided,
    check_gradients,
    check_kinks,
    check_module,
    jax_function,
    numpy_function,
    torch_function,
)
from tests.support.normalized import ROWS, normalized, normalized_rule

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
    first, second, *_ = str(failure.value).splitlines()
    assert first.endswith("squared: wrong derivative of order 1 by argument 0 (x) of shape (2, 3), at 1 of 6 elements")
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


def test_hypothesis_is_needed_for_strategies_alone():
    code = (
        "import sys; sys.modules['hypothesis'] = None; import tensorlite.testing as t, numpy; import tensorlite as tl;"
    )
    code += "t.check_gradients(tl.tanh, numpy.ones(2)); print('checked'); t.smooth"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "checked\n"
    assert (
        "ImportError: the strategies of tensorlite.testing need Hypothesis: pip install 'tensorlite[testing]'"
        in done.stderr
    )


# ----- no false alarm, no blind spot ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("op", "x"),
    [
        (tl.sin, 100.0),
        (lambda x: tl.sin(50 * x), 0.3),
        (tl.log, 0.01),
        (tl.reciprocal, 0.02),
        (tl.sqrt, 1e-3),
        (tl.sqrt, 1e-9),
        (lambda x: tl.exp(-((x * 1e4) ** 2)), 1e-4),  # nothing of it is seen with a step of 1e-3
        (lambda x: x + 1e8 - 1e8, 0.3),
        (lambda x: tl.log(1 + x), 1e-9),
        (lambda x: x * 1e-9, 0.3),
        (lambda x: x * 1e12, 0.3),
        (lambda x: tl.functional.relu(x), 1e-6),
    ],
)
def test_ill_conditioned_functions_pass(op, x):
    check_gradients(op, np.array([x]), order=2)
    check_gradients(op, np.array(x))


def gelu(x):
    return 0.5 * x * (1 + tl.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


@pytest.mark.parametrize(
    ("op", "x"),
    [(gelu, [-6.4254]), (gelu, [-6.9]), (tl.functional.softmax, [-10.9711, 11.9932]), (tl.sigmoid, [-30.0, 30.0])],
)
def test_rounding_of_a_small_difference_of_large_numbers_is_no_error(op, x):
    """Values of 1e-11 with an error of 1e-16: over small steps they are constant, and the noise is not seen."""
    rule = elementwise(lambda x: gelu(tl.tensor(x)).numpy()).vjp(gelu_rule) if op is gelu else op
    for seed in range(10):
        check_gradients(rule, np.array(x), order=2, seed=seed)


def gelu_rule(g, x):
    c = float(np.sqrt(2 / np.pi))
    t = tl.tanh(c * (x + 0.044715 * x**3))
    return g * (0.5 * (1 + t) + 0.5 * x * (1 - t * t) * c * (1 + 3 * 0.044715 * x**2))


@pytest.mark.parametrize("factor", [1.0001, 0.999])
def test_a_small_relative_error_is_found_beside_that_rounding(factor):
    wrong = elementwise(lambda x: gelu(tl.tensor(x)).numpy()).vjp(lambda g, x: gelu_rule(g, x) * factor)
    for x in (-3.0, -0.5, 0.1, 2.0, 5.0):
        with pytest.raises(CheckFailed, match="wrong derivative of order 1"):
            check_gradients(wrong, np.array([x]))


def test_rounding_to_float32_that_cancels_in_the_gradient_is_no_error():
    """Of a layer norm over two columns: the gradient is 0 but for epsilon, its terms are g / std."""
    op = primitive(normalized).vjp(normalized_rule)
    for x in (ROWS, np.array([[-2.7571, 0.793], [2.4305, 2.627], [-2.5213, 1.7231]])):
        for seed in (*range(10), 139):
            check_gradients(op, x, seed=seed)
    in_float32 = primitive(normalized).vjp(lambda g, x: normalized_rule(g, x) * (1.1 if g.dtype == np.float32 else 1.0))
    with pytest.raises(CheckFailed, match="in float32 the gradient"):
        check_gradients(in_float32, np.array([[-2.0, 1.0, 0.5], [1.0, 0.25, -3.0]]))


def test_rounding_to_float32_of_a_saturated_function_is_no_error():
    """1 - out has the rounding error of 1: the gradient of 1e-6 has an error of 1e-6."""
    op = elementwise(lambda x: 1 / (1 + np.exp(-40 * x))).vjp(lambda g, out: 40 * g * out * (1 - out))
    for seed in range(10):
        check_gradients(op, np.array([-2.482, -0.3336, 0.4262, 0.37]), seed=seed)


def test_a_kink_where_differences_agree_with_the_convention_passes():
    check_gradients(tl.abs, np.array([0.0, 1.0]))


@pytest.mark.parametrize("constant", [np.finfo(float).min, -1e30, 1e15, -np.inf])
def test_a_constant_output_hides_no_fault(constant):
    def forward(x):
        return np.append(np.tanh(x), constant)

    check_gradients(primitive(forward).vjp(lambda g, x: g[:-1] * (1 - tl.tanh(x) ** 2)), X[0])
    wrong = primitive(forward).vjp(lambda g, x: g[:-1] * (1 - tl.tanh(x) ** 2) * 1.00001)
    with pytest.raises(CheckFailed, match="wrong derivative of order 1"):
        check_gradients(wrong, X[0])


@pytest.mark.parametrize("factor", [1.0001, 1.00001, 0.999])
@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
def test_a_small_relative_error_is_found_at_every_scale(scale, factor):
    op = elementwise(lambda x: np.tanh(x) * scale).vjp(lambda g, x: g * (1 - tl.tanh(x) ** 2) * (scale * factor))
    with pytest.raises(CheckFailed, match="wrong derivative of order 1"):
        check_gradients(op, X)


@pytest.mark.parametrize(
    ("op", "x", "reason"),
    [
        (tl.functional.relu, 0.0, "the function has a kink there, with slopes from -0.1321 to 0"),
        (lambda x: x + 1e15, 0.3, "the differences are uncertain by"),
        (tl.sqrt, 0.0, "no difference of values has a limit there"),
    ],
)
def test_what_differences_cannot_tell_is_said(op, x, reason):
    with np.errstate(all="ignore"), pytest.raises(Undecided, match=reason) as undecided:
        check_gradients(op, np.array([1.0, x]))
    assert "differences cannot tell whether the derivative of order 1" in str(undecided.value)
    assert f"as at [1], where it is {x:g}" in str(undecided.value)
    assert not isinstance(undecided.value, AssertionError)
    assert undecided.value.report.comparisons[0].got.shape == (2,)


def test_a_rule_outside_both_slopes_of_a_kink_is_wrong():
    op = named("mine", elementwise(lambda x: np.maximum(x, 0)).vjp(lambda g, x: g * -tl.where(x > 0, -1.0, 1.0)))
    with pytest.raises(CheckFailed, match="mine: wrong derivative of order 1"):
        check_gradients(op, np.array([0.0]))


def test_at_an_infinite_input_nothing_is_decided_and_beside_it_everything():
    with pytest.raises(Undecided, match=r"at 1 of 2 elements, as at \[0\], where it is inf: the input itself is not"):
        check_gradients(lambda x: x * x, [np.inf, 2.0])
    wrong = elementwise(lambda x: x * x).vjp(lambda g, x: g * x)
    with pytest.raises(CheckFailed, match=r"worst at \[1\]"):
        check_gradients(wrong, [np.inf, 2.0])
    check_gradients(tl.logsumexp, [-np.inf, 2.0, 1.0])


def test_check_module_of_something_else_is_one_sentence():
    with pytest.raises(TypeError, match="check_module: give a Module, not int; check_gradients checks functions"):
        check_module(3, np.ones(2))


def test_a_wrong_rule_beside_a_kink_is_wrong_not_undecided():
    op = named("mine", elementwise(lambda x: np.maximum(x, 0)).vjp(lambda g, x: g * tl.where(x > 0, 2.0, 0.0)))
    with pytest.raises(CheckFailed, match="mine: wrong derivative of order 1"):
        check_gradients(op, np.array([0.0, 1.0]))


def test_many_wrong_elements_are_counted_to_64():
    op = elementwise(lambda x: x * x).vjp(lambda g, x: g * x)
    with pytest.raises(CheckFailed, match="at 63 of 63 elements"):
        check_gradients(op, np.linspace(1, 2, 63))
    with pytest.raises(CheckFailed, match="at 64 or more of 70 elements"):
        check_gradients(op, np.linspace(1, 2, 70))


def test_the_tolerance_can_be_set_for_each_argument():
    op = elementwise(lambda x, y: x * y).vjp(lambda g, y: g * y * 1.01, lambda g, x: g * x * 1.0001)
    check_gradients(op, X, Y, rtol=0.02)
    check_gradients(op, X, Y, rtol={"x": 0.02, 1: 0.0002})
    check_gradients(op, X, Y, atol={"x": 0.2, "y": 0.2})
    with pytest.raises(CheckFailed, match=r"by argument 0 \(x\)"):
        check_gradients(op, X, Y, rtol={"y": 0.02})
    with pytest.raises(CheckFailed, match=r"by argument 1 \(y\)"):
        check_gradients(op, X, Y, rtol={"x": 0.02})
    with pytest.raises(ValueError, match="rtol is for 'z', but the inputs are x, y"):
        check_gradients(op, X, Y, rtol={"z": 0.02})


def test_the_step_decides_where_differences_are_exact():
    """Of a polynomial of degree 4, with steps of powers of two: no error at all."""
    op = elementwise(lambda x: x**4).vjp(lambda g, x: g * 4 * x**3)
    report = check_gradients(op, np.array([1.5, -2.0]), step=1.0, rtol=0, atol=1e-13)
    assert report.comparisons[0].error < 1e-13
    assert report.comparisons[0].step.tolist() == [2.0, 2.0]


@pytest.mark.parametrize("method", ["differences", "complex"])
def test_a_report_is_returned(method):
    report = check_gradients(lambda x, y: tl.sin(x) * y, X, Y, order=2, method=method)
    assert [(c.order, c.argument, c.got.shape) for c in report.comparisons] == [
        (1, "argument 0 (x)", (2, 3)), (1, "argument 1 (y)", (3,)),
        (2, "argument 0 (x)", (2, 3)), (2, "argument 1 (y)", (3,)), (2, "the incoming gradient", (2, 3)),
    ]  # fmt: skip
    g = np.random.default_rng(0).standard_normal((2, 3))
    np.testing.assert_allclose(report.comparisons[0].expected, g * np.cos(X) * Y, rtol=1e-8)
    assert 0 < report.comparisons[0].error < 1e-8
    assert report.checked == ["same bits twice", "inputs unchanged", "linear in g", "float32 beside float64"]
    assert "order 2, the incoming gradient (2, 3): largest error" in str(report)
    assert "checked: same bits twice, inputs unchanged, linear in g, float32 beside float64" in str(report)


def test_the_complex_step_is_exact_to_the_last_digits_and_refused_where_it_is_wrong():
    report = check_gradients(lambda x: tl.sin(50 * x), np.array([0.3, 1.0]), method="complex")
    assert report.comparisons[0].error < 1e-12
    with pytest.raises(ValueError, match=r'complex step is not the derivative.*use method="differences"'):
        check_gradients(lambda x: x * tl.abs(x), np.array([0.3, 1.0]), method="complex")
    with pytest.raises(ValueError, match="no complex step, because the op refuses complex arrays: softplus"):
        check_gradients(tl.softplus, np.array([0.3, 1.0]), method="complex")
    wrong = elementwise(lambda x: np.sin(x)).vjp(lambda g, x: g * tl.cos(x) * (1 + 1e-9))
    with pytest.raises(CheckFailed, match="complex step"):
        check_gradients(wrong, np.array([0.3]), method="complex", rtol=1e-12, atol=0)


def test_fast_takes_one_direction_for_all_elements():
    calls = []

    def counted(x):
        calls.append(1)
        return x * x

    report = check_gradients(lambda x: counted(x), np.linspace(1, 2, 1000), fast=True)
    assert len(calls) < 30
    assert report.comparisons[0].expected.shape == ()

    def rule(g, x):
        off = np.ones(1000)
        off[77] = 1.01
        return g * 2 * x * off

    op = named("mine", elementwise(lambda x: x * x).vjp(rule))
    with pytest.raises(CheckFailed, match=r"shape \(1000,\), along a random direction\n  expected"):
        check_gradients(op, np.linspace(1, 2, 1000), fast=True)
    check_gradients(lambda x, y: tl.tanh(x) * y, X, Y, order=3, fast=True)


def test_the_fast_mode_sees_a_jacobian_in_place_of_its_transpose():
    """x J g and x J^T g are the same number where the random direction x is the incoming gradient."""
    matrix = np.arange(9.0).reshape(3, 3)
    for seed in range(5):
        for op in (
            primitive(lambda x: np.roll(x, 1)).vjp(lambda g: tl.roll(g, 1)),
            primitive(lambda x: matrix @ x).vjp(lambda g: matrix @ g),
        ):
            with pytest.raises(CheckFailed, match="wrong derivative of order 1"):
                check_gradients(op, np.array([0.5, -1.0, 2.0]), fast=True, order=1, seed=seed)


# ----- what holds besides derivatives -----------------------------------------------------------------------------


def in_place(x):
    x *= 1.0
    x += 1.0
    return x * 2


def only_in_float64(g):
    return g * (2.0 if g.dtype == np.float64 else 3.0)


count = iter(range(1000))
BROKEN = {
    "the op changed argument 0 (x) in place": elementwise(in_place).vjp(lambda g: g * 2),
    "a derivative rule changed the incoming gradient in place": elementwise(lambda x: x * 2).vjp(
        lambda g: (g.__imul__(2), g * 1)[1]
    ),
    "a derivative rule changed the result of the op in place": elementwise(lambda x: np.exp(x)).vjp(
        lambda g, out: (g * out, out.__imul__(2))[0]
    ),
    "a second call with the same inputs gave other values": elementwise(lambda x: x + next(count)).vjp(lambda g: g),
    "a second backward pass gave another gradient by argument 0 (x)": elementwise(lambda x: x).vjp(
        lambda g: g * (1 + 1e-12 * next(count))
    ),
    "is not linear in the incoming one": elementwise(lambda x: x * 2).vjp(lambda g: tl.clip(g * 2, -100, 100)),
    "in float32 the gradient by argument 0 (x) is not that of float64": elementwise(lambda x: x * 2).vjp(
        only_in_float64
    ),
    "in float32 the value is not that of float64": elementwise(
        lambda x: x * (2.0 if x.dtype == np.float64 else 2.01)
    ).vjp(lambda g: g * 2.0),
}


@pytest.mark.parametrize("sentence", BROKEN)
def test_an_op_that_does_more_than_it_says_is_found(sentence):
    with pytest.raises(CheckFailed) as failure:
        check_gradients(named("mine", BROKEN[sentence]), np.array([1.0, 2.0, 3.0]))
    assert f"check_gradients: mine: {sentence}" in str(failure.value).replace(
        "the gradient by argument 0 (x) is not l", "is not l"
    )


def test_the_same_tensor_as_two_arguments():
    def op(x, y):
        return x * 3 if x is y else x + 2 * y

    with pytest.raises(
        CheckFailed, match=r"with the same Tensor as argument 0 \(x\) and argument 1 \(y\) the gradient"
    ):
        check_gradients(lambda x, y: x * 4 if x is y else x + 2 * y, X, X + 1)
    report = check_gradients(op, X, X + 1)
    assert "same Tensor twice" in report.checked
    assert "same Tensor twice" not in check_gradients(lambda x, y: x + y, X, Y).checked


def test_an_op_that_looks_whether_its_arguments_are_the_same_array():
    rule = elementwise(lambda x, y: x * y).vjp(lambda g, x, y: g * y * (2 if x is y else 1), lambda g, x, y: g * x)
    with pytest.raises(CheckFailed, match=r"with the same Tensor as .* the gradient is not the sum of the two"):
        check_gradients(rule, X, X + 1)
    value = elementwise(lambda x, y: x * 2 if x is y else x * y).vjp(lambda g, y: g * y, lambda g, x: g * x)
    with pytest.raises(CheckFailed, match=r"with the same Tensor as .* the value is not that of two equal Tensors"):
        check_gradients(value, X, X + 1)


def test_a_rule_that_reads_what_the_last_call_has_kept_is_found():
    kept = []

    def forward(x):
        kept[:] = [np.cos(x)]
        return np.sin(x)

    op = elementwise(forward).vjp(lambda g: g * kept[0])
    with pytest.raises(
        CheckFailed, match="after a call with other inputs the gradient of the first call by argument 0"
    ):
        check_gradients(op, X)


def test_a_rule_that_takes_small_incoming_gradients_for_0_is_found():
    op = elementwise(lambda x: x * 2).vjp(lambda g: tl.where(tl.abs(g) > 1e-3, g * 2, g * 0.0))
    with pytest.raises(
        CheckFailed, match=r"is not linear in the incoming one: of 6.1e-05 h it is not .*relative error is 1\b"
    ):
        check_gradients(op, X)


LAYOUTS = {
    "Fortran order": lambda x: np.asfortranarray(x),
    "strides (-24, -8) bytes": lambda x: x[::-1, ::-1].copy()[::-1, ::-1],
    "strides (96, 16) bytes": lambda x: np.repeat(np.repeat(x, 2, 0), 2, 1)[::2, ::2],
    "C order, read-only": lambda x: np.broadcast_to(x, x.shape),
    "strides (0, 8) bytes, read-only": lambda x: np.broadcast_to(x[0], x.shape),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_inputs_reach_op_and_rule_as_they_were_given(layout, dtype):
    """float32 becomes float64, with strides of as many elements."""
    x = LAYOUTS[layout](X.astype(dtype))
    seen = []

    def forward(x):
        seen.append((x.strides, x.flags.writeable))
        return x * 2

    def rule(g, x):
        seen.append((x.strides, x.flags.writeable))
        return g * 2.5

    with pytest.raises(CheckFailed, match="wrong derivative") as failure:
        check_gradients(elementwise(forward).vjp(rule), x)
    assert layout in str(failure.value)
    strides = tuple([s * 8 // x.itemsize for s in x.strides])
    assert {(strides, x.flags.writeable)} <= set(seen[:4])


def test_an_op_that_depends_on_the_layout_is_found():
    op = named("mine", primitive(lambda x: x.ravel(order="K") * 2).vjp(lambda g, x_shape: (g * 2).reshape(x_shape)))
    check_gradients(op, X)
    with pytest.raises(CheckFailed, match="mine"):
        check_gradients(op, np.asfortranarray(X))

    def places(x):
        return np.arange(6.0).reshape(x.shape, order="F" if x.flags.f_contiguous else "C")

    total = primitive(lambda x: (x * places(x)).sum())
    total = named(
        "mine", total.vjp(lambda g, x: g * np.arange(6).reshape(x.shape, order="F" if x.flags.f_contiguous else "C"))
    )
    check_gradients(total, X)
    with pytest.raises(CheckFailed, match=r"depends on the memory layout: argument 0 \(x\) has Fortran order"):
        check_gradients(total, np.asfortranarray(X))


def test_an_op_that_writes_to_a_read_only_input_says_so():
    with pytest.raises(ValueError, match="read-only"):
        check_gradients(elementwise(in_place).vjp(lambda g: g * 2), np.broadcast_to(X, X.shape))


def test_float32_is_skipped_where_the_op_refuses_it():
    def op(x):
        if x.dtype != np.float64:
            raise TypeError("float64 alone")
        return x * 2

    report = check_gradients(op, X)
    assert report.skipped == {"float32 beside float64": "float64 alone"}
    assert "skipped: float32 beside float64 (float64 alone)" in str(report)


def only_float64(error):
    """A rule of x * 2 that fails in every other precision."""

    def rule(g):
        if g.dtype != np.float64:
            raise error
        return g * 2

    return rule


@pytest.mark.parametrize("kind", [ValueError, TypeError, KeyError, AssertionError])
def test_a_rule_that_fails_in_float32_alone_is_a_failure(kind):
    """The op takes float32, so training in float32 would end in this error: nothing to skip."""
    error = kind("float64 alone")
    op = named("mine", elementwise(lambda x: x * 2).vjp(only_float64(error)))
    sentence = f"^check_gradients: mine: in float32 the backward pass fails: {kind.__name__}: .*float64 alone"
    with pytest.raises(CheckFailed, match=sentence) as failure:
        check_gradients(op, X)
    assert failure.value.__cause__ is error
    assert not failure.value.report.skipped
    assert "float32 beside float64" not in failure.value.report.checked


def test_a_failure_shows_what_one_needs_to_see_it_again():
    op = named("mine", elementwise(lambda first, second: first * second).vjp(lambda g, second: g * second, None))
    with pytest.raises(CheckFailed) as failure:
        check_gradients(op, np.asfortranarray(X), np.array([[2.0], [3.0]]), seed=5, rtol=1e-5)
    text = str(failure.value)
    g = np.random.default_rng(5).standard_normal((2, 3))
    row = abs((g * X).sum(1)).argmax()
    assert f"worst at [{row}, 0]: expected {(g * X).sum(1)[row]:.6g}"[:-1] in text
    assert f"argument 1 (second) is {2 + row} there, its layout C order" in text
    tolerance = float(text.partition("tolerance ")[2].partition(",")[0])
    size = abs((g * X).sum(1))
    assert tolerance == pytest.approx(1e-5 * size[row] + 1e-7 * min(1, size.max()), rel=0.01)
    assert re.search(r"error estimate of the difference [\d.e-]+, step [\d.e-]+\n", text)
    assert f"g, the incoming gradient of seed 5: [[{g[0, 0]:.4f}"[:-1] in text
    assert failure.value.report.comparisons[-1].argument == "argument 1 (second)"


# ----- one sentence for each misuse -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("op", "sentence"),
    [
        (elementwise(lambda x: x * 2), "an unnamed op has no derivative rules: attach one per argument"),
        (
            elementwise(lambda x: x * 2).vjp(lambda g: 2.0),
            r"rule 0 must return an array or a Tensor .*, not 2.0 \(float\)",
        ),
        (elementwise(lambda x: x * 2).vjp(lambda g: None), r"rule 0 must return an array .*, not None \(NoneType\)"),
        (lambda x: 1.0, "the op must return one Tensor, not float"),
    ],
)
def test_an_op_that_is_none_is_refused_in_one_sentence(op, sentence):
    with pytest.raises(TypeError, match=sentence) as failure:
        check_gradients(op, X)
    assert "\n" not in str(failure.value)


def test_numbers_are_not_differentiated_and_that_is_said():
    with pytest.raises(ValueError, match=r"1.5 is a number, which is passed on as it is: give np.array\(1.5\)"):
        check_gradients(tl.exp, 1.5)
    check_gradients(tl.pow, X[0] + 3, 2.5)
    with pytest.raises(ValueError, match="method must be 'differences' or 'complex', not 'exact'"):
        check_gradients(tl.exp, X, method="exact")
    with pytest.raises(ValueError, match="no element of the result is finite"):
        check_gradients(lambda x: x * float("nan"), X)


# ----- modules, other Tensors, other libraries --------------------------------------------------------------------


class Scaled(nn.Module):
    """A layer with one wrong rule."""

    def __init__(self, op):
        self.weight = nn.Parameter(tl.tensor([1.0, 2.0, 3.0]))
        self.bias = nn.Parameter(tl.tensor([0.5]))
        self.table = tl.tensor([1.5, 0.5, 2.5])
        self.op = op

    def forward(self, x):
        return self.op(x, self.weight) * self.table + self.bias


def test_a_module_is_checked_by_its_parameters():
    report = check_module(Scaled(tl.mul), X, order=2)
    names = [c.argument for c in report.comparisons if c.order == 1]
    assert names == ["argument 0 (x)", "tensor weight", "tensor bias"]
    assert max(c.error for c in report.comparisons) < 1e-9
    wrong = elementwise(lambda x, y: x * y).vjp(lambda g, y: g * y, lambda g, x: g * x * 1.01)
    with pytest.raises(CheckFailed, match=r"Scaled: wrong derivative of order 1 by tensor weight of shape \(3,\)"):
        check_module(Scaled(wrong), X)
    check_module(Scaled(wrong), X, rtol={"weight": 0.02})
    detached = elementwise(lambda x, y: x * y).vjp(lambda g, y: g * tl.detach(y), lambda g, x: g * x)
    check_module(Scaled(detached), X)
    with pytest.raises(CheckFailed, match="order 2 by tensor weight"):
        check_module(Scaled(detached), X, order=2)


def test_a_module_is_as_before_after_the_check():
    model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.LayerNorm(4))
    loss = model(tl.tensor(X, dtype=tl.float32)).sum()
    loss.backward()
    state = {name: (x.data, x.grad.data, x.node, x.requires_grad) for name, x in model.named_parameters()}
    tl.manual_seed(7)
    check_module(model, X, order=2, forward=lambda x: (model(x) ** 2).sum())
    for name, x in model.named_parameters():
        data, gradient, node, needs = state[name]
        assert x.data is data
        assert x.data.dtype == np.float32
        assert x.grad.data is gradient
        assert (x.node, x.requires_grad) == (node, needs)
    drawn = tl.randn(3).numpy()
    tl.manual_seed(7)
    np.testing.assert_array_equal(drawn, tl.randn(3).numpy())


def test_a_failing_module_is_as_before_too():
    model = Scaled(lambda x, y: x * y.detach())
    weight = model.weight.data
    with pytest.raises(CheckFailed, match="tensor weight"):
        check_module(model, X)
    assert model.weight.data is weight
    assert model.weight.node is None


def test_tensors_of_a_closure():
    w = tl.tensor([1.0, 2.0, 3.0])
    report = check_gradients(lambda x: x * w * w, X, tensors={"w": w}, order=2)
    assert [c.argument for c in report.comparisons][:2] == ["argument 0 (x)", "tensor w"]
    check_gradients(lambda: w * 2, tensors=[w])
    with pytest.raises(CheckFailed, match="by tensor 0 of shape"):
        check_gradients(lambda x: x * w * w.detach(), X, tensors=[w])
    with pytest.raises(TypeError, match=r"tensors must be floating Tensors that the op reads, not ndarray \(w\)"):
        check_gradients(lambda x: x * w, X, tensors={"w": X})
    assert w.dtype == tl.float32
    assert not w.requires_grad


def test_a_numpy_function_with_a_gradient_by_hand():
    def value(x, y):
        return np.tanh(x) * y

    def gradient(g, x, y):
        return g * y / np.cosh(x) ** 2, (g * np.tanh(x)).sum(0)

    check_gradients(numpy_function(value, gradient), X, Y)
    with pytest.raises(CheckFailed, match=r"value: wrong derivative of order 1 by argument 1 \(y\)"):
        check_gradients(numpy_function(value, lambda g, x, y: (gradient(g, x, y)[0], g.sum(0))), X, Y)
    check_gradients(numpy_function(np.sin, lambda g, x: g * np.cos(x)), X)


def test_a_function_of_torch():
    torch = pytest.importorskip("torch")
    check_gradients(torch_function(lambda x, y: torch.tanh(x) * y), X, Y, order=3)

    class Wrong(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, g):
            return g * 2.01

    with pytest.raises(CheckFailed, match="wrong derivative of order 1"):
        check_gradients(torch_function(lambda x: Wrong.apply(x)), X)


def test_a_function_of_jax():
    jax = pytest.importorskip("jax")
    with pytest.raises(RuntimeError, match="JAX computes in float32"):
        jax_function(jax.numpy.tanh)
    with jax.enable_x64(True):
        check_gradients(jax_function(lambda x, y: jax.numpy.tanh(x) * y), X, Y, order=3)


def test_a_library_that_is_not_imported_is_named(monkeypatch):
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.delitem(sys.modules, "jax", raising=False)
    for make, name in ((torch_function, "torch"), (jax_function, "jax")):
        with pytest.raises(RuntimeError, match=f"{name} is not imported: `import {name}` first"):
            make(lambda x: x)


# ----- kinks ------------------------------------------------------------------------------------------------------


def test_a_derivative_at_a_kink_is_between_the_slopes_to_both_sides():
    ties = np.array([1.0, 0.0, 1.0])
    for op in (tl.functional.relu, tl.abs, lambda x: tl.max(x), lambda x: tl.sort(x), lambda x: tl.clip(x, 0, 1)):
        report = check_kinks(op, ties)
        assert report.comparisons
        assert not report.skipped
    check_kinks(tl.maximum, ties, np.array([1.0, 0.5, 0.0]))
    check_kinks(lambda x: tl.tanh(x) * tl.abs(x - 0.5), np.array([0.5, 1.0]))
    too_much = elementwise(lambda x: abs(x)).vjp(lambda g, x: g * tl.where(x < 0, -1.0, tl.where(x > 0, 1.0, 1.5)))
    with pytest.raises(
        CheckFailed, match=r"check_kinks: mine: wrong derivative by argument 0 \(x\) .*at 1 of 3"
    ) as failure:
        check_kinks(named("mine", too_much), ties)
    g = abs(np.random.default_rng(0).standard_normal(3)[1])
    assert f"worst at [1]: expected {-g:.10g} to {g:.10g} (the slopes to both sides)" in str(failure.value)
    assert "argument 0 (x) is 0 there, seed 0" in str(failure.value)
    both = lambda x: tl.max(x) * 1.0  # noqa: E731
    wrong = primitive(lambda x: np.max(x)).vjp(lambda g, x, out: g * tl.where(x == out, 1.2, 0.0))
    check_kinks(both, ties)
    with pytest.raises(CheckFailed, match="at 2 of 3 elements"):
        check_kinks(wrong, ties)


def test_ties_that_count_twice_are_found():
    """By each single element the derivative is between the slopes to both sides; the sum over the tied ones is not."""
    x = np.array([[1.0, 1.0, 0.5], [2.0, -1.0, 0.0]])
    largest = primitive(lambda x: x.max(-1))
    twice = largest.vjp(lambda g, x, out: tl.reshape(g, (2, 1)) * (x == tl.reshape(out, (2, 1))))
    with pytest.raises(CheckFailed, match=r"where all elements that are 1 move together: expected .* ties may count"):
        check_kinks(named("mine", twice), x)
    larger = elementwise(lambda x, y: np.maximum(x, y))
    twice = larger.vjp(lambda g, x, y: g * (x >= y), lambda g, x, y: g * (y >= x))
    with pytest.raises(CheckFailed, match="ties may count twice"):
        check_kinks(named("mine", twice), np.array([1.0, 0.5]), np.array([1.0, 2.0]))
    assert "ties together" in check_kinks(tl.maximum, np.array([1.0, 0.5]), np.array([1.0, 2.0])).checked
    for op in (lambda x: tl.max(x, axis=-1), tl.sort, lambda x: tl.clip(x, -1, 1), tl.abs, tl.functional.relu):
        check_kinks(op, x)


def test_jumps_are_skipped_and_that_is_reported():
    report = check_kinks(tl.floor, np.array([0.0, 1.5]))
    assert report.skipped == {"argument 0 (x)": "1 of 2 elements: the function jumps or is not finite"}
    with pytest.raises(CheckFailed, match="at 1 of 2 elements"):
        check_kinks(elementwise(lambda x: np.floor(x)).vjp(lambda g: g), np.array([0.0, 1.5]))
