"""Attention: the book's numbers, a position-by-position oracle, elementary against fast, causality to the bit."""

import numpy as np
import pytest

import tensorlite as tl
from gpt.attention import (
    CausalAttention,
    ConcatenatedHeads,
    ElementaryMultiHeadAttention,
    MultiHeadAttention,
    SelfAttention,
    simple_attention,
)
from tensorlite import nn, optim
from tensorlite.devices import memory

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
    several, shares = simple_attention(tl.tensor([WORDS, WORDS[::-1]]))  # each text for itself
    np.testing.assert_allclose(several.numpy(), [contexts.numpy(), contexts.numpy()[::-1]], rtol=1e-5)
    np.testing.assert_allclose(shares.numpy(), [weights.numpy(), weights.numpy()[::-1, ::-1]], rtol=1e-5)


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
def test_the_three_projections_have_a_bias_or_not(qkv_bias):
    """A bias of the keys changes no output: all scores of a query get the same number."""
    kinds = ("weight", "bias") if qkv_bias else ("weight",)
    names = {f"{name}.{kind}" for name in ("W_query", "W_key", "W_value") for kind in kinds}
    for layer in (SelfAttention(3, 4, qkv_bias), CausalAttention(3, 4, 5, 0.0, qkv_bias)):
        assert layer.state_dict().keys() == names


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


# ----- elementary and fast -----


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("qkv_bias", "dropout"), [(False, 0.0), (True, 0.0), (True, 0.4)])
def test_elementary_and_fast_attention_are_equal(causal, qkv_bias, dropout, rng):
    """Values and all gradients, also with dropout: both draw the same numbers for the same weights."""
    elementary = ElementaryMultiHeadAttention(6, 8, 7, dropout, 2, qkv_bias, causal)
    fast = MultiHeadAttention(6, 8, 7, dropout, 2, qkv_bias, causal)
    fast.load_state_dict(elementary.state_dict())
    values, g = (tl.tensor(rng.standard_normal((3, 7, n)).astype(np.float32)) for n in (6, 8))
    found = []
    for layer in (elementary, fast):
        x = tl.tensor(values.numpy(), requires_grad=True)
        tl.manual_seed(5)
        out = layer(x)
        out.backward(g)
        found.append([out.numpy(), x.grad.numpy(), *[p.grad.numpy() for p in layer.parameters()]])
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5)


def test_elementary_attention_gives_the_books_numbers():
    tl.manual_seed(123)
    out = ElementaryMultiHeadAttention(3, 2, context_length=6, dropout=0.0, num_heads=2)(tl.tensor([WORDS, WORDS]))
    np.testing.assert_allclose(out.numpy()[:, 0], [[0.3190, 0.4858]] * 2, atol=5e-5)


# ----- causality -----


@pytest.mark.parametrize("kind", ["causal", "heads apart", "elementary", "heads together"])
def test_no_gradient_reaches_a_later_position(kind, rng):
    T = 6
    layer = {
        "causal": CausalAttention(4, 4, T, 0.0),
        "heads apart": ConcatenatedHeads(4, 2, T, 0.0, 2),
        "elementary": ElementaryMultiHeadAttention(4, 4, T, 0.0, 2),
        "heads together": MultiHeadAttention(4, 4, T, 0.0, 2),
    }[kind]
    for t in range(T):
        x = tl.tensor(rng.standard_normal((2, T, 4)).astype(np.float32), requires_grad=True)
        out = layer(x)[:, t]
        out.backward(tl.tensor(rng.standard_normal(out.shape).astype(np.float32)))
        gradient = x.grad.numpy()
        assert not gradient[:, t + 1 :].any()
        assert gradient[:, : t + 1].all()


# ----- what is refused -----


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="num_heads must divide d_out: got num_heads 3 and d_out 8"):
        MultiHeadAttention(8, 8, 4, 0.0, 3)
    for layer in (CausalAttention(4, 4, 4, 0.0), MultiHeadAttention(4, 4, 4, 0.0, 2)):
        for T in (0, 5):
            with pytest.raises(ValueError, match=f"{T} positions does not fit a context_length of 4: give 1 to 4"):
                layer(tl.zeros((1, T, 4)))


# ----- queries, keys and values in one product --------------------------------------------------------------------


def adjacent(attention):
    """The three weights, and the three biases, as one array each without a copy; None where they are not adjacent."""
    parts = attention.W_query, attention.W_key, attention.W_value
    biases = [part.bias.data for part in parts if part.bias is not None]
    return memory.adjacent_view([part.weight.data for part in parts]), memory.adjacent_view(biases) if biases else None


def test_the_three_projections_are_stored_adjacently():
    def holds():
        for joined, kind in zip(adjacent(attention), ("weight", "bias"), strict=True):
            parts = [getattr(part, kind) for part in (attention.W_query, attention.W_key, attention.W_value)]
            assert joined.tolist() == [row for part in parts for row in part.tolist()]
            assert all(np.shares_memory(joined, part.data) for part in parts)
        return True

    tl.manual_seed(3)
    attention = MultiHeadAttention(8, 8, 6, 0.0, 2, qkv_bias=True)
    assert holds()
    attention.W_key.weight.data[...] = 5
    assert holds()
    optim.AdamW(optim.decay_groups(attention.parameters(), 0.1))  # moves the weights, next to each other again
    assert holds()
    optim.AdamW(attention.parameters())  # each bias behind its weight
    assert adjacent(attention) == (None, None)
    attention = MultiHeadAttention(8, 8, 6, 0.0, 2, qkv_bias=True).to(tl.float64)
    assert holds()
    assert adjacent(attention)[0].dtype == tl.float64
    nn.make_adjacent([])


def test_joined_arrays_are_those_that_lie_together():
    file = np.frombuffer(np.arange(40, dtype=np.float32).tobytes(), np.uint8)  # as a file in memory has it
    read = [file[n : n + 64].view(np.float32).reshape(2, 8) for n in (32, 96)]
    assert memory.adjacent_view(read).tolist() == np.arange(8, 40).reshape(4, 8).tolist()
    assert memory.adjacent_view([x[:, ::-1] for x in read]) is None
    columns = np.zeros((8, 4), np.float32, order="F")
    assert memory.adjacent_view([columns[:, 0], columns[:, 1]]) is None
    assert memory.adjacent_view([np.zeros((2, 3), np.float32) for _ in range(2)]) is None
    assert memory.adjacent_view([]) is None
