"""The kernels of the losses and of embeddings, run on the CPU, against the specification in float64."""

import numpy as np
import pytest
from emulator import emulated  # noqa: F401
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from special_logits import SPECIAL

import tensorlite.formulas as spec
from tensorlite.accelerate.dispatch import KernelOp
from tensorlite.autograd import grad
from tensorlite.backend import bfloat16
from tensorlite.kernels import precision
from tensorlite.kernels.cuda import embedding, launch, losses
from tensorlite.tensor import Tensor

pytestmark = pytest.mark.usefixtures("emulated")
FEW = settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
BF16 = bfloat16()
EPS = {np.dtype(np.float32): 2e-6, BF16: 2**-8}


def close(got, expected, eps):
    got, expected = np.asarray(got, np.float64), np.asarray(expected, np.float64)
    size = np.abs(expected[np.isfinite(expected)]).max(initial=1e-30)
    np.testing.assert_allclose(got, expected, rtol=4 * eps, atol=eps * size)


def in_float64(function, *xs, g=1.0, **meta):
    """The specification's result and gradients (None for integers)."""
    xs = [Tensor(x.astype(np.float64), requires_grad=True) if x.dtype.kind not in "iu" else Tensor(x) for x in xs]
    out = function(*xs, **meta)
    out.backward(Tensor(np.asarray(np.broadcast_to(g, out.shape), np.float64)))
    return out.data, [None if x.grad is None else x.grad.data for x in xs]


def some_targets(rng, N, V, ignored=0.3):
    return np.where(rng.random(N) < ignored, -100, rng.integers(0, V, N))


# ----- cross_entropy ----------------------------------------------------------------------------------------------


@FEW
@given(
    shape=st.sampled_from([(5, 65), (3, 4, 64), (2, 1000), (1, 5), (4, 1), (0, 7), (2, 8197), (3, 72)]),
    dtype=st.sampled_from([np.dtype(np.float32), BF16]),
    index=st.sampled_from(["int32", "int64", "uint16"]),
    reduction=st.sampled_from(["mean", "sum"]),
    ignored=st.sampled_from([0.0, 0.3]),
    size=st.sampled_from([1.0, 30.0, 3000.0]),
    seed=st.integers(0, 2**32 - 1),
)
def test_cross_entropy(shape, dtype, index, reduction, ignored, size, seed):
    rng = np.random.default_rng(seed)
    logits = (size * rng.standard_normal(shape)).astype(dtype)
    logits[rng.random(shape) < 0.1] = -np.inf
    logits[..., -1] = logits[..., 0] = 1.5 * size  # a tie, often of the largest
    ignore = -100 if index != "uint16" else 3
    targets = np.where(rng.random(shape[:-1]) < ignored, ignore, rng.integers(0, shape[-1], shape[:-1])).astype(index)
    assert losses.supports_cross_entropy(logits, targets)
    meta = {"ignore_index": ignore, "reduction": reduction}
    loss, kept = losses.cross_entropy(logits, targets, **meta)
    g = np.float32(rng.standard_normal())
    grad, none = losses.cross_entropy_vjp(np.array(g), [True, False], logits, ignore, **kept)
    expected, (dlogits, _) = in_float64(spec.cross_entropy, logits, targets, g=g, **meta)
    assert loss.shape == ()
    assert loss.dtype == np.float32
    assert none is None
    assert grad.dtype == dtype
    assert grad.shape == shape
    np.testing.assert_allclose(loss, expected, rtol=8e-6, atol=1e-7)  # a difference of logits
    close(grad, dlogits, EPS[dtype])


def test_all_ignored_or_no_rows_at_all():
    logits = np.ones((3, 9), np.float32)
    for rows in (3, 0):
        targets = np.full(rows, -100)
        loss, kept = losses.cross_entropy(logits[:rows], targets)
        assert np.isnan(loss)
        grad, _ = losses.cross_entropy_vjp(np.array(1, np.float32), [True, False], logits[:rows], -100, **kept)
        assert (grad == 0).all()
        assert grad.shape == (rows, 9)
        loss, _ = losses.cross_entropy(logits[:rows], targets, reduction="sum")
        assert loss == 0


@pytest.mark.parametrize("special", [np.inf, np.nan, -np.inf])
def test_what_is_not_finite(special):
    rng = np.random.default_rng(1)
    for column in (slice(3, 4), slice(None)):  # one logit of a row, and all
        for dtype in (np.float32, BF16):
            logits = rng.standard_normal((4, 40)).astype(dtype)
            logits[2, column] = special
            targets = np.array([1, -100, 3, 39])
            losses_of = losses.cross_entropy(logits, targets)[0]
            with np.errstate(all="ignore"):
                expected, _ = in_float64(spec.cross_entropy, logits, targets)
            np.testing.assert_allclose(losses_of, expected, rtol=1e-5)
            targets[2] = -100  # ignored, it does not matter
            assert np.isfinite(losses.cross_entropy(logits, targets)[0])


@pytest.mark.finding("B10")
@pytest.mark.parametrize(("dtype", "rtol"), [(np.float32, 1e-5), (BF16, 1e-2)])
def test_infinite_logits_give_the_loss_and_the_gradient_of_every_other_path(dtype, rtol):
    one = np.ones((1, 1), dtype)
    for row, target, expected, gradient in SPECIAL:
        logits, targets = np.array([row], dtype), np.array([target])
        loss, kept = losses.cross_entropy(logits, targets)
        grad, _ = losses.cross_entropy_vjp(np.array(1, np.float32), [True, False], logits, -100, **kept)
        by_head, kept = losses.linear_cross_entropy(one, logits.T.astype(np.float32), targets)
        for got in (loss, by_head):
            np.testing.assert_allclose(got, expected, rtol=1e-5)
        for got in (grad, kept["dlogits"][:, :3]):
            np.testing.assert_allclose(got.astype(np.float64), [gradient], rtol=rtol, atol=1e-6)


@pytest.mark.parametrize("wrong", [-1, 40, 2**31, -(2**40)])
def test_a_target_that_is_no_class_gives_nan(wrong, monkeypatch):
    monkeypatch.setattr(losses, "check_cross_entropy", lambda *_, **__: None)  # which looks at values on a CPU only
    rng = np.random.default_rng(2)
    logits, targets = rng.standard_normal((3, 40)).astype(np.float32), np.array([0, wrong, 5])
    loss, kept = losses.cross_entropy(logits, targets)
    grad, _ = losses.cross_entropy_vjp(np.array(1, np.float32), [True, False], logits, -100, **kept)
    assert np.isnan(loss)
    assert np.isnan(grad[1]).all()
    assert np.isfinite(grad[[0, 2]]).all()
    weight = rng.standard_normal((40, 40)).astype(np.float32)
    loss, kept = losses.linear_cross_entropy(logits, weight, targets)
    assert np.isnan(loss)
    assert np.isnan(kept["dlogits"][1]).all()


def test_what_is_left_to_the_specification():
    x, t = np.ones((2, 4), np.float32), np.zeros(2, int)
    assert losses.supports_cross_entropy(x, t)
    assert not losses.supports_cross_entropy(x.astype(np.float64), t)
    assert not losses.supports_cross_entropy(x, x)
    assert not losses.supports_cross_entropy(x, t, label_smoothing=0.1)
    assert not losses.supports_cross_entropy(x, t, weight=np.ones(4))
    assert not losses.supports_cross_entropy(x, t, reduction="none")
    assert not losses.supports_cross_entropy(x[:, :0], t)
    assert losses.supports_linear_cross_entropy(x, x, t)
    assert losses.supports_linear_cross_entropy(x, np.ones((50_257, 4), np.float32), t)
    assert not losses.supports_linear_cross_entropy(x, x.astype(np.float64), t)
    assert not losses.supports_linear_cross_entropy(x, x, t, reduction="none")
    assert not losses.supports_linear_cross_entropy(x, x[None], t)


# ----- linear_cross_entropy ---------------------------------------------------------------------------------------


@FEW
@given(
    lead=st.sampled_from([(5,), (2, 3), (0,), (130,)]),
    V=st.sampled_from([1, 8, 65, 72, 128, 515]),
    C=st.sampled_from([1, 6, 8, 33]),
    arithmetic=st.sampled_from(["float32", "bfloat16", "bfloat16 products"]),
    reduction=st.sampled_from(["mean", "sum"]),
    seed=st.integers(0, 2**32 - 1),
)
def test_linear_cross_entropy(lead, V, C, arithmetic, reduction, seed):
    rng = np.random.default_rng(seed)
    dtype = BF16 if arithmetic == "bfloat16" else np.dtype(np.float32)
    x = rng.standard_normal((*lead, C)).astype(dtype)
    weight = rng.standard_normal((V, C)).astype(np.float32)
    targets = some_targets(rng, lead, V)
    g, was = np.array(rng.standard_normal(), np.float32), precision._dtype
    precision._dtype = "float32" if arithmetic == "float32" else "bfloat16"
    try:
        loss, kept = losses.linear_cross_entropy(x, weight, targets, reduction=reduction)
        dx, dweight, none = losses.linear_cross_entropy_vjp(g, [True, True, False], x, weight, **kept)
        twice, _, _ = losses.linear_cross_entropy_vjp(g, [True, False, False], x, weight, **kept)
    finally:
        precision._dtype = was
    exact = arithmetic == "float32"
    x64, w64 = (x, weight) if exact else (x.astype(BF16), weight.astype(BF16))
    expected, (dx64, dw64, _) = in_float64(spec.linear_cross_entropy, x64, w64, targets, g=g, reduction=reduction)
    assert loss.dtype == dweight.dtype == np.float32
    assert dx.dtype == dtype
    assert none is None
    assert dx.shape == x.shape
    assert dweight.shape == weight.shape
    close(loss, expected, 5e-6 if exact else 0.02)
    close(dx, dx64, 1e-5 if exact else 0.03)
    close(dweight, dw64, 1e-5 if exact else 0.02)
    assert dx.tobytes() == twice.tobytes()  # the first backward pass has used nothing up
    padded = kept["dlogits"].shape[1]
    assert padded >= V
    assert padded % 8 == 0
    assert (kept["dlogits"][:, V:] == 0).all()


def test_the_gradient_of_logits_is_rounded_once():
    rng = np.random.default_rng(3)
    x, weight = rng.standard_normal((6, 16)).astype(BF16), rng.standard_normal((70, 16)).astype(np.float32)
    targets = np.array([1, 2, 69, -100, 0, 7])
    _, kept = losses.linear_cross_entropy(x, weight, targets)
    logits = (x.astype(np.float32) @ weight.astype(BF16).astype(np.float32).T).astype(BF16)
    _, (expected, _) = in_float64(spec.cross_entropy, logits, targets)
    np.testing.assert_allclose(kept["dlogits"][:, :70].astype(np.float64), expected, rtol=2**-8, atol=1e-7)


@pytest.mark.parametrize("dtype", [np.dtype(np.float32), BF16])
def test_columns_that_are_no_classes_are_not_read_and_get_zeros(dtype):
    rng = np.random.default_rng(4)
    logits, targets = rng.standard_normal((3, 128)).astype(dtype), np.array([0, -100, 69])
    plain = logits[:, :70].copy()
    logits[:, 70:] = np.nan
    for n in (1, 16 // dtype.itemsize):
        out, each = logits.copy(), np.empty(3, np.float32)
        kernel = f"cross_entropy_in_place<{launch.ctype(out)}, long long, {n}>"
        launch.launch("losses.cu", kernel, 3, 32, out, targets, each, None, 70, 128, -100)
        loss, (expected, _) = in_float64(spec.cross_entropy, plain, targets, reduction="sum")
        close(each.sum(), loss, 2e-6)
        close(out[:, :70], expected, EPS[dtype])
        assert (out[:, 70:] == 0).all()
        assert (out[1] == 0).all()


# ----- in the engine ----------------------------------------------------------------------------------------------


def test_the_engine_can_call_them():
    """The rules ask by name for what they need: functional.py joins them so."""
    rng = np.random.default_rng(6)
    table, idx = rng.standard_normal((9, 8)).astype(np.float32), rng.integers(0, 9, (2, 5))
    targets = some_targets(rng, (2, 5), 9)
    look_up = KernelOp(embedding.embedding, spec.embedding, supports=embedding.supports_embedding).vjp(
        embedding.embedding_vjp
    )
    residuals = ("classes", "tops", "totals", "count")
    plain = KernelOp(
        losses.cross_entropy, spec.cross_entropy, supports=losses.supports_cross_entropy, residuals=residuals
    ).vjp(losses.cross_entropy_vjp)
    residuals = ("dlogits", "features", "head")
    whole = KernelOp(
        losses.linear_cross_entropy,
        spec.linear_cross_entropy,
        supports=losses.supports_linear_cross_entropy,
        residuals=residuals,
    ).vjp(losses.linear_cross_entropy_vjp)

    def tied(embed, loss_of_features, w):
        return loss_of_features(embed(w, idx), w, targets)

    def in_two(x, w, t):
        return plain(spec.linear(x, w), t)

    exact = Tensor(table.astype(np.float64), requires_grad=True)
    expected = tied(spec.embedding, spec.linear_cross_entropy, exact)
    expected.backward()
    for loss_of_features in (whole, in_two):
        w = Tensor(table, requires_grad=True)
        loss = tied(look_up, loss_of_features, w)
        loss.backward()
        close(loss.data, expected.data, 1e-6)
        close(w.grad.data, exact.grad.data, 1e-5)


def test_a_second_derivative_of_bfloat16_logits():
    """The kernel gives the loss as float32, the specification, which is differentiated, would round it."""
    residuals = ("classes", "tops", "totals", "count")
    loss_of = KernelOp(
        losses.cross_entropy, spec.cross_entropy, supports=losses.supports_cross_entropy, residuals=residuals
    ).vjp(losses.cross_entropy_vjp)
    x, targets = np.random.default_rng(7).standard_normal((3, 8)).astype(BF16), np.array([1, 7, 0])

    def second(x, loss_of):
        x = Tensor(x, requires_grad=True)
        slope = grad(loss_of(x, targets), x, create_graph=True)
        return slope.data, grad((slope * slope).sum(), x).data

    for got, expected in zip(second(x, loss_of), second(x.astype(np.float64), spec.cross_entropy), strict=True):
        assert got.dtype == BF16
        close(got, expected, 2**-7)
