"""The counter-based stream, run on the CPU, against the published answers."""

import ml_dtypes
import numpy as np
import pytest
from emulator import emulated  # noqa: F401

from tensorlite.kernels.cuda import philox

pytestmark = pytest.mark.usefixtures("emulated")


def test_published_answers():
    """Those for philox4x32 with 10 rounds in kat_vectors of Random123, the authors' library."""
    pi = 0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344, 0xA4093822, 0x299F31D0
    counters = np.array([[0] * 4, [0xFFFFFFFF] * 4, pi[:4]], np.uint32)
    keys = np.array([[0] * 2, [0xFFFFFFFF] * 2, pi[4:]], np.uint32)
    expected = [
        [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8],
        [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD],
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ]
    assert philox.philox_of(counters, keys).tolist() == expected


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 1023, 1024, 1025])
def test_a_mask_is_the_stream_from_the_counter_on(size):
    seed, counter, p = 2**63 + 12345, 2**32 - 3, 0.3  # the counter crosses 32 bits
    state = np.array([seed, counter], np.uint64)
    keep = philox.keep_mask(state, p, (size,))
    N = -(-size // 4)
    assert state.tolist() == [seed, counter + N]
    places = counter + np.arange(N, dtype=np.uint64)
    counters = np.zeros((N, 4), np.uint32)
    counters[:, 0], counters[:, 1] = places & np.uint64(0xFFFFFFFF), places >> np.uint64(32)
    keys = np.tile(np.array([[seed & 0xFFFFFFFF, seed >> 32]], np.uint32), (N, 1))
    draws = philox.philox_of(counters, keys).reshape(-1)[:size]
    assert (keep == (draws < 0.7 * 2**32)).all()


def test_masks_follow_each_other():
    state = np.array([7, 0], np.uint64)
    first, second = philox.keep_mask(state, 0.5, (2, 6)), philox.keep_mask(state, 0.5, (3, 4, 1))
    assert second.shape == (3, 4, 1)
    state[1] = 0
    both = philox.keep_mask(state, 0.5, (24,))
    assert both.tolist() == [*first.reshape(-1).tolist(), *second.reshape(-1).tolist()]
    assert 0 < both.sum() < 24


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_how_many_are_kept(p):
    n = 40_000
    keep = philox.keep_mask(np.array([3, 0], np.uint64), p, (n,))
    assert abs(keep.mean() - (1 - p)) < 5 * (p * (1 - p) / n) ** 0.5


def test_what_is_known_takes_nothing():
    state = np.array([7, 5], np.uint64)
    assert philox.keep_mask(state, 0.0, (2, 3)).tolist() == [[True] * 3] * 2
    assert philox.keep_mask(state, 1.0, (4,)).tolist() == [False] * 4
    assert philox.keep_mask(state, 0.5, (0, 3)).shape == (0, 3)
    assert state.tolist() == [7, 5]
    for p in (-0.1, 1.1):
        with pytest.raises(ValueError, match="from 0 to 1"):
            philox.keep_mask(state, p, (2,))


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
@pytest.mark.parametrize("p", [0.0, 0.3, 0.75, 1.0])
@pytest.mark.parametrize(("shape", "start"), [((1,), 0), ((3, 7), 0), ((5, 16), 0), ((4096,), 0), ((2560,), 1)])
def test_kept_elements_are_divided_by_their_share_and_the_others_are_0(dtype, p, shape, start):
    """In vectors of 16 bytes, or one by one where size or memory do not allow these (an odd start)."""
    rng = np.random.default_rng(5)
    size = int(np.prod(shape))
    x = rng.normal(size=start + size).astype(dtype)[start:].reshape(shape)
    keep = (rng.random(start + size) < 0.5)[start:].reshape(shape)
    out = philox.apply_dropout_mask(x, keep, p=p)
    gain = 1 / (1 - p) if p < 1 else 0.0
    expected = np.where(keep, x.astype(np.float64) * gain, 0.0)
    assert (out.dtype, out.shape) == (x.dtype, shape)
    tolerance = 2.0**-8 if dtype != np.float32 else 2.0**-22
    np.testing.assert_allclose(out.astype(np.float64), expected, rtol=tolerance, atol=0)
    assert (out[~keep] == 0).all()
    np.testing.assert_array_equal(philox.apply_dropout_mask_vjp(x, (True, False), keep, p)[0], out)


@pytest.mark.parametrize("n", [0, 1])
def test_a_kept_nan_stays_and_a_dropped_one_does_not(n):
    x, keep = np.full(8 + n, np.nan, np.float32), np.arange(8 + n) % 2 == 0
    assert np.isnan(philox.apply_dropout_mask(x, keep, p=0.5)).tolist() == keep.tolist()


def test_which_arrays_the_dropout_kernel_serves(monkeypatch):
    def served(shape, dtype, mask_shape):
        return philox.supports_apply_dropout_mask(np.ones(shape, dtype), np.ones(mask_shape, bool), p=0.5)

    assert all(served((2, 3), dtype, (2, 3)) for dtype in (np.float32, ml_dtypes.bfloat16))
    assert not any(served((2, 3), dtype, (2, 3)) for dtype in (np.float64, np.float16, np.int32))
    assert not served((2, 3), np.float32, (3,))
    assert not served((), np.float32, ())
    monkeypatch.setattr(philox, "on_gpu", lambda x: type(x) is np.ndarray and x.dtype != bool)
    assert not served((2, 3), np.float32, (2, 3))  # the mask is on the CPU
