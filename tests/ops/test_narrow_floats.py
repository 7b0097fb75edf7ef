"""float16 and bfloat16: computed in float32 and rounded once, whatever the number of elements and the device."""

import ml_dtypes
import numpy as np
import pytest

import tensorlite as tl
from tensorlite import backend
from tensorlite import formulas as spec
from tensorlite import functional as F
from tensorlite.testing.properties import incoming
from tensorlite.testing.strict import strict

BF16, F16 = np.dtype(ml_dtypes.bfloat16), np.dtype(np.float16)
both = pytest.mark.parametrize("dtype", [BF16, F16], ids=str)
N = 4096
ONE_ROW = np.zeros(N, int)
ROWS, GROUPS = np.arange(N) % 7, np.arange(N) % 5
CASES = {  # name: (function, shapes of its arguments): each adds up thousands of numbers, in its value or its gradient
    "sum": (lambda x: x.sum(), [N]),
    "sum of rows": (lambda x: x.sum(axis=0), [(N, 3)]),
    "mean": (lambda x: x.mean(), [N]),
    "var": (lambda x: x.var(), [N]),
    "std": (lambda x: x.std(axis=1), [(3, N)]),
    "norm": (lambda x: x.norm(), [N]),
    "prod": (lambda x: x.prod(), [N]),
    "cumsum": (lambda x: x.cumsum(), [N]),
    "cumprod": (lambda x: x.cumprod(), [600]),
    "logsumexp": (lambda x: x.logsumexp(), [N]),
    "softmax": (F.softmax, [1000]),
    "log_softmax": (F.log_softmax, [1000]),
    "dot product": (lambda x, y: x @ y, [N, N]),
    "matrix product": (tl.matmul, [(3, N), (N, 2)]),
    "gradient of a matrix": (tl.matmul, [(N, 3), (3, 2)]),
    "einsum": (lambda x, y: tl.einsum("ij,kj->ik", x, y), [(3, N), (2, N)]),
    "einsum, summed label": (lambda x, y: tl.einsum("ij,k->k", x, y), [(3, N), 2]),
    "bias": (lambda x, b: x + b, [(N, 2), 2]),
    "factor": (lambda x, a: x * a, [(N, 2), ()]),
    "broadcast_to": (lambda x: x.broadcast_to(N, 2), [2]),
    "linear": (F.linear, [(N, 3), (2, 3), 2]),
    "projections": (F.projections, [(N, 3), *[(2, 3)] * 3, *[2] * 3]),
    "embedding": (lambda w: F.embedding(w, ROWS), [(7, 2)]),
    "one row N times": (lambda x: x[ONE_ROW], [(1, 2)]),
    "indices that repeat": (lambda x: x[ROWS, GROUPS], [(7, 5)]),
    "take_along_axis": (lambda x: tl.take_along_axis(x, ROWS[None], 1), [(1, 7)]),
    "scatter_add": (lambda x: tl.scatter_add(x, (ROWS,), (7,)), [N]),
    "layer_norm": (lambda x, w, b: F.layer_norm(x, w, b), [(2, 768), 768, 768]),
    "layer_norm of rows": (lambda x, w, b: F.layer_norm(x, w, b), [(N, 3), 3, 3]),
    "rms_norm": (F.rms_norm, [(2, 768), 768]),
    "attention": (F.scaled_dot_product_attention, [(2, 4), (N, 4), (N, 3)]),
    "attention of many": (F.scaled_dot_product_attention, [(300, 4), (5, 4), (5, 3)]),
    "causal attention": (lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True), [(300, 4)] * 3),
    "heads": (lambda x: F.multi_head_attention(x, 2), [(1, 300, 12)]),
    "cross_entropy of classes": (lambda x: F.cross_entropy(x, np.array([3, 2000])), [(2, 2048)]),
    "cross_entropy of rows": (lambda x: F.cross_entropy(x, GROUPS), [(N, 5)]),
    "cross_entropy, none": (lambda x: F.cross_entropy(x, GROUPS[:300], reduction="none"), [(300, 5)]),
    "cross_entropy, weighted": (lambda x, w: F.cross_entropy(x, GROUPS, weight=w, label_smoothing=0.1), [(N, 5), 5]),
    "cross_entropy, probabilities": (lambda x, p: F.cross_entropy(x, p), [(2, 2048), (2, 2048)]),
    "linear_cross_entropy": (lambda x, w: F.linear_cross_entropy(x, w, GROUPS), [(N, 3), (5, 3)]),
    "mse_loss": (F.mse_loss, [(N, 2), (N, 2)]),
    "repeat": (lambda x: x.repeat(N), [2]),
    "pad and roll": (lambda x: tl.roll(tl.pad(x, 1), 3).sum(), [N]),
}  # fmt: skip


def arrays(name, dtype, seed=0):
    """All positive, so that sums grow; factors near 1, so that products stay."""
    rng = np.random.default_rng(seed)
    factors = name in ("prod", "cumprod")
    return [(0.98 + rng.random(shape) / 25 if factors else rng.random(shape)).astype(dtype) for shape in CASES[name][1]]


def derivatives(f, arrays, device="cpu", seed=1):
    """The value of f and the gradients by its arguments, on the host."""
    xs = [tl.Tensor(backend.to_device(x, device), requires_grad=True) for x in arrays]
    out = f(*xs)
    g = np.asarray(abs(incoming(out.shape, seed)), out.dtype)
    found = [out, *tl.grad(out, xs, backend.to_device(g, device))]
    return [backend.to_host(x.data) for x in found]


def assert_within_epsilons(got, exact, epsilons):
    """`got` is within so many epsilons of its dtype, and what float32 loses beside the largest element."""
    limits = ml_dtypes.finfo(got.dtype)
    there = np.abs(exact) < float(limits.max)
    got, exact = got.astype(np.float64)[there], np.broadcast_to(exact, got.shape)[there]
    error = np.abs(got - exact)
    bound = 1.001 * epsilons * float(limits.eps) * np.abs(exact) + 1e-5 * (1 + np.abs(exact).max(initial=0))
    assert (error <= bound).all(), f"{error.max()}: {(error / float(limits.eps) / np.abs(exact)).max()} epsilons"


@pytest.mark.finding("B4")
@both
@pytest.mark.parametrize("name", CASES)
def test_thousands_of_numbers_add_up_to_one_rounding(name, dtype):
    f, xs = CASES[name][0], arrays(name, dtype)
    narrow, wide = derivatives(f, xs), derivatives(f, [x.astype(np.float64) for x in xs])
    for got, exact in zip(narrow, wide, strict=True):
        assert got.dtype == dtype
        assert_within_epsilons(got, exact, 0.5)


@pytest.mark.finding("B4")
@both
@pytest.mark.parametrize("name", ["sum", "softmax", "matrix product", "bias", "scatter_add", "indices that repeat"])
def test_another_device_keeps_the_same_digits(name, dtype, monkeypatch):
    monkeypatch.setitem(backend.DEVICES, "strict", lambda: strict)
    f, xs = CASES[name][0], arrays(name, dtype)
    if name == "indices that repeat":
        places = strict.asarray(ROWS), strict.asarray(GROUPS)
        f = lambda x: x[places]  # noqa: E731
    if name == "scatter_add":
        places = (strict.asarray(ROWS),)
        f = lambda x: tl.scatter_add(x, places, (7,))  # noqa: E731
    for there, here in zip(derivatives(f, xs, "strict"), derivatives(CASES[name][0], xs), strict=True):
        np.testing.assert_array_equal(there, here)


@pytest.mark.finding("B4")
@pytest.mark.parametrize("layers", [F, spec], ids=["fused", "specification"])
def test_values_that_narrow_sums_missed(layers):
    ones = tl.ones(N, dtype=BF16)
    assert (ones.sum().item(), ones.mean().item()) == (4096, 1)
    assert layers.softmax(tl.zeros(1000, dtype=BF16)).astype(np.float32).sum().item() == pytest.approx(1, rel=2**-8)
    assert layers.cross_entropy(tl.zeros((2, 2048), dtype=BF16), np.array([0, 1])).item() == 7.625  # log(2048), rounded
    x = tl.tensor(np.random.default_rng(0).standard_normal(768), dtype=BF16)
    assert layers.layer_norm(x).astype(np.float64).std().item() == pytest.approx(1, rel=1e-3)
    assert tl.tensor([300.0, 400.0], dtype=F16).norm().item() == 500  # whose squares are more than float16 holds
    assert tl.full((N,), 100.0, dtype=F16).mean().item() == 100  # so is the sum
    assert tl.full((N,), 1000.0, dtype=F16).var().item() == 0


@pytest.mark.finding("B4")
@both
def test_numbers_do_not_widen(dtype):
    x = tl.tensor([0.5, 1.0, 2.0], dtype=dtype, requires_grad=True)
    positive = x > 0
    for y in (
        x * 0.5, 0.5 * x, x + 1, 1 + x, x - 0.1, 0.1 - x, x / 3, 3 / x, x**2, x**0.5, 2**x, 0.5**x, -x, abs(x),
        tl.maximum(x, 0), tl.maximum(0.7, x), tl.minimum(x, 0.7), tl.where(positive, x, 0), tl.where(positive, 0.7, x),
        x.clip(0.7), x.clip(None, 1.5), x.clip(0.7, 1.5), x.masked_fill(positive, 0.1), tl.pad(x, 1, 0.1),
        x * np.float64(0.5), np.float32(0.5) * x, x + np.int64(1), x * True, x * tl.arange(3), x * positive,
    ):  # fmt: skip
        assert y.dtype == dtype
        assert tl.grad(y.sum(), x, retain_graph=True).dtype == dtype
    np.testing.assert_array_equal((x * 0.1).data, (x.data.astype(np.float64) * 0.1).astype(dtype))
    tenth = tl.tensor([0.1], dtype=dtype)  # which is not 0.1, but what 0.1 becomes in this dtype
    assert [(tenth == 0.1).item(), (tenth <= 0.1).item(), (tenth != 0.1).item()] == [True, True, False]


@pytest.mark.finding("B4")
def test_two_dtypes_meet_in_the_wider_one():
    x, h, f, d = (tl.ones(2, dtype=dtype, requires_grad=True) for dtype in (BF16, F16, np.float32, np.float64))
    for op in (tl.add, tl.mul, tl.div, tl.maximum, tl.matmul, tl.pow, F.mse_loss, lambda a, b: tl.concatenate([a, b])):
        for a, b, expected in ((x, h, "float32"), (x, f, "float32"), (h, f, "float32"), (x, d, "float64")):
            for y, first, second in ((op(a, b), a, b), (op(b, a), b, a)):
                assert y.dtype == expected
                assert [p.dtype for p in tl.grad(y.sum(), [first, second])] == [first.dtype, second.dtype]


@pytest.mark.finding("B4")
@both
@pytest.mark.parametrize(
    "name", ["sqrt", "rsqrt", "erf", "exp", "tanh", "sigmoid", "log", "square", "reciprocal", "sin"]
)
def test_derivatives_of_second_order_are_as_exact(name, dtype):
    def second(x):
        x = tl.tensor(x, requires_grad=True)
        slope = tl.grad(getattr(tl, name)(x).sum(), x, create_graph=True)
        return tl.grad(slope.sum(), x).data

    x = np.linspace(0.3, 2.0, 50).astype(dtype)
    got = second(x)
    assert got.dtype == dtype
    assert_within_epsilons(got, second(x.astype(np.float64)), 0.5 if name not in ("rsqrt", "erf") else 1.0)


@both
def test_each_further_use_of_a_tensor_rounds_its_gradient_once_more(dtype):
    """What is added up in float32 is one op; the gradients of several ops meet in the Tensor's own dtype."""
    uses = 9
    weights = np.random.default_rng(0).random((uses, 40)).astype(dtype)
    x = tl.tensor(np.ones(40), dtype=dtype, requires_grad=True)
    sum((x * w).sum() for w in weights).backward()
    exact = weights.astype(np.float64).sum(0)
    assert_within_epsilons(x.grad.data, exact, 0.5 * (uses - 1))
    stacked = tl.tensor(np.ones(40), dtype=dtype, requires_grad=True)
    (stacked * weights).sum().backward()  # as one op: one rounding
    assert_within_epsilons(stacked.grad.data, exact, 0.5)
