"""The KV cache: reading in pieces is reading at once, texts of different lengths, memory, and what it refuses."""

import numpy as np
import pytest

import tensorlite as tl
from gpt.attention import MultiHeadAttention
from gpt.kv_cache import KVCache


@pytest.fixture
def rng():
    return np.random.default_rng(7)


@pytest.mark.parametrize("pieces", [[7], [1] * 7, [3, 1, 1, 2], [1, 5, 1]])
def test_reading_in_pieces_through_a_cache_is_reading_at_once(pieces, rng):
    layer = MultiHeadAttention(4, 8, 7, 0.0, 2, qkv_bias=True)
    x = tl.tensor(rng.standard_normal((3, 7, 4)).astype(np.float32))
    cache = KVCache(3, 2, 7, 4)
    with tl.no_grad():
        read = [layer(part, cache) for part in x.split(list(np.cumsum(pieces)[:-1]), axis=1)]
        np.testing.assert_allclose(tl.concatenate(read, axis=1).numpy(), layer(x).numpy(), rtol=1e-5, atol=1e-6)
    assert cache.lengths == [7, 7, 7]


def test_rows_of_different_lengths_share_a_cache(rng):
    layer = MultiHeadAttention(4, 8, 9, 0.0, 2)
    lengths, more = [2, 5, 3], 3
    x = rng.standard_normal((3, 9, 4)).astype(np.float32)
    cache = KVCache(3, 2, 9, 4)
    with tl.no_grad():
        first = np.where(np.arange(5)[:, None] < np.array(lengths)[:, None, None], x[:, :5], 99.0)  # 99: padding
        layer(tl.tensor(first.astype(np.float32)), cache)
        cache.lengths = lengths
        follow = np.stack([x[row, n : n + more] for row, n in enumerate(lengths)])
        out = layer(tl.tensor(follow), cache).numpy()
        for row, n in enumerate(lengths):
            alone = layer(tl.tensor(x[row : row + 1, : n + more])).numpy()[0, n:]
            np.testing.assert_allclose(out[row], alone, rtol=1e-5, atol=1e-6)
    assert cache.lengths == [n + more for n in lengths]


def test_a_cache_is_written_in_place_and_hands_out_views(rng):
    cache = KVCache(1, 2, 8, 4)
    cache.append(np.zeros((1, 2, 2, 4)), np.zeros((1, 2, 2, 4)))
    memory = cache.keys.data
    for _ in range(3):
        k = rng.standard_normal((1, 2, 2, 4))
        keys, values = cache.append(k, k)
        assert np.shares_memory(keys, memory)
        assert np.shares_memory(values, cache.values.data)
        np.testing.assert_array_equal(keys[:, :, -2:], k)
    assert cache.keys.data is memory


def test_the_mask_and_the_next_positions_of_unequal_texts():
    cache = KVCache(2, 1, 5, 4)
    assert cache.mask(2, "cpu") is None
    assert cache.next_positions(2, "cpu").tolist() == [0, 1]
    cache.lengths = [1, 3]
    assert cache.next_positions(2, "cpu").tolist() == [[1, 2], [3, 4]]
    mask = cache.mask(2, "cpu")
    assert mask.shape == (2, 1, 2, 5)
    assert mask.astype(int).tolist() == [
        [[[1, 1, 0, 0, 0], [1, 1, 1, 0, 0]]],
        [[[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]],
    ]


def test_a_cache_refuses_what_it_has_no_room_for_and_gradients():
    cache, k = KVCache(1, 1, 2, 4), np.ones((1, 1, 3, 4))
    with pytest.raises(ValueError, match="position 2 does not fit: the cache was made for 2 positions"):
        cache.append(k, k)
    with pytest.raises(RuntimeError, match="no gradient flows through a cache"):
        MultiHeadAttention(4, 4, 2, 0.0, 1)(tl.ones((1, 1, 4)), cache)
    assert cache.lengths == [0]
