"""check_gradients and check_kinks where it is hard to tell: kinks with neighbours, noise, tolerances."""

import numpy as np
import pytest
from hypothesis import strategies as st

import tensorlite as tl
from tensorlite.primitive import elementwise, primitive
from tensorlite.testing import CheckFailed, Row, Undecided, check_gradients, check_kinks, check_op
from tensorlite.testing.points import point
from tests.support.normalized import ROWS, normalized, normalized_rule

X = np.array([[0.5, -1.0, 2.0], [1.5, 0.25, -0.75]])


# ----- kinks ------------------------------------------------------------------------------------------------------


def test_at_a_triple_tie_all_slopes_around_it_are_allowed():
    """The middle one of three equal elements moves to both ends of a sort, and stays in the middle only beside the tie:
    its gradient need not be between the slopes to both sides.
    """
    tie, squares = np.array([1.0, 1.0, 1.0]), lambda x: tl.sort(x) ** 2
    for seed in range(3):
        check_kinks(squares, tie, seed=seed)
        with pytest.raises(Undecided, match="the function has a kink there"):
            check_gradients(squares, tie, seed=seed)


def test_a_gradient_just_outside_the_slopes_around_a_triple_tie_is_wrong():
    op = primitive(lambda x: np.sort(x)).vjp(lambda g: g[np.array([2, 1, 0])] * 1.001)
    with pytest.raises(CheckFailed, match=r"at 1 of 3 elements\n  worst at \[1\]"):  # the least slope, times 1.001
        check_gradients(op, np.array([1.0, 1.0, 1.0]))


def test_a_kink_is_seen_beside_a_steeper_one():
    steps = elementwise(lambda x: np.maximum(x, 0) + 100 * np.maximum(x - 4e-4, 0))
    op = steps.vjp(lambda g, x: g * tl.where(x > 4e-4, 101.0, tl.where(x > 0, 1.0, 0.0)))
    with pytest.raises(Undecided, match=r"kink there, with slopes from 0 to 0\.1257"):
        check_gradients(op, np.array([0.0]))


def test_a_kink_on_a_steep_slope_is_seen():
    """The central difference is exactly 100 there, but any slope from 90 to 110 may be the rule's."""
    op = elementwise(lambda x: 100 * x + 10 * abs(x)).vjp(lambda g, x: g * tl.where(x > 0, 110.0, 95.0))
    with pytest.raises(Undecided, match=r"kink there, with slopes from 11.32 to 13.83"):
        check_gradients(op, np.array([0.0]))
    with pytest.raises(CheckFailed, match="wrong derivative of order 1"):
        check_gradients(op, np.array([-1.0]))


def test_slopes_of_all_sizes_have_a_tolerance():
    """Beside an element at the edge of the domain no inputs around are looked at: the tolerance decides."""
    for scale in (1.0, 1e6):
        report = check_kinks(edge(scale), np.array([0.0, 1e-5]))
        assert report.skipped == {"argument 0 (x)": "1 of 2 elements: the function jumps or is not finite"}


def edge(scale):
    """scale max(x, 0), with a rule that is 3e-10 too small at 0, and the square root of another element."""

    def rule(g, x):
        first = g[:1] * tl.where(x[:1] > 0, scale, -3e-10 * scale)
        return tl.concatenate([first, g[1:] * 0.5 / tl.sqrt(x[1:])])

    return primitive(lambda x: np.append(scale * np.maximum(x[0], 0), np.sqrt(x[1]))).vjp(rule)


def test_a_jump_on_a_steep_slope_is_skipped():
    report = check_kinks(lambda x: tl.floor(x) + 1e6 * x, np.array([0.0, 0.5]))
    assert report.skipped == {"argument 0 (x)": "1 of 2 elements: the function jumps or is not finite"}


def test_the_report_has_the_middle_and_half_the_width_of_a_kink():
    report = check_kinks(tl.functional.relu, np.array([[0.0, 1.0], [-1.0, 0.0]]))
    g = np.random.default_rng(0).standard_normal((2, 2))
    (sides,) = report.comparisons
    np.testing.assert_allclose(sides.expected, g * [[0.5, 1.0], [0.0, 0.5]], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(sides.error_estimate, abs(g) * [[0.5, 0.0], [0.0, 0.5]], rtol=1e-9, atol=1e-9)
    assert sides.step.shape == (2, 2)


# ----- noise ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("forward", "rule"),
    [
        (lambda x: np.exp(x).astype(np.float32).astype(np.float64), lambda g, x: g * tl.exp(x)),
        (lambda x: np.round(np.sin(x) * 1e7) / 1e7, lambda g, x: g * tl.cos(x)),
        (lambda x: np.sin(500 * x) + 1e6 - 1e6, lambda g, x: 500 * g * tl.cos(500 * x)),
    ],
    ids=["float32", "seven digits", "beside a million"],
)
def test_noise_in_the_values_is_no_wrong_derivative(forward, rule):
    for x in (0.3, 0.7, -1.1):
        check_gradients(elementwise(forward).vjp(rule), np.array([x]))


@pytest.mark.parametrize("frequency", [1e6, 1e7, 1e8])
@pytest.mark.parametrize("x", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("factor", [1.0, 1.01])
def test_a_function_that_varies_as_quickly_as_noise_is_not_called_wrong(frequency, x, factor):
    """At x and with x as the factor of the frequency; a wrong rule is seen, or nothing can be told."""
    wave = with_slope(lambda x: np.sin(frequency * x), lambda x: factor * frequency * tl.cos(frequency * x))
    sine = with_slope(lambda x: np.sin(x), lambda x: factor * tl.cos(x))
    for op, at in ((wave, x), (sine, x * frequency)):
        try:
            check_gradients(op, np.array([at]))
        except Undecided:
            continue
        except CheckFailed:
            assert factor != 1
        else:
            assert factor == 1


# ----- values that are rounded inside -----------------------------------------------------------------------------


def rounded(sin, cos):
    """Right ops whose values are rounded: what rounds them, by the function and its derivative."""
    return {
        "float32 and back": (lambda x: sin(x).astype(np.float32).astype(np.float64), cos),
        "float16 and back": (lambda x: sin(x).astype(np.float16).astype(np.float64), cos),
        "float32 inside": (lambda x: sin(x.astype(np.float32)).astype(np.float64), cos),
        "six digits": (lambda x: np.round(sin(x), 6), cos),
        "three digits": (lambda x: np.round(sin(x), 3), cos),
        "beside 1e10": (lambda x: sin(x) + 1e10 - 1e10, cos),
        "beside 1e13": (lambda x: sin(x) + 1e13 - 1e13, cos),
        "half of a sum": (lambda x: x * 3 + np.round(sin(x), 6), lambda x: cos(x) + 3),
        "a factor": (lambda x: x * np.round(sin(x), 4), lambda x: sin(x) + x * cos(x)),
    }


ROUNDED = {"identity, " + k: v for k, v in rounded(lambda x: x, lambda x: x * 0 + 1).items()}
ROUNDED |= {"sine, " + k: v for k, v in rounded(np.sin, np.cos).items()}


GRID = np.arange(-2, 2, 1e-3)


def undecided(op, x, seed, fast):
    """Why check_gradients cannot tell; the same reason where it can."""
    try:
        check_gradients(op, x, seed=seed, fast=fast)
    except Undecided as error:
        return str(error)
    return "not precise enough"


def with_slope(forward, slope, factor=1.0):
    """The op of an elementwise function whose derivative is a function of arrays."""
    return elementwise(forward).vjp(lambda g, x: g * slope(x) * factor)


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("name", ROUNDED)
def test_values_that_are_rounded_inside_are_no_wrong_derivative(name, fast):
    op = with_slope(*ROUNDED[name])
    for seed in range(30):
        x = np.random.default_rng(seed).uniform(-3, 3, 1 + seed % 4)
        assert "not precise enough" in undecided(op, x, seed, fast)


@pytest.mark.parametrize("count", [100, 2000])
def test_rounding_of_many_elements_is_no_wrong_derivative_along_a_direction(count):
    for name in ("float32 and back", "six digits", "three digits", "beside 1e13"):
        for seed in range(3):
            x = np.random.default_rng(seed).uniform(-3, 3, count)
            assert "not precise enough" in undecided(with_slope(*ROUNDED["sine, " + name]), x, seed, fast=True)


def test_what_differences_of_rounded_values_cannot_tell_is_undecided():
    with pytest.raises(Undecided, match=r"at 1 of 1 elements, as at \[0\], .* values of the function are not precise"):
        check_gradients(with_slope(*ROUNDED["identity, beside 1e13"]), X[0, :1])


@pytest.mark.parametrize("name", ROUNDED)
def test_a_derivative_that_is_wrong_by_more_than_the_rounding_is_found(name):
    wrong = with_slope(*ROUNDED[name], factor=-1.0)
    for seed in range(10):
        x = np.random.default_rng(seed).uniform(0.1, 1.0, 2)
        with pytest.raises(CheckFailed, match="wrong derivative of order 1"):
            check_gradients(wrong, x, seed=seed)


def test_a_wrong_rule_beside_rounded_values_is_found():
    """In another argument, in another element of the same one."""
    x, y = np.array([0.3, 0.7]), np.array([1.1, -0.4])
    other = elementwise(lambda x, y: np.round(x, 6) + np.sin(y)).vjp(lambda g: g, lambda g, y: g * tl.cos(y) * 1.0001)
    with pytest.raises(CheckFailed, match=r"by argument 1 \(y\) of shape \(2,\), at 2 of 2 elements"):
        check_gradients(other, x, y)
    element = primitive(lambda x: np.append(np.round(x[:1], 3), np.sin(x[1:]))).vjp(
        lambda g, x: tl.concatenate([g[:1], g[1:] * tl.cos(x[1:]) * 1.0001])
    )
    with pytest.raises(CheckFailed, match=r"at 1 of 2 elements\n  worst at \[1\]"):
        check_gradients(element, x)


@pytest.mark.parametrize("op", [lambda x: np.floor(x), lambda x: np.sign(x), lambda x: np.round(x * 4) / 4])
def test_the_steps_of_a_function_are_no_rounding(op):
    """They are wide: the derivative is 0 between them, whatever the function does from afar."""
    straight = with_slope(op, lambda x: x * 0 + 1)
    for x in (np.array([0.0401]), np.array([-0.96]), np.array([0.01, 1.41])):
        with pytest.raises(CheckFailed, match="wrong derivative of order 1"):
            check_gradients(straight, x)
    many = np.linspace(-0.4, 0.04, 1000)
    with pytest.raises(CheckFailed, match="along a random direction"):
        check_gradients(straight, many, fast=True)


@pytest.mark.parametrize(
    ("forward", "slope", "x"),
    [
        (lambda x: np.sin(x) + 1e-4 * np.sin(1e4 * x), np.cos, 0.3),
        (lambda x: np.interp(x, GRID, np.sin(GRID)), lambda x: np.cos(x) + 1e-2, 0.3005),
        (lambda x: np.abs(x - 1e-6) + x, lambda x: x * 0 + 1, 0.0),
    ],
    ids=["a fast wave", "kinks on both sides", "a kink near by"],
)  # fmt: skip
def test_what_is_continuous_is_no_rounding(forward, slope, x):
    """The derivative at the point counts, not the one that the function has from afar."""
    with pytest.raises(CheckFailed, match="wrong derivative of order 1"):
        check_gradients(with_slope(forward, slope), np.array([x]))


def test_the_number_of_calls_for_an_ordinary_op_is_as_before():
    calls = []

    def square(x):
        calls.append(1)
        return x * x

    check_gradients(lambda x: square(x), X)
    assert len(calls) < 24 + 24  # four for each of six elements, and what is checked besides


# ----- what is reported -------------------------------------------------------------------------------------------


def test_how_large_a_gradient_is_on_the_way_to_0_is_found_for_one_incoming_gradient():
    """d log = g / x: at x / 8 it is 8 times as large, and at g / 8 besides it would be as large as before."""
    assert point("log", tl.log, [np.ones(1)]).slope(tl.Tensor(np.ones(1))).sizes().tolist() == [8.0]


def test_the_worst_element_is_the_one_that_is_farthest_off():
    def rule(g, x):
        return g * np.array([100.0 + 0.01, 1.0, 2.0 + 0.5])

    op = elementwise(lambda x: x * np.array([100.0, 1.0, 2.0])).vjp(rule)
    with pytest.raises(CheckFailed, match=r"at 2 of 3 elements\n  worst at \[2\]"):
        check_gradients(op, X[0])
    nan = elementwise(lambda x: x * 2).vjp(lambda g: g * np.array([2.5, np.nan, 2.0]))
    with pytest.raises(CheckFailed, match=r"at 2 of 3 elements\n  worst at \[1\]: .* got nan"):
        check_gradients(nan, X[0])


@pytest.mark.parametrize(
    "layout",
    [np.asfortranarray, lambda x: x[::-1, ::-1].copy()[::-1, ::-1], lambda x: np.repeat(x, 2, 1)[:, ::2]],
    ids=["Fortran", "negative", "strided"],
)
def test_moved_inputs_lie_in_memory_as_the_input_does(layout):
    """Value and rule agree in every layout, but two layouts do not: differences must not mix them."""
    op = elementwise(lambda x: x * (2.0 if x.flags.c_contiguous else 3.0)).vjp(
        lambda g, x: g * (2.0 if x.flags.c_contiguous else 3.0)
    )
    check_gradients(op, X)
    with pytest.raises(CheckFailed, match="depends on the memory layout"):
        check_gradients(op, layout(X))


# ----- float32 ----------------------------------------------------------------------------------------------------


def test_rounding_to_float32_is_explained_beside_arguments_that_are_no_floats():
    """Of a layer norm over two columns, whose gradient is 0 but for epsilon."""
    norm = primitive(normalized).vjp(normalized_rule)
    for seed in range(10):
        report = check_gradients(lambda x, n: norm(x) * n, ROWS, 1, seed=seed)
        assert "float32 beside float64" in report.checked


def test_float32_may_differ_by_a_thousandth_of_the_largest_element_and_by_rounding():
    def op(factor):
        return elementwise(lambda x: x * 2).vjp(lambda g: g * (2.0 if g.dtype == np.float64 else 2.0 * factor))

    check_gradients(op(1.001004), np.array([1.0, 0.5, 0.25]))
    with pytest.raises(CheckFailed, match="in float32 the gradient"):
        check_gradients(op(1.0011), np.array([1.0, 0.5, 0.25]))


@pytest.mark.parametrize("other", [lambda x: x.reshape(-1), lambda x: x[:1], lambda x: x[None]])
def test_another_shape_in_float32_is_a_failure(other):
    def op(x):
        return other(x * 2.0) if x.dtype == np.float32 else x * 2.0

    sentence = r"in float32 the value has shape \([\d, ]+\), in float64 \(2, 3\)"
    with pytest.raises(CheckFailed, match=f"check_gradients: op: {sentence}"):
        check_gradients(op, X)
    with pytest.raises(CheckFailed, match=f"check_op: mine: {sentence}"):
        check_op(Row("mine", op, inputs=st.just((((2, 3),), {}))), "float32", examples=5)
