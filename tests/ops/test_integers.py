"""Integers and booleans beside NumPy, op by op and dtype by dtype; and what dtype comes out where dtypes meet.

docs/conventions.md says the same in words, with the table DIFFERENT.
"""

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from table_math import ELEMENTWISE, REDUCTIONS
from table_shapes import MOVES

import tensorlite as tl
from tensorlite import formulas as spec
from tensorlite import functional as F

few = settings(max_examples=max(5, settings().max_examples // 5))
DTYPES = [np.dtype(name) for name in ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool")]
LIKELY = [0, 1, 2, 3, -1, -2, -3, 7, 100, 127, -128, 200, 255]

# Where the result is not NumPy's, though it holds no floats: op -> (what NumPy gives, what ours is)
DIFFERENT = {
    "reciprocal": (lambda x: np.reciprocal(x), lambda x: 1 / x.astype(np.float64)),  # NumPy: 1 // x
}
# Rows whose formula needs floats or signs; `topk` is shown below, the others make floats of what they are given
LEFT_OUT = {"topk", "topk, places", "bitwise_and", "bitwise_or", "bitwise_xor", "invert", "astype", "reciprocal"}
NOT_OF_BOOLEANS = {
    "clip",
    "square",
    "sigmoid",
}  # the formula negates or squares them, which NumPy refuses or makes int8
rows = [row for row in [*ELEMENTWISE, *REDUCTIONS, *MOVES] if row.name not in LEFT_OUT]


def values_of(dtype):
    if dtype.kind == "b":
        return st.booleans()
    limits = np.iinfo(dtype)
    return st.sampled_from([v for v in LIKELY if limits.min <= v <= limits.max] + [int(limits.min), int(limits.max)])


VALUES = {dtype: [st.lists(values_of(dtype), min_size=n, max_size=n) for n in range(82)] for dtype in DTYPES}
MOST = 81  # drawn numbers: they are repeated in larger arrays


def outcome(f, *args, **options):
    """What f gives, or the kind of its error."""
    try:
        return np.asarray(f(*args, **options)), None
    except (TypeError, ValueError, OverflowError) as error:
        return None, TypeError if isinstance(error, TypeError) else ValueError


@pytest.mark.finding("B5")
@pytest.mark.parametrize("row", rows, ids=lambda row: row.name)
@few
@given(data=st.data(), dtype=st.sampled_from(DTYPES))
def test_integers_are_numpys_and_floats_made_of_them_are_float32(row, data, dtype):
    shapes, meta = data.draw(row.inputs)
    assume(dtype.kind != "b" or row.name not in NOT_OF_BOOLEANS)
    xs = [np.resize(np.array(data.draw(VALUES[dtype][min(math.prod(s), MOST)]), dtype), s) for s in shapes]
    expected, refused = outcome(row.value, *xs, **meta)
    got, error = outcome(lambda *xs: row.op(*map(tl.Tensor, xs), **meta).data, *xs)
    of_arrays, _ = outcome(row.op, *xs, **meta)
    assert error == refused
    if refused:
        return
    assert (of_arrays.dtype, of_arrays.tobytes()) == (got.dtype, got.tobytes())
    if expected.dtype.kind != "f":
        assert got.dtype == expected.dtype
        np.testing.assert_array_equal(got, expected)
        return
    assert got.dtype == np.float32
    assume(all(abs(int(v)) < 300 for x in xs for v in x.ravel()))  # above, the formula overflows sooner than the op
    exact = np.asarray(row.value(*[x.astype(np.float64) for x in xs], **meta))
    np.testing.assert_allclose(got, exact.astype(np.float32), rtol=3e-6, atol=1e-6)


@pytest.mark.finding("B5")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_what_differs_from_numpy_on_purpose(dtype):
    x = np.array([1, 2, 3], dtype) if dtype.kind != "b" else np.array([True, True])
    for name, (numpys, ours) in DIFFERENT.items():
        theirs, _ = outcome(numpys, x)
        got = getattr(tl, name)(tl.tensor(x))
        assert got.dtype == np.float32
        np.testing.assert_allclose(got.data, ours(x), rtol=1e-6)
        assert theirs is None or theirs.dtype != got.dtype


@pytest.mark.finding("B5")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_small_integers_do_not_wrap_where_more_are_taken_together(dtype):
    top = 1 if dtype.kind == "b" else 100
    x, exact = tl.tensor(np.full(5, top, dtype)), np.full(5, float(top))
    wide = {"b": np.int64, "i": np.int64, "u": np.uint64}[dtype.kind]
    for f, expected in (
        (tl.sum, exact.sum()),
        (tl.prod, exact.prod()),
        (tl.cumsum, exact.cumsum()),
        (tl.cumprod, exact.cumprod()),
    ):
        assert f(x).dtype == wide
        np.testing.assert_array_equal(f(x).data, expected)
    for f, expected in (
        (tl.norm, math.sqrt(5) * top), (tl.mean, top), (tl.var, 0), (tl.std, 0), (tl.logsumexp, top + math.log(5)),
        (F.softmax, 0.2), (F.log_softmax, -math.log(5)), (spec.softmax, 0.2), (tl.sigmoid, 1 / (1 + math.exp(-top))),
        (lambda x: F.mse_loss(x, x * 0), top**2), (F.gelu, spec.gelu(tl.tensor(exact)).data),
        (F.silu, spec.silu(tl.tensor(exact)).data),
        (F.layer_norm, 0), (F.rms_norm, 1), (lambda x: F.cross_entropy(x, np.array(1)), math.log(5)),
    ):  # fmt: skip
        assert f(x).dtype == np.float32
        np.testing.assert_allclose(f(x).data, np.broadcast_to(expected, f(x).shape), rtol=1e-5, atol=1e-6)
    two = tl.tensor(np.array([1, top], dtype))
    assert F.softmax(two).data.sum() == pytest.approx(1)
    if dtype.itemsize > 1:
        half = np.iinfo(dtype).max // 2 + 1  # half - 0 fits into the dtype, -half - half does not
        far = tl.tensor(np.array([0, half] if dtype.kind == "u" else [-half, half], dtype))
        assert tl.logsumexp(far).item() == pytest.approx(half)
        np.testing.assert_array_equal(F.softmax(far).data, [0, 1])
        np.testing.assert_array_equal(tl.sigmoid(far).data, [0.5 if dtype.kind == "u" else 0, 1])
    if dtype.kind == "i":
        low = tl.tensor(np.array([-100, 100], dtype))  # 200 apart: more than int8 holds
        np.testing.assert_allclose(F.softmax(low).data, [0, 1], atol=1e-30)
        assert (tl.logsumexp(low).item(), tl.norm(low).item()) == pytest.approx((100, math.sqrt(20000)))


@pytest.mark.finding("B5")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_number_to_the_power_of_integers(dtype):
    x = np.arange(2 if dtype.kind == "b" else 4).astype(dtype)
    for base in (0.5, 2.0, 2, 3):
        expected = base ** x.astype(np.float64)
        got = base ** tl.tensor(x)
        np.testing.assert_array_equal(got.data, expected)
        assert got.dtype == (np.float32 if isinstance(base, float) else (base**x).dtype)
    assert (0.5 ** tl.arange(4)).tolist() == [1, 0.5, 0.25, 0.125]


@pytest.mark.finding("B5")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_topk_of_integers(dtype):
    x = np.array([1, 0, 1] if dtype.kind == "b" else [3, 100, 7], dtype)
    found, places = tl.topk(tl.tensor(x), 2)
    assert (found.dtype, places.tolist()) == (dtype, [0, 2] if dtype.kind == "b" else [1, 2])
    np.testing.assert_array_equal(found.data, x[places.data])


@pytest.mark.finding("B8")
@given(data=st.data(), dtype=st.sampled_from(DTYPES))
def test_logical_operators_are_bitwise_on_integers(data, dtype):
    a, b = (np.array(data.draw(VALUES[dtype][3]), dtype) for _ in range(2))
    x, y = tl.tensor(a), tl.tensor(b)
    number = bool(b[0]) if dtype.kind == "b" else int(b[0])
    for got, expected in [
        (x & y, a & b), (x | y, a | b), (x ^ y, a ^ b), (~x, ~a), (a & y, a & b), (a | y, a | b), (a ^ y, a ^ b),
        (x & number, a & number), (x | number, a | number), (number ^ x, number ^ a),
        (tl.bitwise_and(x, b), a & b), (tl.bitwise_or(x, b), a | b), (tl.bitwise_xor(x, b), a ^ b), (tl.invert(x), ~a),
    ]:  # fmt: skip
        assert got.dtype == expected.dtype
        np.testing.assert_array_equal(got.data, expected)
    assert [(x & y).dtype, tl.logical_and(x, y).dtype] == [dtype, bool]
    for f in (lambda: tl.ones(2) & 1, lambda: ~tl.ones(2), lambda: tl.ones(2) | tl.ones(2)):
        with pytest.raises(TypeError, match="not defined for these dtypes: cast first"):
            f()


@pytest.mark.finding("B8")
@pytest.mark.parametrize("dtype", DTYPES[:-1], ids=str)
def test_clip_keeps_integers(dtype):
    a = np.array([0, 1, 5, 100], dtype)
    x = tl.tensor(a)
    for low, high in (
        (1, None),
        (None, 5),
        (1, 5),
        (None, None),
        (a[::-1].copy(), None),
        (None, tl.tensor(a)),
        (a - a, a),
    ):
        got = tl.clip(x, low, high)
        assert got.dtype == dtype
        numpys = [v.data if isinstance(v, tl.Tensor) else v for v in (low, high)]
        np.testing.assert_array_equal(got.data, np.clip(a, *numpys))
    assert tl.clip(x, 0.5).dtype == np.float32


@pytest.mark.finding("B8")
def test_clip_by_tensors_gives_each_its_gradient():
    x = tl.tensor([-2.0, 0.0, 1.0, 3.0, 0.5], requires_grad=True)
    low, high = tl.tensor([-1.0], requires_grad=True), tl.tensor([1.0, 0.0, 1.0, 2.0, -3.0], requires_grad=True)
    y = x.clip(low, high)
    assert y.tolist() == [-1, 0, 1, 2, -3]  # where the limits cross, it is the upper one
    by_x, by_low, by_high = tl.grad(y, [x, low, high], np.array([1, 2, 4, 8, 16], np.float32))
    assert (by_x.tolist(), by_low.tolist(), by_high.tolist()) == ([0, 2, 4, 0, 0], [1], [0, 0, 0, 8, 16])


# ----- where dtypes meet ------------------------------------------------------------------------------------------


@pytest.mark.finding("C8")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_integers_and_numbers_leave_float32_what_it_is(dtype):
    f, n = tl.tensor([1.5, 2.5], requires_grad=True), tl.tensor(np.array([1, 1], dtype))
    for y in (
        f * n, n * f, f + n, n - f, f / n, n / f, f**n, n**f, tl.maximum(f, n), tl.where(n > 0, f, n),
        tl.concatenate([f, n]), f @ n, tl.einsum("i,j->ij", f, n), tl.clip(f, n), f * n.data, n.data * f,
    ):  # fmt: skip
        assert y.dtype == np.float32
        assert tl.grad(y.sum(), f).dtype == np.float32
    for y in (
        n / n,
        n / 4,
        4 / n,
        n * 0.5,
        n + 1.5,
        tl.exp(n),
        tl.sqrt(n),
        tl.mean(n),
        tl.erf(n),
        n**0.5,
        tl.sin(n),
        tl.log1p(n),
    ):
        assert y.dtype == np.float32


@pytest.mark.finding("C8")
def test_float64_comes_from_float64_arrays_alone():
    f = tl.tensor([1.0, 2.0], requires_grad=True)
    for y in (
        f / np.sqrt(64), np.sqrt(64) * f, f * np.float64(2), f + np.int64(3), f ** np.float64(2),
        tl.maximum(f, np.float64(0)), tl.where(np.array([True, False]), f, np.float64(0)), tl.arange(4) / 4,
        tl.arange(4) / np.float64(4), tl.where(tl.tensor([True]), 1.0, 0.0), tl.clip(f, np.float64(0), np.float64(9)),
    ):  # fmt: skip
        assert y.dtype == np.float32
    for y in (f - [0.5, 1.0], f * [0.5, 1.0], tl.maximum(f, [3.0, 0.0])):  # a list is what tensor() makes of it
        assert y.dtype == tl.grad(y.sum(), f).dtype == np.float32
    np.testing.assert_array_equal((f / np.sqrt(64)).data, [0.125, 0.25])
    y = f * np.sqrt(64)
    assert tl.grad(y.sum(), f).tolist() == [8, 8]
    for wide in (np.ones(2), np.array(1.0), tl.tensor(1.0, dtype=np.float64)):  # a shape does not decide a dtype
        y = f * wide
        assert y.dtype == np.float64
        assert tl.grad(y.sum(), f).dtype == np.float32
    assert (tl.tensor([1.0], dtype=np.float64) / np.float32(2)).dtype == np.float64
    assert (tl.tensor([1.0], dtype=np.float64) * tl.arange(1)).dtype == np.float64


@pytest.mark.finding("C8")
def test_comparisons_of_integers_with_floats_are_exact():
    """They make no floats, so nothing is rounded."""
    large = 2**24 + 1
    assert (tl.tensor([large]) == tl.tensor([2.0**24])).tolist() == [False]
    assert (tl.tensor([float(2**24)]) < tl.tensor([large])).tolist() == [True]
    assert (tl.tensor([2**53 + 1]) == tl.tensor(np.array([2**53 + 1], np.uint64))).tolist() == [True]


@pytest.mark.finding("C8")
def test_a_second_derivative_beside_integers():
    x, n = tl.tensor([2.0, 3.0], requires_grad=True), tl.arange(2, 4)
    slope = tl.grad((x**n * n).sum(), x, create_graph=True)
    assert slope.tolist() == [8, 81]
    assert tl.grad(slope.sum(), x).tolist() == [4, 54]
