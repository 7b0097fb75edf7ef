"""The model: the book's counts and numbers, causality to the bit, the two initialisations, and what it refuses."""

import math
from dataclasses import replace

import numpy as np
import pytest

import tensorlite as tl
from gpt.config import PRESETS, GPTConfig
from gpt.generation import generate
from gpt.model import GPT, Block, FeedForward, parameter_table

TINY = GPTConfig(vocab_size=11, context_length=8, n_layer=2, n_head=2, n_embd=8, qkv_bias=True)


def ids(*shape, seed=0, vocab_size=11):
    return tl.tensor(np.random.default_rng(seed).integers(0, vocab_size, shape))


def size(config):
    return {part.name: part for part in parameter_table(config)}


# ----- how large it is -----


def test_parameters_of_the_book_and_of_openai():
    book = PRESETS["book-124m"]
    table = size(book)
    assert table["total"].parameters == 163_009_536
    assert table["total"].parameters - table["head"].parameters == 124_412_160
    assert table["total"].bytes / 2**20 == pytest.approx(621.83, abs=0.005)
    assert table["attention"].parameters == 12 * 2_360_064
    assert table["feed-forward"].parameters == 12 * 4_722_432
    xl = size(replace(book, n_layer=48, n_head=25, n_embd=1600))
    assert xl["total"].parameters == 1_637_792_000
    assert xl["total"].parameters - xl["head"].parameters == 1_557_380_800
    assert xl["total"].bytes / 2**20 == pytest.approx(6247.68, abs=0.005)
    assert size(PRESETS["gpt2"])["total"].parameters == 124_439_808
    assert size(PRESETS["gpt2"])["total"].bytes == 497_759_232


@pytest.mark.parametrize("tie_head", [False, True])
@pytest.mark.parametrize("qkv_bias", [False, True])
def test_the_table_counts_what_a_model_has(tie_head, qkv_bias):
    config = replace(TINY, n_layer=3, tie_head=tie_head, qkv_bias=qkv_bias)
    *parts, total = parameter_table(config)
    assert total.parameters == GPT(config).num_parameters() == sum(part.parameters for part in parts)
    assert total.flops == sum(part.flops for part in parts)
    assert sum(part.share for part in parts) == pytest.approx(1)


def test_flops_are_nanogpts_formula():
    """6 N + 12 L H Q T, N all parameters but the position embedding: https://github.com/karpathy/nanoGPT, model.py."""
    for name in ("gpt2", "gpt2-medium", "gpt2-xl"):  # tied, as nanoGPT's are
        c, table = PRESETS[name], size(PRESETS[name])
        N = table["total"].parameters - table["position embedding"].parameters
        expected = 6 * N + 12 * c.n_layer * c.n_head * (c.n_embd // c.n_head) * c.context_length
        assert table["total"].flops == expected


# ----- what it computes -----


def test_forward_gives_logits_and_their_mean_cross_entropy():
    model, x, y = GPT(TINY), ids(3, 5), ids(3, 5, seed=1)
    logits, nothing = model(x)
    assert logits.shape == (3, 5, 11)
    assert nothing is None
    again, loss = model(x, y)
    np.testing.assert_array_equal(again.numpy(), logits.numpy())
    z = logits.numpy().astype(np.float64).reshape(15, 11)
    expected = np.mean(np.log(np.exp(z).sum(axis=1)) - z[np.arange(15), y.numpy().reshape(-1)])
    assert loss.item() == pytest.approx(expected, rel=1e-6)


def test_targets_of_minus_100_do_not_count():
    model, x, y = GPT(TINY), ids(2, 4), ids(2, 4, seed=1)
    partly = y.numpy().copy()
    partly[1] = -100
    assert model(x, tl.tensor(partly))[1].item() == pytest.approx(model(x[:1], y[:1])[1].item(), rel=1e-6)


def test_no_gradient_reaches_a_later_position():
    """Position embeddings make the inputs of each position visible: those after t get a gradient of exactly 0."""
    model, x = GPT(TINY), ids(2, 8)
    for t in range(8):
        model.zero_grad()
        out = model(x)[0][:, t]
        out.backward(tl.tensor(np.random.default_rng(t).standard_normal(out.shape).astype(np.float32)))
        gradient = model.position_embedding.weight.grad.numpy()
        assert not gradient[t + 1 :].any()
        assert gradient[: t + 1].any(axis=1).all()


def test_a_row_does_not_depend_on_its_batch():
    model, x = GPT(TINY), ids(5, 6)
    together = model(x)[0].numpy()
    for row in range(5):
        np.testing.assert_allclose(model(x[row : row + 1])[0].numpy()[0], together[row], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("tie_head", [False, True])
def test_the_gradient_of_every_parameter_is_the_slope_of_the_loss(tie_head):
    """In float64 that of central differences along a direction, with the same dropout; in float32 the same numbers."""
    model, random = GPT(replace(TINY, tie_head=tie_head).with_dropout(0.1)), np.random.default_rng(0)

    def loss():
        tl.manual_seed(5)
        return model(ids(2, 8), ids(2, 8, seed=1))[1]

    loss().backward()
    narrow = {name: p.grad for name, p in model.named_parameters()}
    model.to(tl.float64).zero_grad()
    loss().backward()
    for name, p in model.named_parameters():
        assert narrow[name].dtype == tl.float32
        np.testing.assert_allclose(narrow[name].numpy(), p.grad.numpy(), rtol=1e-3, atol=1e-5, err_msg=name)
        was, direction, around = p.data.copy(), random.standard_normal(p.shape), []
        for distance in (1e-6, -1e-6):
            p.data[...] = was + distance * direction
            around.append(loss().item())
        p.data[...] = was
        slope = (around[0] - around[1]) / 2e-6
        assert (p.grad.numpy() * direction).sum() == pytest.approx(slope, rel=1e-5, abs=1e-7), name


@pytest.mark.parametrize("field", ["embedding_dropout", "attention_dropout", "residual_dropout"])
def test_each_dropout_acts_in_training_alone(field):
    tl.manual_seed(0)
    plain = GPT(TINY)
    tl.manual_seed(0)
    model, x = GPT(replace(TINY, **{field: 0.5})), ids(2, 8)
    expected = plain(x)[0].numpy()
    assert not np.allclose(model(x)[0].numpy(), expected)
    model.eval()
    np.testing.assert_array_equal(model(x)[0].numpy(), expected)


@pytest.mark.parametrize("silent", ["attention.out_proj", "feed_forward.contract"])
def test_residual_dropout_is_on_each_of_the_two_terms(silent):
    """With one of the two terms silenced, the other is what a block adds: dropped, or doubled to make up for it."""
    block = Block(replace(TINY, residual_dropout=0.5))
    for name, parameter in block.named_parameters():
        if name.startswith(silent):
            parameter.data[...] = 0
    x = tl.tensor(np.random.default_rng(0).standard_normal((4, 8, 8)).astype(np.float32))
    dropped = (block(x) - x).numpy()
    block.eval()
    added = (block(x) - x).numpy()
    kept = dropped != 0
    assert 0.3 < kept.mean() < 0.7
    np.testing.assert_allclose(dropped[kept], 2 * added[kept], rtol=1e-4, atol=1e-6)


def test_a_tied_head_is_the_token_embedding():
    model = GPT(TINY)
    assert not [name for name, _ in model.named_parameters() if "head" in name]
    model.token_embedding.weight.data[7] = 0
    np.testing.assert_array_equal(model(ids(1, 3))[0].numpy()[..., 7], 0)


def test_names_are_readable():
    names = [name for name, _ in GPT(replace(TINY, n_layer=1, tie_head=False, qkv_bias=False)).named_parameters()]
    assert names == [
        "token_embedding.weight",
        "position_embedding.weight",
        "blocks.0.norm1.weight",
        "blocks.0.norm1.bias",
        "blocks.0.attention.W_query.weight",
        "blocks.0.attention.W_key.weight",
        "blocks.0.attention.W_value.weight",
        "blocks.0.attention.out_proj.weight",
        "blocks.0.attention.out_proj.bias",
        "blocks.0.norm2.weight",
        "blocks.0.norm2.bias",
        "blocks.0.feed_forward.expand.weight",
        "blocks.0.feed_forward.expand.bias",
        "blocks.0.feed_forward.contract.weight",
        "blocks.0.feed_forward.contract.bias",
        "final_norm.weight",
        "final_norm.bias",
        "head.weight",
    ]


# ----- how it begins -----


def test_gpt2s_initialisation():
    tl.manual_seed(0)
    model = GPT(replace(TINY, vocab_size=500, context_length=100, n_embd=96, n_layer=8, tie_head=False))
    for name, parameter in model.named_parameters():
        values = parameter.numpy()
        if "norm" in name:
            assert (values == (1 if name.endswith("weight") else 0)).all(), name
        elif name.endswith("bias"):
            assert not values.any(), name
        else:
            std = 0.02 / 4 if "out_proj" in name or "contract" in name else 0.02  # 4 = sqrt(2 * 8 layers)
            assert values.std() == pytest.approx(std, rel=0.05), name
            assert abs(values.mean()) < 0.05 * std, name


def test_an_untrained_gpt2_knows_nothing():
    """Its loss is that of a uniform guess, log V: logits start near 0."""
    tl.manual_seed(0)
    loss = GPT(replace(TINY, vocab_size=500, n_embd=64))(ids(4, 8, vocab_size=500), ids(4, 8, seed=1, vocab_size=500))[
        1
    ]
    assert loss.item() == pytest.approx(math.log(500), abs=0.1)


@pytest.mark.parametrize("init", ["torch", "gpt2"])
def test_the_seed_decides_the_weights(init):
    def weights(seed):
        tl.manual_seed(seed)
        return [p.numpy().copy() for p in GPT(replace(TINY, init=init)).parameters()]

    for a, b in zip(weights(1), weights(1), strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(weights(1)[0], weights(2)[0])


def test_position_embeddings_begin_as_small_as_the_config_says():
    def weights(**changes):
        tl.manual_seed(1)
        return dict(GPT(replace(TINY, init="torch", **changes)).named_parameters())

    usual, small, none = weights(), weights(position_std=0.1), weights(position_std=0.0)
    for name, p in small.items():
        expected = usual[name].numpy() * (np.float32(0.1) if name == "position_embedding.weight" else 1)
        np.testing.assert_array_equal(p.numpy(), expected)
    assert not none["position_embedding.weight"].numpy().any()


@pytest.mark.slow
def test_the_books_124m_model():
    """The book's chapters 4 and 5, seed 123: the greedy continuation of "Hello, I am", and the loss before training."""
    tl.manual_seed(123)
    model = GPT(PRESETS["book-124m"])
    assert model.num_parameters() == 163_009_536
    model.eval()
    new = generate(model, [[15496, 11, 314, 716]], 10)
    assert new == [[27018, 24086, 47843, 30961, 42348, 7267, 49706, 43231, 47062, 34657]]
    del model
    tl.manual_seed(123)
    model = GPT(replace(PRESETS["book-124m"], context_length=256))
    model.eval()
    inputs = tl.tensor([[16833, 3626, 6100], [40, 1107, 588]])  # "every effort moves", "I really like"
    targets = tl.tensor([[3626, 6100, 345], [1107, 588, 11311]])  # " effort moves you", " really like chocolate"
    with tl.no_grad():
        loss = model(inputs, targets)[1].item()
    assert loss == pytest.approx(10.7940, abs=5e-5)
    assert math.exp(loss) == pytest.approx(48725.82, rel=1e-5)


# ----- what it refuses -----


def test_what_does_not_fit_is_refused():
    model = GPT(TINY)
    for T in (0, 9):
        with pytest.raises(ValueError, match=f"{T} positions does not fit a context_length of 8"):
            model(tl.zeros((1, T), dtype=tl.int64))
    cache = model.new_cache(2)
    for layer in cache:
        layer.lengths = [7, 2]  # the longer one has no room
    with tl.no_grad(), pytest.raises(ValueError, match="9 positions does not fit a context_length of 8"):
        model.hidden_states(tl.zeros((2, 2), dtype=tl.int64), cache)
    with pytest.raises(ValueError, match=r"shape \(B, T\), got \(4,\)"):
        model(ids(4))
    with pytest.raises(IndexError, match="index 11 is out of range"):
        model(tl.tensor([[3, 11]]))
    with pytest.raises(IndexError, match="index -1 is out of range"):
        model(tl.tensor([[3, -1]]))
    with pytest.raises(TypeError, match="must be integers"):
        model(tl.zeros((1, 4)))
    with pytest.raises(IndexError, match="index 11 is out of range"):
        model(ids(1, 2), tl.tensor([[3, 11]]))
    with pytest.raises(ValueError, match=r"\(1, 3\)"):
        model(ids(1, 2), ids(1, 3))


def test_feed_forward_is_four_times_as_wide_inside_and_sees_one_position():
    layer = FeedForward(6)
    assert layer.expand.weight.shape == (24, 6)
    x = tl.tensor(np.random.default_rng(0).standard_normal((2, 3, 6)).astype(np.float32))
    np.testing.assert_allclose(layer(x).numpy()[:, 1], layer(x[:, 1]).numpy(), rtol=1e-5, atol=1e-6)
