"""The GPU's linear, layer_norm and gelu, their kernels run on the CPU: the numbers of the specification in float64.

How far apart they may be: half a unit in the last place of the result's dtype, and some float32 roundings (2^-24) of
the largest number that was added up.
"""

import itertools
import zlib

import ml_dtypes
import numpy as np
import pytest
from emulator import emulated  # noqa: F401

import tensorlite as tl
from tensorlite import formulas
from tensorlite.kernels import precision
from tensorlite.kernels.cuda import layers

BF16 = np.dtype(ml_dtypes.bfloat16)
F32 = np.dtype(np.float32)
UNIT = {F32: 2.0**-24, BF16: 2.0**-8}  # half a unit in the last place, relative
DTYPES = pytest.mark.parametrize("dtype", [F32, BF16], ids=["float32", "bfloat16"])
pytestmark = pytest.mark.usefixtures("emulated")


@pytest.fixture
def rng(request):
    return np.random.default_rng(zlib.crc32(request.node.name.encode()))  # another for each test


@pytest.fixture(params=precision.DTYPES)
def mode(request, monkeypatch):
    monkeypatch.setattr(precision, "_dtype", request.param)
    return request.param


def specification(name, xs, g, **meta):
    """(value, gradients) of the specification, in float64."""
    tensors = [None if x is None else tl.Tensor(x.astype(np.float64), requires_grad=True) for x in xs]
    out = getattr(formulas, name)(*tensors, **meta)
    out.backward(g.astype(np.float64))
    return out.data, [None if t is None else t.grad.data for t in tensors]


def near(got, exact, added, roundings=16):
    """`added`: the size of what was added up on the way to `got`."""
    assert got.shape == exact.shape
    error = np.abs(got.astype(np.float64) - exact)
    allowed = UNIT[got.dtype] * np.abs(exact) + roundings * 2.0**-24 * added
    assert not np.isnan(error).any(), "nan: something was not written, or read beyond its end"
    assert (error <= allowed).all(), f"{error.max()} off, {(error / allowed).max():.3} of what is allowed"


def same_bits(a, b):
    return all((x is None and y is None) or x.tobytes() == y.tobytes() for x, y in zip(a, b, strict=True))


# ----- layer_norm -------------------------------------------------------------------------------------------------

# vectors of each length in one warp; rows no vector fits; several warps a row; the longest in registers, and longer
ROWS = [1, 3, 8, 31, 64, 100, 256, 260, 264, 700, 768, 776, 1024, 1025, 1032, 1600, 2500, 8192, 8200]


def check_layer_norm(x, weight, bias, g, needs=(True,) * 3):
    out, kept = layers.layer_norm(x, weight, bias, eps=1e-3)
    assert (out.dtype, kept["mean"].dtype, kept["rstd"].dtype) == (x.dtype, F32, F32)
    exact, gradients = specification("layer_norm", (x, weight, bias), g, eps=1e-3)
    size = 1.0 if weight is None else np.abs(weight).max()
    z = (x.astype(np.float64) - kept["mean"].reshape((*x.shape[:-1], 1))) * kept["rstd"].reshape((*x.shape[:-1], 1))
    near(out, exact, np.abs(z).max() * size + 1)
    got = layers.layer_norm_vjp(g, needs, x, weight, **kept)
    assert [grad is not None for grad in got] == list(needs)
    big = np.abs(g).astype(np.float64)
    sizes = [
        kept["rstd"].max() * big.max() * size * (1 + np.abs(z).max()) ** 2,
        (big * (1 + np.abs(z))).reshape((-1, x.shape[-1])).sum(0).max(),
        big.reshape((-1, x.shape[-1])).sum(0).max(),
    ]
    for grad, exact, dtype, added in zip(got, gradients, (x.dtype, F32, F32), sizes, strict=True):
        if grad is not None:
            assert grad.dtype == dtype
            near(grad, exact, added)
    assert same_bits((out, *got), (layers.layer_norm(x, weight, bias, eps=1e-3)[0],
                                   *layers.layer_norm_vjp(g, needs, x, weight, **kept)))  # fmt: skip


@pytest.mark.slow
@DTYPES
@pytest.mark.parametrize("C", ROWS)
def test_layer_norm(rng, C, dtype):
    n = 11 if C < 2000 else 2
    x, g = (rng.standard_normal((n, C)).astype(dtype) * 3 + 1 for _ in range(2))
    check_layer_norm(x.astype(dtype), *rng.standard_normal((2, C), np.float32), g.astype(dtype))


@pytest.mark.slow
@DTYPES
@pytest.mark.parametrize("C", [5, 24])
@pytest.mark.parametrize(("with_weight", "with_bias"), [*itertools.product([False, True], repeat=2)])
def test_layer_norm_for_those_who_need_a_gradient(rng, C, dtype, with_weight, with_bias):
    x, g = (rng.standard_normal((2, 3, C)).astype(dtype) for _ in range(2))
    weight, bias = (rng.standard_normal(C).astype(F32) if given else None for given in (with_weight, with_bias))
    for needs in itertools.product([False, True], [False, with_weight], [False, with_bias]):
        check_layer_norm(x, weight, bias, g, needs)


@pytest.mark.slow
@DTYPES
@pytest.mark.parametrize("C", [7, 16])
@pytest.mark.parametrize("n", [0, 1, 3, 4, 5, 2500])
def test_layer_norm_of_any_number_of_rows(rng, n, C, dtype):
    x, g = (rng.standard_normal((n, C)).astype(dtype) for _ in range(2))
    if n:
        return check_layer_norm(x, *rng.standard_normal((2, C), np.float32), g)
    out, kept = layers.layer_norm(x, np.ones(C, F32), np.ones(C, F32))
    assert out.shape == x.shape
    dx, dweight, dbias = layers.layer_norm_vjp(g, (True,) * 3, x, np.ones(C, F32), **kept)
    assert dx.shape == x.shape
    assert not dweight.any()
    assert not dbias.any()


@pytest.mark.parametrize("lead", [(), (1,), (2, 1, 3)])
def test_layer_norm_keeps_leading_axes(rng, lead):
    x, g = rng.standard_normal((2, *lead, 8), np.float32)
    check_layer_norm(x, *rng.standard_normal((2, 8), np.float32), g)


@DTYPES
def test_layer_norm_of_views_that_are_not_contiguous_or_not_aligned(rng, dtype):
    wide = rng.standard_normal((2, 6, 17)).astype(dtype)
    parameters = rng.standard_normal((2, 17)).astype(F32)
    for cut in (np.s_[:, ::2, :16], np.s_[:, :, 1:], np.s_[:, :, ::-2]):
        x, g = wide[cut]
        check_layer_norm(x, *parameters[:, : x.shape[-1]], g)
    flat, weights = rng.standard_normal((2, 33)).astype(dtype), rng.standard_normal((2, 9)).astype(F32)
    for a, b, c in itertools.product([0, 1], repeat=3):  # rows of 8 that start off a multiple of 16 bytes
        x, g = flat[0, a : a + 32].reshape((4, 8)), flat[1, b : b + 32].reshape((4, 8))
        check_layer_norm(x, weights[0, c : c + 8], weights[1, c : c + 8], g)


@pytest.mark.parametrize("C", [4, 5, 768, 777, 8192])
def test_layer_norm_far_from_0(rng, C):
    """The deviation of 40000 .. 40003 is what it is for 0 .. 3, though a float32 sum of squares would lose it all."""
    x = np.stack([40_000 + np.arange(C) % 4, 40_000 + rng.standard_normal(C)]).astype(F32)
    out, kept = layers.layer_norm(x)
    exact, _ = specification("layer_norm", (x,), x)
    near(out, exact, 4.0)
    near(kept["mean"], x.astype(np.float64).mean(axis=-1), 0.0)
    near(kept["rstd"], 1 / np.sqrt(x.astype(np.float64).var(axis=-1) + 1e-5), 4.0)
    constant = np.full((3, C), 0.1, F32)
    near(layers.layer_norm(constant)[0], np.zeros((3, C)), 0.1 / np.sqrt(1e-5))


def test_layer_norm_of_equal_elements(rng):
    """In a long row rounding may leave a variance below 0, which counts as 0."""
    x = np.tile(rng.uniform(0.1, 10, (32, 1)).astype(F32), 100_001)
    near(layers.layer_norm(x)[1]["rstd"], np.full(32, 1e-5**-0.5), 1e-5**-0.5)


def test_layer_norm_passes_on_what_is_no_number():
    x = np.ones((3, 8), F32)
    x[0, 3], x[1, 2] = np.nan, np.inf
    out, _ = layers.layer_norm(x)
    assert np.isnan(out[:2]).all()
    assert not np.isnan(out[2]).any()


def test_layer_norm_checks_its_parameters():
    with pytest.raises(ValueError, match="weight and bias must have shape"):
        layers.layer_norm(np.ones((2, 8), F32), np.ones(7, F32))


# ----- gelu, casts, sums ------------------------------------------------------------------------------------------

SIZES = [0, 1, 3, 4, 8, 9, 255, 4099]


@DTYPES
@pytest.mark.parametrize("n", SIZES)
def test_gelu(rng, n, dtype):
    x, g = (rng.standard_normal(n) * 4).astype(dtype), rng.standard_normal(n).astype(dtype)
    for view in (np.s_[:], np.s_[1:], np.s_[::2]):
        check_gelu(x[view], g[view])
    check_gelu(x.reshape((1, n, 1)), g.reshape((1, n, 1)))


def check_gelu(x, g):
    out, (dx,) = layers.gelu(x), layers.gelu_vjp(g, (True,), x)
    assert (out.dtype, dx.dtype) == (x.dtype, x.dtype)
    exact, (gradient,) = specification("gelu", (x,), g)
    wide = np.abs(x.astype(np.float64))
    # a rounding of u changes exp(u) by u times as much; the specification's own tanh loses 1e-16 near -1
    near(out, exact, np.abs(exact) * (1 + wide) ** 3 + 1e-8, 4)
    near(dx, gradient, np.abs(g) * (1 + np.minimum(wide, 10)) ** 2)
    assert same_bits((out, dx), (layers.gelu(x), *layers.gelu_vjp(g, (True,), x)))


@DTYPES
def test_gelu_at_the_ends(dtype):
    x = np.array([0.0, -0.0, 1e-30, -1e-30, 20, -20, 1e20, -1e20, np.inf, np.nan]).astype(dtype)
    out, (dx,) = layers.gelu(x), layers.gelu_vjp(np.ones(10, dtype), (True,), x)
    expected = np.where(np.abs(x.astype(F32)) < 1, x.astype(F32) / 2, np.maximum(x.astype(F32), 0))
    np.testing.assert_array_equal(out.astype(F32), expected)
    np.testing.assert_array_equal(dx.astype(F32), [0.5, 0.5, 0.5, 0.5, 1, 0, 1, 0, 1, np.nan])


@pytest.mark.parametrize("n", SIZES)
def test_casts_round_to_the_nearest(rng, n):
    x = rng.standard_normal(n + 1).astype(F32)
    x[:4] = np.array([np.inf, -np.inf, 1 + 2.0**-8, 1 + 3 * 2.0**-8])[: n + 1]  # and ties to even
    for view in (x[:n], x[1:], x[::2]):
        narrow = layers.cast(view, BF16)
        np.testing.assert_array_equal(narrow.view(np.uint16), view.astype(BF16).view(np.uint16))
        np.testing.assert_array_equal(layers.cast(narrow, F32), narrow.astype(F32))
        assert layers.cast(view, F32) is view


@DTYPES
@pytest.mark.parametrize(("n", "C"), [(0, 5), (1, 1), (7, 3), (33, 8), (100, 264), (1000, 24), (9000, 7), (70, 1000)])
def test_column_sums(rng, n, C, dtype):
    x = rng.standard_normal((n, C)).astype(dtype)
    got = layers.column_sums(x)
    assert got.dtype == F32
    near(got, x.astype(np.float64).sum(0), np.abs(x).astype(np.float64).sum(0))
    assert same_bits([got], [layers.column_sums(x)])


# ----- linear -----------------------------------------------------------------------------------------------------


@DTYPES
@pytest.mark.parametrize(("lead", "i", "o"), [((5,), 3, 4), ((2, 9), 8, 16), ((), 5, 7), ((0,), 3, 2), ((1, 3), 16, 1)])
@pytest.mark.parametrize("with_bias", [False, True])
def test_linear(rng, mode, dtype, lead, i, o, with_bias):
    if mode != "bfloat16" and dtype == BF16:
        assert not layers.supports_linear(np.ones((1, 1), BF16), np.ones((1, 1), F32))
        return
    computed = BF16 if mode == "bfloat16" else F32
    x, weight = rng.standard_normal((*lead, i)).astype(dtype), rng.standard_normal((o, i)).astype(F32)
    bias, g = (rng.standard_normal(shape).astype(F32) for shape in (o, (*lead, o)))
    g = g.astype(computed)
    assert layers.supports_linear(x, weight, bias)
    y, kept = layers.linear(x, weight, bias if with_bias else None)
    assert y.dtype == kept["rows"].dtype == kept["matrix"].dtype == computed
    operands = x.astype(computed), weight.astype(computed), bias.astype(computed) if with_bias else None
    exact, gradients = specification("linear", operands, g)
    near(y, exact, np.abs(x).max(initial=0) * np.abs(weight).max() * i + 3)
    for needs in itertools.product([False, True], [False, True], [False, with_bias]):
        got = layers.linear_vjp(g, needs, x, weight, **kept)
        rows = g.size // o
        sizes = [np.abs(weight).max() * 4 * o, 4 * 4 * max(rows, 1), 4 * max(rows, 1)]
        for need, grad, exact, kind, added in zip(needs, got, gradients, (dtype, F32, F32), sizes, strict=True):
            assert need == (grad is not None)
            if need:
                assert grad.dtype == kind
                near(grad, exact, added)


@DTYPES
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("sides", [(4, 4, 4), (8, 1, 3)])
def test_projections(rng, mode, dtype, with_bias, sides):
    if mode != "bfloat16" and dtype == BF16:
        return  # linear says that it does not serve it
    computed = BF16 if mode == "bfloat16" else F32
    x = rng.standard_normal((2, 9, 5)).astype(dtype)
    weights, biases = [rng.standard_normal((n, 5)).astype(F32) for n in sides], [None] * 3
    if with_bias:
        biases = [rng.standard_normal(n).astype(F32) for n in sides]
    assert layers.supports_projections(x, *weights, *biases)
    assert not layers.supports_projections(x, *weights, None, None, np.ones(sides[2], F32))
    y, kept = layers.projections(x, *weights, *biases)
    assert y.dtype == computed
    g = rng.standard_normal(y.shape).astype(computed)
    operands = [None if a is None else a.astype(computed) for a in (x, *weights, *biases)]
    exact, gradients = specification("projections", operands, g)
    near(y, exact, 100)
    for needs in ((True,) * 7, (False, True, False, False, False, True, False), (True,) + (False,) * 6):
        got = layers.projections_vjp(g, needs, x, *weights, **kept)
        for need, grad, exact, kind in zip(needs, got, gradients, (dtype, *[F32] * 6), strict=True):
            if need and exact is not None:
                assert grad.dtype == kind
                near(grad, exact, 400)


def test_linear_of_views(rng, mode):
    weight, wide = rng.standard_normal((6, 4)).astype(F32), rng.standard_normal((4, 9, 8)).astype(F32)
    computed = BF16 if mode == "bfloat16" else F32
    for x in (wide[::2, :, ::2], wide.transpose(2, 1, 0), wide[:, :, 3:7]):
        y, kept = layers.linear(x, weight.T.copy().T)
        near(y, x.astype(computed).astype(np.float64) @ weight.astype(computed).astype(np.float64).T, 64)
        g = rng.standard_normal((*x.shape[:-2], 6, x.shape[-2])).astype(computed).swapaxes(-1, -2)
        dx, dweight, _ = layers.linear_vjp(g, (True, True, False), x, weight, **kept)
        _, (dx_exact, dweight_exact) = specification("linear", (x.astype(computed), weight.astype(computed)), g)
        near(dx, dx_exact, 64)
        near(dweight, dweight_exact, 400)


def test_backward_needs_no_cast_in_bfloat16(rng, monkeypatch):
    monkeypatch.setattr(precision, "_dtype", "bfloat16")
    x, weight = rng.standard_normal((5, 8)).astype(F32), rng.standard_normal((8, 8)).astype(F32)
    y, kept = layers.linear(x, weight)
    monkeypatch.setattr(layers, "launch", None)  # what needs a kernel would fail
    layers.linear_vjp(y, (True, True, False), x, weight, **kept)


# ----- what is served ---------------------------------------------------------------------------------------------


def test_what_is_not_served_is_left_to_the_specification(monkeypatch):
    x, p, off = np.ones((2, 8), F32), np.ones(8, F32), np.ones(8)
    narrow = x.astype(BF16)
    assert layers.supports_layer_norm(x, p, p, eps=1e-5)
    assert layers.supports_layer_norm(narrow, p, None)
    assert layers.supports_layer_norm(x[0], p)
    assert not layers.supports_layer_norm(x, off)
    assert not layers.supports_layer_norm(x.astype(np.float64), off)
    assert not layers.supports_layer_norm(x, p.astype(BF16))
    assert not layers.supports_layer_norm(x[:, :0])
    assert not layers.supports_layer_norm(np.ones((), F32))
    assert layers.supports_gelu(narrow)
    assert layers.supports_gelu(x, approximate="tanh")
    assert not layers.supports_gelu(x, approximate="none")
    assert not layers.supports_linear(x, np.ones((1, 1, 8), F32))
    assert not layers.supports_linear(narrow, x)
    monkeypatch.setattr(precision, "_dtype", "bfloat16")
    assert layers.supports_linear(narrow, x)
    assert layers.supports_linear(narrow, narrow)  # a model that is bfloat16 altogether
    monkeypatch.undo()  # no emulation: these are arrays in main memory
    assert not layers.supports_layer_norm(x, p, p)


@pytest.mark.parametrize("C", [8, 100, 768, 1032, 8200])
@pytest.mark.parametrize("dtypes", [(BF16, BF16), (BF16, F32), (F32, BF16), (None, BF16), (BF16, None)], ids=str)
def test_layer_norm_reads_its_parameters_as_they_are(rng, C, dtypes):
    x = rng.standard_normal((5, C)).astype(BF16)
    parameters = [None if dtype is None else rng.standard_normal(C).astype(dtype) for dtype in dtypes]
    near(layers.layer_norm(x, *parameters)[0], specification("layer_norm", (x, *parameters), x)[0], 64)


def test_a_model_in_bfloat16_altogether(rng):
    """Parameters too: results and gradients have its dtype."""
    x, weight = rng.standard_normal((6, 8)).astype(BF16), rng.standard_normal((5, 8)).astype(BF16)
    bias, g = rng.standard_normal(5).astype(BF16), rng.standard_normal((6, 5)).astype(BF16)
    y, kept = layers.linear(x, weight, bias)
    exact, gradients = specification("linear", (x, weight, bias), g)
    near(y, exact, 64)
    for got, expected in zip(layers.linear_vjp(g, (True,) * 3, x, weight, **kept), gradients, strict=True):
        assert got.dtype == BF16
        near(got, expected, 64)
    scale, shift = rng.standard_normal((2, 8)).astype(BF16)
    y, kept = layers.layer_norm(x, scale, shift)
    g = rng.standard_normal((6, 8)).astype(BF16)
    exact, gradients = specification("layer_norm", (x, scale, shift), g)
    near(y, exact, 64)
    for got, expected in zip(layers.layer_norm_vjp(g, (True,) * 3, x, scale, **kept), gradients, strict=True):
        assert got.dtype == BF16
        near(got, expected, 64)


# ----- add --------------------------------------------------------------------------------------------------------


@DTYPES
@pytest.mark.parametrize("shape", [(1,), (7,), (3, 8), (2, 0), (5, 1031)], ids=str)
def test_add(rng, dtype, shape):
    x, y = rng.standard_normal((2, *shape)).astype(dtype)
    exact = (x.astype(np.float64) + y.astype(np.float64)).astype(dtype)
    np.testing.assert_array_equal(layers.add_if_supported(x, y), exact)
    assert layers.add_if_supported(x, y, out=x) is x
    np.testing.assert_array_equal(x, exact)
    if x.size and shape[0] > 1:
        assert layers.add_if_supported(x[::2], y[::2], out=x[::2]) is None  # apart in memory: for the library to do
        np.testing.assert_array_equal(x, exact)
    assert not layers.supports_add(x, y.astype(np.float64))
    assert not layers.supports_add(x, y[:1].reshape(-1)[:0])


@DTYPES
@pytest.mark.parametrize("n", [1, 2, 3, 5, 8, 9])
@pytest.mark.parametrize(("O", "C"), [(1, 1), (9, 40), (17, 1030), (8, 7)])
@pytest.mark.parametrize("with_bias", [True, False], ids=["bias", "no bias"])
def test_linear_of_few_rows(rng, monkeypatch, dtype, n, O, C, with_bias):
    if n <= 8:
        monkeypatch.setattr(layers.blas, "matmul", None)  # which would take several times as long on a GPU
    x, weight = rng.standard_normal((n, C)).astype(dtype), rng.standard_normal((O, C)).astype(dtype)
    bias = rng.standard_normal(O).astype(dtype) if with_bias else None
    y, _ = layers.linear(x, weight, bias)
    exact = x.astype(np.float64) @ weight.astype(np.float64).T + (0 if bias is None else bias.astype(np.float64))
    near(y, exact, 16 * np.sqrt(C) + 4)
