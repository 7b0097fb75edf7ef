"""The adversarial palette: ties, zeros, +-800, infinities, nan and tiny values through every op and layer."""

import math

import numpy as np
import pytest
from special_logits import SPECIAL
from table import DIFFERENTIABLE
from table_functional import FUNCTIONAL
from table_math import ELEMENTWISE

import tensorlite as tl
from tensorlite import formulas as spec
from tensorlite import functional as F
from tensorlite.kernels.cpu import blocks, losses

INF, NAN = math.inf, math.nan
PALETTE = np.array([0.0, -0.0, 1.0, -1.0, 2.0, 0.5, -2.5, 800.0, -800.0, 1e-300, -1e-300, 1e-8, INF, -INF, NAN])
UNARY = {"neg", "abs", "square", "sqrt", "rsqrt", "reciprocal", "exp", "expm1", "log", "log1p", "sin", "cos", "tanh"}
UNARY |= {"sigmoid", "erf", "sign", "floor", "ceil", "round", "relu", "gelu", "gelu, erf", "silu", "identity"}
BINARY = {"add", "sub", "mul", "div", "pow", "maximum", "minimum"}
rows = {row.name: row for row in [*ELEMENTWISE, *FUNCTIONAL]}
both = pytest.mark.parametrize("layers", [F, spec], ids=["fused", "specification"])


def leaf(values, dtype=np.float64):
    return tl.tensor(np.array(values, dtype), requires_grad=True)


def slopes(f, *values, dtype=np.float64):
    """(value, gradients of its sum) on arrays."""
    xs = [leaf(v, dtype) for v in values]
    out = f(*xs)
    return out.data, [p.data for p in tl.grad(out.sum(), xs)]


# ----- elementwise ops --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", [rows[name] for name in sorted(UNARY | BINARY)], ids=lambda row: row.name)
def test_every_value_of_the_palette(row):
    """The value is the reference's, the gradient the formula's wherever that is a number; neighbours do not matter."""
    xs = [PALETTE] if row.name in UNARY else [a.ravel() for a in np.meshgrid(PALETTE, PALETTE)]
    value, gradients = slopes(row.op, *xs)
    np.testing.assert_allclose(value, row.value(*xs), rtol=1e-12, atol=1e-300)
    for got, formula in zip(gradients, row.gradient(np.ones(xs[0].shape), *xs), strict=True):
        number = np.isfinite(formula)
        np.testing.assert_allclose(got[number], formula[number], rtol=1e-12, atol=1e-300)
        assert not np.isfinite(got[~number]).any()
    for i in range(len(PALETTE)):
        alone, by_alone = slopes(row.op, *[x[i : i + 1] for x in xs])
        np.testing.assert_array_equal([alone, *by_alone], [value[i : i + 1], *[p[i : i + 1] for p in gradients]])


def test_erf_has_the_digits_of_a_float64():
    x = np.linspace(-7, 7, 1401)
    np.testing.assert_allclose(tl.erf(x), [math.erf(each) for each in x], rtol=4e-16, atol=0)


def test_limits_where_naive_formulas_overflow_or_lose_digits():
    for dtype in (np.float32, np.float64):
        value, (slope,) = slopes(tl.sigmoid, [800, -800, 0], dtype=dtype)
        assert value.tolist() == [1, 0, 0.5]
        assert slope.tolist() == [0, 0, 0.25]
        tiny = np.array([1e-20, -1e-20], dtype)
        for f in (tl.expm1, tl.log1p, tl.tanh):
            assert slopes(f, tiny, dtype=dtype)[0].tolist() == tiny.tolist()
        assert slopes(tl.sigmoid, [-50], dtype=dtype)[0][0] == pytest.approx(math.exp(-50), rel=1e-6)
        assert slopes(tl.erf, [1e-10, 10, -10], dtype=dtype)[0].tolist() == pytest.approx(
            [2e-10 / math.sqrt(math.pi), 1, -1]
        )
        far = 1e4 + np.arange(4)
        assert slopes(lambda x: x.var(), far, dtype=dtype)[0] == pytest.approx(1.25)


# ----- softmax and its family -------------------------------------------------------------------------------------


def test_logsumexp_of_large_and_infinite_values():
    cases = [  # values, result, gradient
        ([800, 800], 800 + math.log(2), [0.5, 0.5]),
        ([-800, -800], -800 + math.log(2), [0.5, 0.5]),
        ([-800, 800], 800, [0, 1]),
        ([-INF, 0], 0, [0, 1]),
        ([-INF, -INF], -INF, [NAN, NAN]),  # as in torch: there is no direction to go
        ([INF, 0], INF, [NAN, 0]),
    ]
    for values, result, gradient in cases:
        value, (slope,) = slopes(lambda x: tl.logsumexp(x), values)
        np.testing.assert_allclose(value, result)
        np.testing.assert_allclose(slope, gradient, atol=1e-300)


@both
def test_softmax_of_large_and_infinite_values(layers):
    np.testing.assert_allclose(slopes(layers.softmax, [800, 800, -800])[0], [0.5, 0.5, 0])
    np.testing.assert_allclose(
        slopes(layers.log_softmax, [800, 800, -800])[0], [-math.log(2)] * 2 + [-1600 - math.log(2)]
    )
    value, (slope,) = slopes(lambda x: layers.softmax(x) * np.array([1, 2, 4]), [-INF, 0, 0])
    np.testing.assert_allclose((value, slope), ([0, 1, 2], [0, -0.5, 0.5]))
    assert np.isnan(layers.softmax(leaf([-INF, -INF])).data).all()  # as in torch; attention has its own convention
    rows, _ = slopes(layers.softmax, [[-INF, -INF], [0, 0]])
    assert rows[1].tolist() == [0.5, 0.5]  # the other rows do not notice


@both
def test_rows_far_from_each_other_keep_their_digits(layers):
    """Each row is shifted by its own maximum: by that of another one it would vanish, or overflow."""
    x, p = [[800, 801], [-801, -800]], 1 / (1 + math.e)
    np.testing.assert_allclose(slopes(layers.softmax, x)[0], [[p, 1 - p]] * 2)
    np.testing.assert_allclose(slopes(layers.log_softmax, x)[0], np.log([[p, 1 - p]] * 2))
    np.testing.assert_allclose(
        slopes(lambda x: tl.logsumexp(x, axis=1), x)[0], [801 - math.log(1 - p), -800 - math.log(1 - p)]
    )
    value, (slope,) = slopes(lambda x: layers.cross_entropy(x, np.array([0, 0])), x)
    np.testing.assert_allclose(value, -math.log(p))
    np.testing.assert_allclose(slope, [[(p - 1) / 2, (1 - p) / 2]] * 2)
    q, k, v = leaf([[800.0], [-800.0]]), leaf([[2.0], [3.0]]), leaf([[3.0], [5.0]])
    assert layers.scaled_dot_product_attention(q, k, v).tolist() == [[5], [3]]
    added = np.array(x) - np.array([[0.0], [1600.0]])
    weights = layers.scaled_dot_product_attention(
        leaf(np.zeros((2, 1))), leaf(np.zeros((2, 1))), leaf(np.eye(2)), mask=leaf(added)
    )
    np.testing.assert_allclose(weights.data, [[p, 1 - p]] * 2)


@both
@pytest.mark.parametrize("is_causal", [False, True])
def test_attention_rows_that_see_nothing_are_zero_and_change_nothing_else(layers, is_causal):
    rng = np.random.default_rng(0)
    q, k, v = rng.standard_normal((3, 2, 3, 4))
    mask = np.array([[True, False, False], [False, False, False], [True, False, True]])

    def run(rows):
        arrays = [leaf(q[:, rows]), leaf(k), leaf(v)]
        allowed = mask[rows] & np.tri(3, dtype=bool)[rows] if is_causal else mask[rows]
        options = {"mask": mask, "is_causal": is_causal} if len(rows) == 3 else {"mask": allowed}
        out = layers.scaled_dot_product_attention(*arrays, **options)
        return out.data, [p.data for p in tl.grad((out * out).sum(), arrays)]

    out, (dq, dk, dv) = run([0, 1, 2])
    without, (dq_without, dk_without, dv_without) = run([0, 2])
    assert (out[:, 1] == 0).all()
    assert (dq[:, 1] == 0).all()
    np.testing.assert_allclose(out[:, [0, 2]], without)
    np.testing.assert_allclose(dq[:, [0, 2]], dq_without)
    np.testing.assert_allclose((dk, dv), (dk_without, dv_without))


@both
@pytest.mark.parametrize("T", [1, 2])
def test_attention_with_infinite_scores(layers, T):
    """To keys that all score -inf: 0; the other heads do not notice, nor do they notice one without a number."""
    k = [[-INF, -INF], [0, -INF], [800, 801], [NAN, 0]]
    out = layers.scaled_dot_product_attention(
        leaf(np.ones((4, T, 1))), leaf(np.reshape(k, (4, 2, 1))), leaf([[[2.0], [3.0]]] * 4)
    )
    expected = [0, 2, 2 + math.e / (1 + math.e), NAN]
    np.testing.assert_allclose(out.data, np.repeat(expected, T).reshape(4, T, 1))


@both
@pytest.mark.parametrize("later", [INF, -INF, NAN])
def test_a_later_key_changes_no_earlier_position_however_wrong_it_is(layers, later):
    q, k, v = np.ones((3, 1)), np.array([[1.0], [2.0], [later]]), np.array([[3.0], [5.0], [7.0]])
    out = layers.scaled_dot_product_attention(leaf(q), leaf(k), leaf(v), is_causal=True)
    weight = 1 / (1 + math.e)
    np.testing.assert_allclose(out.data[:2], [[3], [3 * weight + 5 * (1 - weight)]])


@both
def test_attention_of_scores_that_overflow_exp(layers):
    q, k, v = leaf([[800.0]]), leaf([[1.0], [2.0]]), leaf([[3.0], [5.0]])
    out = layers.scaled_dot_product_attention(q, k, v)
    assert out.tolist() == [[5]]
    assert all(np.isfinite(p.data).all() for p in tl.grad(out.sum(), [q, k, v]))


@both
def test_cross_entropy_of_large_and_infinite_logits(layers):
    def run(logits, targets, **options):
        value, (slope,) = slopes(lambda x: layers.cross_entropy(x, np.array(targets), **options), logits)
        return value, slope

    value, slope = run([[800, -800], [-800, 800]], [0, 0])
    assert value == 800
    np.testing.assert_allclose(slope, [[0, 0], [-0.5, 0.5]], atol=1e-300)
    value, slope = run([[0, 0, -INF]], [0])  # -inf at another class: that class is out of the game
    np.testing.assert_allclose(value, math.log(2))
    np.testing.assert_allclose(slope, [[-0.5, 0.5, 0]])
    value, slope = run([[0, 0, -INF]], [2])  # at the target: an infinite loss, a finite gradient
    assert value == INF
    np.testing.assert_allclose(slope, [[0.5, 0.5, -1]])
    value, slope = run([[0, 0, -INF]], [[0.5, 0.5, 0.0]])  # probabilities: 0 of an impossible class costs nothing
    np.testing.assert_allclose(value, math.log(2))
    np.testing.assert_allclose(slope, [[0, 0, 0]], atol=1e-15)
    value, (_, by_target) = slopes(layers.cross_entropy, [[0, 0, -INF]], [[0.5, 0.5, 0.0]])
    np.testing.assert_allclose(by_target, [[math.log(2), math.log(2), 0]])
    assert run([[0, 0, -INF]], [[0.5, 0.25, 0.25]])[0] == INF  # but any more of it is infinitely wrong
    value, slope = run([[1, 2], [3, 4]], [0, -100])  # an ignored row has no gradient, whatever stands in it
    assert slope[1].tolist() == [0, 0]


LOSSES = {
    "mean": lambda layers, x, t: layers.cross_entropy(x, t, reduction="mean"),
    "sum": lambda layers, x, t: layers.cross_entropy(x, t, reduction="sum"),
    "none": lambda layers, x, t: layers.cross_entropy(x, t, reduction="none").sum(),
    "weighted": lambda layers, x, t: layers.cross_entropy(x, t, weight=np.ones(3, x.dtype)),
    "head": lambda layers, x, t: layers.linear_cross_entropy(tl.ones((1, 1), dtype=x.dtype), x.T, t),
    "picked": lambda layers, x, t: -layers.log_softmax(x)[0, t[0]],
}


@pytest.mark.finding("B10")
@both
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
@pytest.mark.parametrize("path", LOSSES)
def test_cross_entropy_of_infinite_logits_is_the_same_on_every_path(layers, path, dtype):
    for logits, target, expected, gradient in SPECIAL:
        value, (slope,) = slopes(lambda x, t=target: LOSSES[path](layers, x, np.array([t])), [logits], dtype=dtype)
        np.testing.assert_allclose(value, expected, rtol=1e-3, atol=1e-6)
        np.testing.assert_allclose(slope, [gradient], rtol=1e-3, atol=1e-6)


@pytest.mark.finding("B10")
@both
def test_large_rows_with_infinite_logits_as_numba_computes_them(layers):
    """More elements than it takes for compiled loops, with one bad row of each kind: the others do not notice."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((1000, 64)).astype(np.float32)
    x = rng.standard_normal((40, 64)).astype(np.float32)
    x[3, 5], x[7, 0], weight[1, 5] = INF, NAN, 0
    targets = rng.integers(0, 1000, 40)
    good = ~np.isin(np.arange(40), [3, 7])
    value, (by_x,) = slopes(
        lambda x: layers.linear_cross_entropy(x, weight, targets, reduction="sum"), x, dtype=np.float32
    )
    assert np.isnan(value)
    assert np.isnan(by_x[~good]).all()
    _, (expected,) = slopes(
        lambda x: layers.linear_cross_entropy(x, weight, targets[good], reduction="sum"), x[good], dtype=np.float32
    )
    np.testing.assert_allclose(by_x[good], expected, rtol=1e-4, atol=1e-5)


@both
@pytest.mark.parametrize("at_once", [1, 64])
def test_a_head_with_large_and_infinite_logits(layers, at_once, monkeypatch):
    """Whatever the number of classes whose logits are computed at once."""
    monkeypatch.setattr(losses, "MIN_CLASSES", at_once)
    monkeypatch.setattr(blocks, "BLOCK", at_once)
    near, far, weight, targets = [1.0, 3.0], [800.0, -801.0], [[1.0, 0.0], [0.0, 1.0]], np.array([0, 1, 1])
    x, p, q = leaf([near, far, far[::-1]]), 1 / (1 + math.e**2), 1 - 1 / (1 + math.e**2)
    loss = layers.linear_cross_entropy(x, leaf(weight), targets, reduction="sum")
    np.testing.assert_allclose(loss.data, -math.log(p) + 1601 + 0)
    np.testing.assert_allclose(tl.grad(loss, x).data, [[p - 1, q], [1, -1], [0, 0]], atol=1e-300)
    x, weight = leaf([[1.0]]), leaf([[0.0], [0.0], [-INF]])  # a class that cannot be
    loss = layers.linear_cross_entropy(x, weight, np.array([0]))
    np.testing.assert_allclose(loss.data, math.log(2))
    np.testing.assert_allclose(tl.grad(loss, weight).data, [[-0.5], [0.5], [0]])


@both
@pytest.mark.parametrize("values", [[40000, 40001, 40002, 40003], [1e-3, 2e-3, 3e-3, 4e-3], [5, 5, 5, 5]])
def test_layer_norm_in_float32_is_as_good_as_in_float64(layers, values):
    weight, bias, g = np.array([1.0, 2, -1, 0.5]), np.array([0.0, 1, 0, 0]), np.array([1.0, -2, 3, 1])

    def run(dtype):
        return slopes(lambda *xs: layers.layer_norm(*xs) * g.astype(dtype), values, weight, bias, dtype=dtype)

    (small, small_slopes), (large, large_slopes) = run(np.float32), run(np.float64)
    for a, b in zip([small, *small_slopes], [large, *large_slopes], strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-3 * np.abs(b).max())


# ----- reductions -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["sum", "mean", "max", "min", "prod", "norm", "var", "std", "logsumexp", "cumsum", "sort"]
)
def test_a_bad_row_stays_alone(name):
    """inf and nan in one row of a reduction do not reach the value or the gradient of another."""
    row = next(row for row in DIFFERENTIABLE if row.name == name)
    good = np.array([[1.0, -2.0, 3.0], [0.5, 0.5, 0.25]])
    clean, (clean_slope,) = slopes(lambda x: getattr(tl, name)(x, axis=1), good)
    assert np.isfinite(clean_slope).all(), row
    for bad in ([NAN, 1, 2], [INF, 1, 2], [-INF, INF, 0]):
        value, (slope,) = slopes(lambda x: getattr(tl, name)(x, axis=1), [good[0], bad, good[1]])
        np.testing.assert_array_equal(value[[0, 2]], clean)
        np.testing.assert_array_equal(slope[[0, 2]], clean_slope)
        assert name in ("max", "min", "logsumexp", "sort") or not np.isfinite(value[1]).all()


def test_nan_is_never_lost_by_a_reduction():
    for f in (tl.sum, tl.mean, tl.max, tl.min, tl.prod, tl.norm, tl.var, tl.std, tl.logsumexp):
        assert math.isnan(f(tl.tensor([1.0, NAN, INF])).item())
    assert tl.argmax(tl.tensor([1.0, NAN, INF])).item() == 1
    assert math.isnan(tl.sort(tl.tensor([1.0, NAN, -INF]))[-1].item())
