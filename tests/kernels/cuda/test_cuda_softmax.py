"""The masked softmax of attention, run on the CPU, against the specification of attention in float64."""

import math

import numpy as np
import pytest
from emulator import emulated  # noqa: F401
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import tensorlite.formulas as spec
from tensorlite.backend import bfloat16
from tensorlite.kernels.cuda import softmax
from tensorlite.tensor import Tensor

pytestmark = pytest.mark.usefixtures("emulated")
FEW = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
BF16 = bfloat16()


def attention(scores, g, scale, is_causal, mask, keep, p):
    """Weights and the gradient by the scores: attention with the identity as keys and as values."""
    S = scores.shape[-1]
    one = Tensor(np.eye(S))
    q = Tensor(scores.astype(np.float64), requires_grad=True)
    mask = mask if mask is None or mask.dtype == bool else mask.astype(np.float64)
    given_mask = None if mask is None else Tensor(mask)
    out = spec.attention(q, one, one, keep, given_mask, is_causal=is_causal, dropout_p=p, scale=scale)
    out.backward(Tensor(g.astype(np.float64)))
    return out.data, q.grad.data


@FEW
@given(
    shape=st.sampled_from([(2, 3, 4, 4), (1, 2, 5, 9), (1, 1, 9, 5), (2, 1, 1, 40), (1, 2, 3, 600), (0, 2, 3, 3)]),
    dtype=st.sampled_from([np.dtype(np.float32), BF16]),
    is_causal=st.booleans(),
    mask=st.sampled_from([None, "bool", "float32", "bfloat16"]),
    mask_axes=st.sampled_from([(1, 1, 1, 1), (0, 0, 1, 1), (1, 0, 0, 1), (0, 1, 1, 0)]),
    dropout=st.sampled_from([None, 0.3, 1.0]),
    seed=st.integers(0, 2**32 - 1),
)
@example(shape=(2, 3, 4, 4), dtype=np.dtype(np.float32), is_causal=False, mask="bool", mask_axes=(0, 1, 1, 0),
         dropout=None, seed=0)  # fmt: skip
def test_weights_and_their_derivative(shape, dtype, is_causal, mask, mask_axes, dropout, seed):
    rng = np.random.default_rng(seed)
    scores, g = rng.standard_normal((2, *shape)).astype(dtype)
    scale, p = 0.7, dropout or 0.0
    if mask is not None:
        mask_shape = [n if axis else 1 for n, axis in zip(shape, mask_axes, strict=True)]
        some = rng.random(mask_shape) < 0.5
        mask = some if mask == "bool" else np.where(some, rng.standard_normal(mask_shape), -np.inf).astype(mask)
    keep = None if dropout is None else rng.random(shape) < 1 - p
    expected, expected_d = attention(scores, g, scale, is_causal, mask, keep, p)
    if is_causal:  # nobody looks at these
        scores[..., ~np.asarray(spec.causal_mask(scores, *shape[-2:]))] = np.nan
    weights, dropped = softmax.masked_softmax(
        scores, scale=scale, is_causal=is_causal, mask=mask, keep=keep, dropout_p=p
    )
    assert weights is scores
    assert dropped.dtype == dtype
    assert (dropped is weights) == (keep is None)
    eps = 2e-6 if dtype == np.float32 else 2**-7
    np.testing.assert_allclose(dropped.astype(np.float64), expected, rtol=eps, atol=1e-30)
    d = softmax.masked_softmax_vjp(g, weights, scale=scale, keep=keep, dropout_p=p)
    assert d is g
    np.testing.assert_allclose(d.astype(np.float64), expected_d, atol=3 * eps * np.abs(expected_d).max(initial=1e-30))


def test_large_scores_and_rows_without_any():
    scores = np.array([[[[1e30, -1e30, 1e30, 0], [-np.inf] * 4, [np.nan, 0, 0, 0]]]], np.float32)
    weights, _ = softmax.masked_softmax(scores, scale=1 / math.sqrt(2), is_causal=False)
    assert weights[0, 0, 0].tolist() == [0.5, 0, 0.5, 0]
    assert (weights[0, 0, 1] == 0).all()
    assert np.isnan(weights[0, 0, 2]).all()


def test_a_scale_may_be_an_int():
    scores, g = np.random.default_rng(0).standard_normal((2, 1, 1, 3, 4)).astype(np.float32)
    found = []
    for scale in (2, 2.0):
        weights, _ = softmax.masked_softmax(scores.copy(), scale=scale, is_causal=True)
        found.append((weights, softmax.masked_softmax_vjp(g.copy(), weights, scale=scale)))
    np.testing.assert_array_equal(*found)


def test_what_is_refused():
    scores = np.ones((1, 1, 2, 4), np.float32)
    with pytest.raises(TypeError, match="a mask must be bool, float32 or bfloat16, not float64"):
        softmax.masked_softmax(scores, scale=1.0, is_causal=False, mask=np.ones(4))
    with pytest.raises(ValueError, match="contiguous"):
        softmax.masked_softmax(scores[..., ::2], scale=1.0, is_causal=False)
    with pytest.raises(ValueError, match="keep must be bool, contiguous"):
        softmax.masked_softmax(scores, scale=1.0, is_causal=False, keep=np.ones(4, bool))
