"""numba_impl computes what numpy_impl does, for every value; when it is chosen, and why it may not be available."""

import math
import subprocess
import sys
from importlib.metadata import PackageNotFoundError

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from table import ROWS

import tensorlite as tl
from tensorlite import functional as F
from tensorlite import optim
from tensorlite.accelerate import storage
from tensorlite.kernels.cpu import choose_impl, numpy_impl
from tensorlite.testing import layouts, smooth

few = settings(max_examples=max(5, settings().max_examples // 5))
SIDE = st.sampled_from([0, 1, 2, 3, 7, 8, 17, 33, 70])  # fewer than a vector of floats, one, and some with a rest
SEEDS = st.integers(0, 2**20)
PALETTE = np.array([0, -0.0, 1, -1, 0.5, -2.5, 9, 88, -87, -88, 800, -800, 1e-38, 1e9, math.inf, -math.inf, math.nan])
FUSED = [row for row in ROWS if row.function in ("scaled_dot_product_attention", *F.__all__) and row.gradient]


@pytest.fixture(scope="module")
def numba_impl():
    if choose_impl.missing():
        pytest.skip(choose_impl.missing())
    return choose_impl._numba_impl()


@pytest.fixture
def always(numba_impl, monkeypatch):
    """numba_impl is chosen for small arrays too, and must only get contiguous float32: it compiles for each layout."""

    class Checked:
        def __getattr__(self, name):
            def call(*args):
                for x in args[1:] if name == "transpose" else args:  # which reads views
                    if isinstance(x, np.ndarray):
                        assert x.flags.c_contiguous
                        assert x.dtype == (np.int64 if x.dtype.kind in "iu" else np.float32)
                return getattr(numba_impl, name)(*args)

            return call

    monkeypatch.setattr(choose_impl, "MIN_SIZE", 0)
    monkeypatch.setattr(choose_impl, "_numba_impl", Checked)


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def compare(name, given_, *outs, numba_impl, tolerance=2e-6):
    """Both implementations on float32 must equal numpy_impl on float64."""
    wide = [x.astype(np.float64) if isinstance(x, np.ndarray) else x for x in given_]
    wide_outs = [x if x is None else x.astype(np.float64) for x in outs]
    with np.errstate(all="ignore"):
        getattr(numpy_impl, name)(*wide, *wide_outs)
        before = [x.copy() if isinstance(x, np.ndarray) else x for x in given_]
        getattr(numba_impl, name)(*given_, *outs)
    for x, old in zip(given_, before, strict=True):
        np.testing.assert_array_equal(x, old)  # what is only read stays as it was
    for out, expected in zip(outs, wide_outs, strict=True):
        if out is not None:
            size = max(1.0, np.abs(expected[np.isfinite(expected)]).max(initial=0))
            np.testing.assert_allclose(out, expected.astype(np.float32), rtol=tolerance, atol=tolerance * size)


# ----- step by step: as numpy_impl.py ---------------------------------------------------------------------------------


@given(N=SIDE, C=SIDE, V=st.integers(1, 5), seed=SEEDS)
def test_add_rows(numba_impl, N, C, V, seed):
    x, ids, out = normal(seed, N, C), np.random.default_rng(seed).integers(0, V, N), normal(seed + 1, V, C)
    wide, before = out.astype(np.float64), out.copy()
    numpy_impl.add_rows(x.astype(np.float64), ids, wide)
    np.testing.assert_allclose(wide, before + np.array([x[ids == v].sum(0, dtype=float) for v in range(V)]), rtol=1e-12)
    numba_impl.add_rows(x, ids, out)
    np.testing.assert_allclose(out, wide, rtol=1e-5, atol=1e-5)


@given(N=SIDE, C=SIDE.filter(bool), seed=SEEDS, with_weight=st.booleans(), with_bias=st.booleans())
def test_layer_norm(numba_impl, N, C, seed, with_weight, with_bias):
    x, weight, bias = normal(seed, N, C) + 3, normal(seed + 1, C), normal(seed + 2, C)
    outs = normal(0, N, C), normal(1, N, 1), normal(2, N, 1)
    given_ = [x, weight if with_weight else None, bias if with_bias else None, 0.1]
    compare("layer_norm", given_, *outs, tolerance=1e-5, numba_impl=numba_impl)


def test_layer_norm_does_not_cancel(numba_impl):
    x = np.array([[40000, 40001, 40002, 40003]], np.float32)
    out, mean, rstd = np.empty((1, 4), np.float32), *np.empty((2, 1, 1), np.float32)
    numba_impl.layer_norm(x, None, None, 1e-5, out, mean, rstd)
    np.testing.assert_allclose(out[0], np.array([-3, -1, 1, 3]) / math.sqrt(5), rtol=1e-5)
    assert mean[0, 0] == 40001.5
    x = normal(0, 1, 1000) + np.float32(1e4)
    out, mean, rstd = np.empty_like(x), *np.empty((2, 1, 1), np.float32)
    numba_impl.layer_norm(x, None, None, 1e-5, out, mean, rstd)
    wide = x.astype(np.float64)
    np.testing.assert_allclose(out, (wide - wide.mean()) / wide.std(), atol=0.03)


@given(N=SIDE, C=SIDE.filter(bool), seed=SEEDS, with_weight=st.booleans(), wanted=st.tuples(*[st.booleans()] * 3))
def test_layer_norm_vjp(numba_impl, N, C, seed, with_weight, wanted):
    g, x, weight = normal(seed, N, C), normal(seed + 1, N, C), normal(seed + 2, C)
    mean, rstd = normal(seed + 3, N, 1), np.abs(normal(seed + 4, N, 1)) + np.float32(0.1)
    outs = [
        out if want else None for out, want in zip((normal(0, N, C), normal(1, C), normal(2, C)), wanted, strict=True)
    ]
    given_ = [g, x, weight if with_weight else None, mean, rstd]
    compare("layer_norm_vjp", given_, *outs, tolerance=1e-5, numba_impl=numba_impl)


@given(seed=SEEDS, n=SIDE)
def test_gelu_and_its_vjp(numba_impl, seed, n):
    x = np.concatenate([4 * normal(seed, n), PALETTE.astype(np.float32)])
    y = np.empty_like(x)
    compare("gelu", [x], y, numba_impl=numba_impl)
    compare("gelu_vjp", [normal(seed + 1, len(x)), x, y], np.empty_like(x), tolerance=1e-5, numba_impl=numba_impl)


@st.composite
def scores(draw):
    """(how many keys the first position sees, scores): some of them -inf, inf and nan."""
    t, s, seed, extreme = draw(st.integers(1, 5)), draw(SIDE.filter(bool)), draw(SEEDS), draw(st.booleans())
    w = 9 * normal(seed, *draw(st.lists(st.integers(1, 3), max_size=2)), t, s)
    if extreme:
        rng = np.random.default_rng(seed)
        w[rng.random(w.shape) < 0.2] = rng.choice([-math.inf, 800, -800])
        w[..., rng.integers(t), :] = rng.choice([-math.inf, math.inf, math.nan])
    return draw(st.integers(1 - t, s)), w


@given(lead=st.tuples(st.integers(0, 3), st.integers(0, 3)), S=SIDE, D=SIDE, seed=SEEDS, layout=st.integers(0, 3))
def test_transpose(numba_impl, lead, S, D, seed, layout):
    """Of arrays in any memory layout, such as the heads of packed queries, keys and values."""
    x = [
        normal(seed, *lead, S, D), normal(seed, *lead, S, 3 * D)[..., D : 2 * D],
        normal(seed, lead[0], S, lead[1], D).swapaxes(1, 2), normal(seed, *lead, D, S).swapaxes(-1, -2),
    ][layout]  # fmt: skip
    before, out = x.copy(), np.empty((*lead, D, S), np.float32)
    numba_impl.transpose(x, out)
    np.testing.assert_array_equal(out, np.transpose(x, (0, 1, 3, 2)))
    np.testing.assert_array_equal(x, before)


@given(drawn=scores())
@example(drawn=(0, normal(0, 2, 3, 0)))
@example(drawn=(2, normal(0, 2, 0, 3)))
def test_softmax(numba_impl, drawn):
    seen, w = drawn
    compare("softmax", [seen], w, numba_impl=numba_impl)


@given(shape=st.lists(SIDE, min_size=2, max_size=3), seed=SEEDS)
def test_softmax_vjp(numba_impl, shape, seed):
    compare("softmax_vjp", [normal(seed, *shape)], normal(seed + 1, *shape), tolerance=1e-5, numba_impl=numba_impl)


@given(drawn=scores())
def test_exp_minus_max(numba_impl, drawn):
    w = drawn[1]
    rows = w.reshape(-1, max(1, w.shape[-1]))
    wide = rows.astype(np.float64)
    tops, totals = normal(0, 2, len(rows), 1)
    wide_tops, wide_totals = np.empty((2, len(rows), 1))
    with np.errstate(all="ignore"):
        numpy_impl.exp_minus_max(wide, wide_tops, wide_totals)
    numba_impl.exp_minus_max(rows, tops, totals)
    np.testing.assert_allclose(rows, wide, rtol=2e-6, atol=2e-6)
    np.testing.assert_allclose(totals, wide_totals, rtol=2e-6)
    tops[np.isnan(wide_totals)] = wide_tops[np.isnan(wide_totals)]  # where the sum is nan, nobody asks for the maximum
    np.testing.assert_array_equal(tops, wide_tops.astype(np.float32))


@few
@given(
    seed=SEEDS,
    n=SIDE,
    step=st.integers(1, 9),
    kind=st.sampled_from([optim.Adam, optim.AdamW]),
    decay=st.sampled_from([0.0, 0.5]),
)
def test_adam(numba_impl, seed, n, step, kind, decay):
    p, g, m = normal(seed, n), normal(seed + 1, n), normal(seed + 2, n)
    v, work = normal(seed + 3, n) ** 2, np.empty(n)
    options = {"lr": 0.1, "betas": (0.7, 0.9), "eps": 1e-3, "weight_decay": decay}
    update = storage.UPDATES[kind.update]
    wide = [x.astype(np.float64) for x in (p, g, m, v)]
    update(wide[0], wide[1], work, step, options, *wide[2:])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(choose_impl, "MIN_SIZE", 0)
        update(p, g, work, step, options, m, v)
    for got, expected in zip((p, m, v), (wide[0], wide[2], wide[3]), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_exp_is_right_to_the_last_bits(numba_impl):
    def errors(x):
        x = x.astype(np.float32)
        return np.array([numba_impl.exp(value) for value in x]) / np.exp(x.astype(np.float64)) - 1

    assert np.abs(errors(np.linspace(-87.3, 88.3, 20_001))).max() < 1.3e-7  # one unit in the last place
    for r in (-0.345, -0.2, 0.2, 0.345):  # where the polynomial is used: its own error, apart from rounding
        assert abs(errors(np.arange(-99, 100) * math.log(2) + r).mean()) < 8e-9

    def value(x):
        return float(numba_impl.exp(np.float32(x)))

    assert [value(x) for x in (-math.inf, -200, -104, -88.1)] == [0] * 4
    assert [value(x) for x in (88.4, 89, 89.5, 1e30, math.inf)] == [math.inf] * 5
    assert value(0) == 1
    assert math.isnan(value(math.nan))


# ----- the ops, with numba_impl from the first element ------------------------------------------------------------


@pytest.mark.parametrize("row", FUSED, ids=str)
def test_a_fused_op_in_float32_is_its_formula(row, always):
    @few
    @given(data=st.data(), seed=SEEDS)
    def check(data, seed):
        shapes, meta = data.draw(row.inputs)
        xs = [x.astype(np.float32) for x in data.draw(layouts(smooth(*shapes, **row.domain)))]
        meta32 = {
            name: v.astype(np.float32) if getattr(v, "dtype", None) == np.float64 else v for name, v in meta.items()
        }
        wide = [x.astype(np.float64) for x in xs]
        tensors = [tl.Tensor(x, requires_grad=True) for x in xs]
        out = row.op(*tensors, **meta32)
        np.testing.assert_allclose(out.data, row.value(*wide, **meta), rtol=1e-4, atol=1e-4)
        g = np.random.default_rng(seed).standard_normal(out.shape).astype(np.float32)
        g = np.repeat(g, 2, axis=-1)[..., ::2] if seed % 2 and g.ndim else g
        for gradient, expected in zip(
            tl.grad(out, tensors, g), row.gradient(g.astype(np.float64), *wide, **meta), strict=True
        ):
            assert (gradient.dtype, gradient.shape) == (np.float32, expected.shape)
            np.testing.assert_allclose(gradient.data, expected, rtol=1e-3, atol=1e-3)

    check()


# ----- when they come ---------------------------------------------------------------------------------------------


def test_it_is_chosen_for_large_contiguous_float32_arrays(numba_impl):
    large = np.zeros((2, choose_impl.MIN_SIZE), np.float32)
    for arrays, come in [
        ((large,), True), ((large[:1],), True), ((large, None, large), True), ((large, large[:1, :3]), True),
        ((large[:, :-1],), False), ((large[0, :-1],), False), ((large.astype(np.float64),), False),
        ((large.T,), False), ((large, large.T), False), ((large, None, large[:, ::2]), False),
    ]:  # fmt: skip
        assert choose_impl.choose_impl(*arrays) is (numba_impl if come else numpy_impl)
        assert choose_impl.numba_impl_for(*arrays) is (numba_impl if come else None)


class Elsewhere(np.ndarray):
    """An array that is not in main memory."""


def test_it_is_not_chosen_for_other_arrays(numba_impl):
    assert choose_impl.numba_impl_for(np.zeros(choose_impl.MIN_SIZE, np.float32).view(Elsewhere)) is None


def test_small_arrays_do_not_load_numba():
    lines = "import sys, tensorlite as tl", "tl.functional.gelu(tl.ones((9, 9)))", "assert 'numba' not in sys.modules"
    subprocess.run([sys.executable, "-c", "; ".join(lines)], check=True)


@pytest.fixture
def asked_anew():
    choose_impl.missing.cache_clear()
    yield
    choose_impl.missing.cache_clear()


def test_the_environment_keeps_them_out(monkeypatch, asked_anew):
    monkeypatch.setenv("TENSORLITE_NUMBA", "0")
    assert choose_impl.missing() == "TENSORLITE_NUMBA is 0: unset it"
    assert choose_impl.choose_impl(np.zeros(choose_impl.MIN_SIZE, np.float32)) is numpy_impl


@pytest.mark.parametrize(
    ("lacking", "error", "said"),
    [
        ("version", PackageNotFoundError("numba"), "numba is not installed: pip install numba"),
        (
            "_numba_impl",
            ImportError("Numba needs NumPy 2.0 or less"),
            "numba cannot be used: Numba needs NumPy 2.0 or less",
        ),
        ("_numba_impl", RuntimeError("no locator"), "numba cannot be used: no locator"),
        ("_numba_impl", OSError("no libllvmlite.so"), "numba cannot be used: no libllvmlite.so"),
    ],
)
def test_why_there_are_none(monkeypatch, asked_anew, lacking, error, said):
    def fail(*_):
        raise error

    monkeypatch.delenv("TENSORLITE_NUMBA", raising=False)
    monkeypatch.setattr(choose_impl, "version", lambda name: "1")
    monkeypatch.setattr(choose_impl, lacking, fail)
    assert choose_impl.missing() == said
    assert choose_impl.choose_impl(np.zeros(choose_impl.MIN_SIZE, np.float32)) is numpy_impl
