"""Attention: the book's numbers, a position-by-position oracle, causality to the bit, and the cache."""

import numpy as np
import pytest

import tensorlite as tl
from gpt.attention import (
    CausalAttention,
    ConcatenatedHeads,
    KVCache,
    MultiHeadAttention,
    SelfAttention,
    simple_attention,
    together,
)
from tensorlite import backend, nn, optim

# The six words of the book's chapter 3.
WORDS = [
    [0.43, 0.15, 0.89],
    [0.55, 0.87, 0.66],
    [0.57, 0.85, 0.64],
    [0.22, 0.58, 0.33],
    [0.77, 0.25, 0.10],
    [0.05, 0.80, 0.55],
]


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def softmax(scores):
    e = np.exp(scores - scores.max())
    return e / e.sum()


def one_head(x, Wq, Wk, Wv, causal, keep=None):
    """Attention of one text (T, C), one position at a time; `keep` (T, T) multiplies the weights."""
    q, k, v = x @ Wq.T, x @ Wk.T, x @ Wv.T
    rows = []
    for t in range(len(x)):
        seen = t + 1 if causal else len(x)
        weights = softmax(np.array([q[t] @ k[s] for s in range(seen)]) / np.sqrt(k.shape[-1]))
        weights = weights if keep is None else weights * keep[t, :seen]
        rows.append(sum(w * v[s] for s, w in enumerate(weights)))
    return np.array(rows)


def projections(layer):
    return [w.weight.numpy().astype(np.float64) for w in (layer.W_query, layer.W_key, layer.W_value)]


# ----- the book's numbers -----


def test_by_hand_numbers_of_the_book():
    x = tl.tensor(WORDS)
    contexts, weights = simple_attention(x)
    np.testing.assert_allclose((x @ x.T)[1].numpy(), [0.9544, 1.4950, 1.4754, 0.8434, 0.7070, 1.0865], atol=5e-5)
    np.testing.assert_allclose(weights[1].numpy(), [0.1385, 0.2379, 0.2333, 0.1240, 0.1082, 0.1581], atol=5e-5)
    np.testing.assert_allclose(contexts[1].numpy(), [0.4419, 0.6515, 0.5683], atol=5e-5)


def test_seed_123_numbers_of_the_book():
    batch = tl.tensor([WORDS, WORDS])
    tl.manual_seed(123)
    out = MultiHeadAttention(3, 2, context_length=6, dropout=0.0, num_heads=2)(batch)
    assert out.shape == (2, 6, 2)
    for text in out.numpy():
        np.testing.assert_allclose(text[[0, 5]], [[0.3190, 0.4858], [0.2575, 0.4028]], atol=5e-5)


# ----- against an oracle -----


@pytest.mark.parametrize("causal", [False, True])
def test_one_head_is_what_it_says(causal, rng):
    x = rng.standard_normal((2, 5, 3)).astype(np.float32)
    layer = CausalAttention(3, 4, 5, 0.0) if causal else SelfAttention(3, 4)
    expected = [one_head(text, *projections(layer), causal) for text in x]
    np.testing.assert_allclose(layer(tl.tensor(x)).numpy(), expected, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("qkv_bias", [False, True])
def test_all_heads_together_are_the_heads_apart(qkv_bias, rng):
    H, D = 3, 4
    x = tl.tensor(rng.standard_normal((2, 7, 5)).astype(np.float32))
    together = MultiHeadAttention(5, H * D, 7, 0.0, H, qkv_bias)
    apart = ConcatenatedHeads(5, D, 7, 0.0, H, qkv_bias)
    for h, head in enumerate(apart.heads):
        for name in ("W_query", "W_key", "W_value"):
            own, all_ = getattr(head, name), getattr(together, name)
            own.weight.data[...] = all_.weight.data[h * D : (h + 1) * D]
            if qkv_bias:
                own.bias.data[...] = all_.bias.data[h * D : (h + 1) * D]
    expected = together.out_proj(apart(x))
    np.testing.assert_allclose(together(x).numpy(), expected.numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", [CausalAttention, MultiHeadAttention])
def test_dropout_is_on_the_weights_in_training_alone(kind, rng):
    x = rng.standard_normal((1, 6, 4)).astype(np.float32)
    layer = kind(4, 4, 6, 0.5, 1) if kind is MultiHeadAttention else kind(4, 4, 6, 0.5)
    keep = tl.Generator(5).bernoulli_keep(0.5, (1, 6, 6))[0] * 2.0
    expected = one_head(x[0], *projections(layer), True, keep)
    if kind is MultiHeadAttention:
        expected = expected @ layer.out_proj.weight.numpy().T + layer.out_proj.bias.numpy()
    tl.manual_seed(5)
    np.testing.assert_allclose(layer(tl.tensor(x)).numpy()[0], expected, rtol=1e-4, atol=1e-6)
    layer.eval()
    assert np.array_equal(layer(tl.tensor(x)).numpy(), layer(tl.tensor(x)).numpy())


# ----- causality -----


@pytest.mark.parametrize("kind", ["causal", "heads apart", "heads together"])
def test_no_gradient_reaches_a_later_position(kind, rng):
    T = 6
    layer = {
        "causal": CausalAttention(4, 4, T, 0.0),
        "heads apart": ConcatenatedHeads(4, 2, T, 0.0, 2),
        "heads together": MultiHeadAttention(4, 4, T, 0.0, 2),
    }[kind]
    for t in range(T):
        x = tl.tensor(rng.standard_normal((2, T, 4)).astype(np.float32), requires_grad=True)
        out = layer(x)[:, t]
        out.backward(tl.tensor(rng.standard_normal(out.shape).astype(np.float32)))
        gradient = x.grad.numpy()
        assert not gradient[:, t + 1 :].any()
        assert gradient[:, : t + 1].all()


# ----- the cache -----


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
    cache.extend(tl.zeros((1, 2, 2, 4)), tl.zeros((1, 2, 2, 4)))
    memory = cache.keys.data
    for _ in range(3):
        k = tl.tensor(rng.standard_normal((1, 2, 2, 4)).astype(np.float32))
        keys, values, _ = cache.extend(k, k)
        assert np.shares_memory(keys.data, memory)
        assert np.shares_memory(values.data, cache.values.data)
        np.testing.assert_array_equal(keys.numpy()[:, :, -2:], k.numpy())
    assert cache.keys.data is memory


# ----- what is refused -----


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="num_heads must divide d_out: got num_heads 3 and d_out 8"):
        MultiHeadAttention(8, 8, 4, 0.0, 3)
    for layer in (CausalAttention(4, 4, 4, 0.0), MultiHeadAttention(4, 4, 4, 0.0, 2)):
        for T in (0, 5):
            with pytest.raises(ValueError, match=f"{T} positions does not fit a context_length of 4: give 1 to 4"):
                layer(tl.zeros((1, T, 4)))


def test_a_cache_refuses_what_it_has_no_room_for_and_gradients():
    cache, k = KVCache(1, 1, 2, 4), tl.ones((1, 1, 3, 4))
    with pytest.raises(ValueError, match="no room for position 2: it was made for 2 positions"):
        cache.extend(k, k)
    learned = tl.ones((1, 1, 1, 4), requires_grad=True)
    with pytest.raises(RuntimeError, match="no gradient flows through a cache"):
        cache.extend(learned, learned)


# ----- queries, keys and values in one product --------------------------------------------------------------------


def test_the_three_projections_are_read_as_one_where_they_lie_together():
    def sees_all():
        weight, bias = attention.projection()
        for joined, kind in ((weight, "weight"), (bias, "bias")):
            parts = [getattr(part, kind) for part in (attention.W_query, attention.W_key, attention.W_value)]
            assert joined.tolist() == [row for part in parts for row in part.tolist()]
            assert all(np.shares_memory(joined.data, part.data) for part in parts)  # no copy: never out of date
        return True

    tl.manual_seed(3)
    attention = MultiHeadAttention(8, 8, 6, 0.0, 2, qkv_bias=True)
    assert sees_all()
    attention.W_key.weight.data[...] = 5
    assert sees_all()
    optim.AdamW(optim.decay_groups(attention.parameters(), 0.1))  # moves the weights, next to each other again
    assert sees_all()
    optim.AdamW(attention.parameters())  # each bias behind its weight
    assert attention.projection() is None
    attention = MultiHeadAttention(8, 8, 6, 0.0, 2, qkv_bias=True).to(tl.float64)
    assert sees_all()
    assert attention.projection()[0].dtype == tl.float64
    file = np.frombuffer(np.arange(40, dtype=np.float32).tobytes(), np.uint8)  # as a file in memory has it
    read = [file[n : n + 64].view(np.float32).reshape(2, 8) for n in (32, 96)]
    assert backend.joined(read).tolist() == np.arange(8, 40).reshape(4, 8).tolist()
    assert backend.joined([x[:, ::-1] for x in read]) is None
    columns = np.zeros((8, 4), np.float32, order="F")
    assert backend.joined([columns[:, 0], columns[:, 1]]) is None
    neighbours = [nn.Parameter(np.zeros((2, 3), np.float32)) for _ in range(2)]
    assert together(neighbours) is None
    assert together([]) is None


def test_a_cache_gives_the_same_with_and_without_the_joined_projection():
    tl.manual_seed(4)
    attention, x = MultiHeadAttention(8, 8, 6, 0.0, 2, qkv_bias=True), tl.randn(3, 6, 8)
    with tl.no_grad():
        whole = attention(x)
        for projection in (attention.projection(), None):
            cache = KVCache(3, 2, 6, 4, projection=projection)
            steps = [attention(x[:, at : at + n], cache) for at, n in ((0, 3), (3, 1), (4, 2))]
            np.testing.assert_allclose(tl.concatenate(steps, axis=1).data, whole.data, rtol=1e-5, atol=1e-6)
    with pytest.raises(RuntimeError, match="no gradient flows through a cache"):
        attention(x, KVCache(3, 2, 6, 4, projection=attention.projection()))
