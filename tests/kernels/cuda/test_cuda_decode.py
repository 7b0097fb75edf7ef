"""The GPU's attention over a cache, its kernel run on the CPU: the numbers of the specification, token by token."""

import ml_dtypes
import numpy as np
import pytest
from emulator import emulated  # noqa: F401

import tensorlite as tl
from tensorlite import formulas
from tensorlite import functional as F
from tensorlite.kernels.cuda import decode

pytestmark = pytest.mark.usefixtures("emulated")


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("B", "H", "P", "D"),
    [(1, 1, 1, 1), (2, 3, 40, 64), (3, 2, 1030, 8), (1, 2, 9, 5), (2, 1, 7, 300), (1, 2, 70, 80), (1, 1, 35, 1024),
     (11, 12, 33, 16)],
)  # fmt: skip
@pytest.mark.parametrize("joined", [True, False], ids=["joined", "apart"])
def test_each_text_sees_its_own_past_and_itself(monkeypatch, dtype, B, H, P, D, joined):
    rng = np.random.default_rng([B, H, P, D, joined])
    cache = rng.standard_normal((2, B, H, P, D)).astype(dtype)
    places = rng.integers(0, P, B)
    places[0] = P - 1
    if joined:  # as one product makes them: (B, 1, 3 H D)
        made = rng.standard_normal((B, 1, 3 * H * D)).astype(dtype)
        q, k, v = made.reshape(B, 1, 3, H, D).transpose(2, 0, 3, 1, 4)  # (3, B, H, 1, D)
        monkeypatch.setattr(np, "ascontiguousarray", None)  # they are read where they lie
    else:
        q, k, v = rng.standard_normal((3, B, H, 1, D)).astype(dtype)
    before = cache.copy()
    out = decode.attend(q, k, v, *cache, places, 0.3)
    for b, p in enumerate(places):
        for kept, new, old in zip(cache, (k, v), before, strict=True):
            np.testing.assert_array_equal(kept[b, :, p], new[b, :, 0])
            np.testing.assert_array_equal(np.delete(kept[b], p, 1), np.delete(old[b], p, 1))
        keys, values = (x[b, :, : p + 1].astype(np.float64) for x in cache)
        exact = formulas.attention(q[b].astype(np.float64), keys, values, scale=0.3)
        assert out.dtype == dtype
        # half a unit of the result; and the scores, sums of D products, are rounded before exp makes that relative
        score = 0.3 * (np.abs(q[b].astype(np.float64)) @ np.abs(keys).swapaxes(-1, -2)).max()
        unit = 2.0**-24 if dtype is np.float32 else 2.0**-8
        allowed = unit * np.abs(exact) + 2.0**-23 * (score + 8) * np.abs(values).max()
        assert (np.abs(out[b].astype(np.float64) - exact) <= allowed).all()


def test_scores_far_below_0():
    keys, values = np.full((1, 1, 6, 8), -30, np.float32), np.arange(48, dtype=np.float32).reshape(1, 1, 6, 8)
    q = np.full((1, 1, 1, 8), 30, np.float32)
    out = decode.attend(q, -q, q, keys, values, np.array([5]), 1.0)  # all scores are -7200
    np.testing.assert_allclose(out, values.mean(axis=2, keepdims=True), rtol=1e-6)


def test_a_place_that_is_not_there_gives_nan_and_writes_nothing():
    cache, (q, k, v) = np.ones((2, 2, 1, 4, 8), np.float32), np.ones((3, 2, 1, 1, 8), np.float32) * 5
    out = decode.attend(q, k, v, *cache, np.array([4, -1]), 1.0)
    assert np.isnan(out).all()
    assert (cache == 1).all()


def test_what_it_serves():
    q, keys = np.ones((2, 3, 1, 8), np.float32), np.ones((2, 3, 9, 8), np.float32)
    assert decode.supports(q, keys)
    assert not decode.supports(q.astype(np.float64), keys.astype(np.float64))
    assert not decode.supports(np.ones((2, 3, 2, 8), np.float32), keys)
    assert not decode.supports(q, keys.swapaxes(0, 1))
    assert not decode.supports(q, np.ones((1, 1, decode.PLACES + 1, 8), np.float32))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("shape", [(1, 5000), (3, 1), (2, 3, 33), (7,), (0, 4)], ids=str)
def test_argmax_is_numpys_with_ties_infinities_and_nan(dtype, shape):
    rng = np.random.default_rng(shape)
    for palette in ([1.0, -2.0], [-np.inf], [-np.inf, 3.0, np.inf], [np.nan, 1.0, np.inf], [np.nan], None):
        x = rng.standard_normal(shape) if palette is None else rng.choice(palette, shape)
        x = x.astype(dtype)
        assert decode.supports_argmax(x)
        found = decode.argmax(x)
        assert found.dtype == np.int64
        np.testing.assert_array_equal(found, x.astype(np.float32).argmax(axis=-1))


def test_argmax_of_what_it_does_not_serve():
    assert not decode.supports_argmax(np.ones((2, 0), np.float32))
    assert not decode.supports_argmax(np.ones((), np.float32))
    assert not decode.supports_argmax(np.ones((2, 3)))
    x = tl.tensor([[1.0, 3.0, 3.0], [0.0, -1.0, -2.0]], dtype="float64")
    for given in (x, x.astype("float32")):
        assert F.argmax(given).tolist() == [1, 0]
        assert np.asarray(F.argmax(given.data)).tolist() == [1, 0]
